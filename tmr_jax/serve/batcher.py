"""A batcher: one thread that processes a bounded queue, so that the event loop never waits.

In: items, from coroutines. Out: the results of the batcher's function, which gets several items at
once where more than one waits. A full queue refuses at once (`Busy`); items that waited too long
are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from tmr_jax.serve.errors import Busy, Late

log = logging.getLogger("tmr_jax.serve")


class _Job(NamedTuple):
    item: Any
    future: Future


class Batcher:
    """`work` takes a list of items and yields, in their order, a result or an exception each."""

    def __init__(
        self,
        name: str,
        work: Callable[[list[Any]], Iterable[Any]],
        room: int,
        batch_size: int = 1,
        window: float = 0.0,
    ) -> None:
        """At most `room` items wait; the first waits `window` seconds for others to join it."""
        self.name, self.restarts = name, 0
        self._work, self._room, self._batch_size, self._window = work, room, batch_size, window
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.05  # seconds per item, a running mean
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    async def submit(self, items: Sequence[Any], seconds: float) -> list[Any]:
        """The result of each item; the first exception among them is raised.

        Raises Busy where there is no room for all of them, Late where they take too long.
        """
        jobs = [_Job(item, Future()) for item in items]
        self._put(jobs)
        waits = [asyncio.wrap_future(job.future) for job in jobs]
        try:
            async with asyncio.timeout(seconds):
                outcomes = await asyncio.gather(*waits, return_exceptions=True)
        except TimeoutError:
            raise Late(seconds) from None
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return list(outcomes)

    def close(self) -> None:
        """The thread ends when the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _put(self, jobs: list[_Job]) -> None:
        with self._changed:
            if self._closed or len(self._jobs) + len(jobs) > self._room:
                raise Busy(1 + int(self._pace * len(self._jobs)))
            self._jobs.extend(jobs)
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self.restarts += self._thread is not None  # the last one died
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while jobs := self._next_jobs():
            # `submit` cancels the jobs of clients that no longer wait.
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if live and not self._process(live):
                return

    def _process(self, jobs: list[_Job]) -> bool:
        """Whether the thread can continue."""
        start = time.monotonic()
        try:
            for job, outcome in zip(jobs, self._work([job.item for job in jobs]), strict=True):
                _settle(job, outcome)
        except Exception as error:
            for job in jobs:
                _settle(job, error)
        except BaseException:  # the thread dies; no client may wait for it
            for job in jobs:
                _settle(job, RuntimeError(f"the {self.name} thread died"))
            log.exception("the %s thread died; the next request starts another", self.name)
            return False
        self._pace += 0.1 * ((time.monotonic() - start) / len(jobs) - self._pace)
        return True

    def _next_jobs(self) -> list[_Job]:
        """The next batch, after waiting a moment for more; empty once closed and empty."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            until = time.monotonic() + self._window
            while len(self._jobs) < self._batch_size and (rest := until - time.monotonic()) > 0:
                self._changed.wait(rest)
            return [self._jobs.popleft() for _ in range(min(self._batch_size, len(self._jobs)))]


def _settle(job: _Job, outcome: Any) -> None:
    if job.future.done():
        return
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
