"""Long computations: progress bars on standard error, and RDKit in several processes.

A process gets its jobs as JSON lines and returns arrays as .npz. Processes are plain subprocesses
rather than a `multiprocessing` or `pebble` pool: forking a process that runs JAX can hang, spawning
runs the user's script a second time (a script without a main guard breaks the pool), and a process
that hangs in RDKit can only be killed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tmr_jax.data.files import Arrays

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")
START = 120.0  # seconds for a process to start and import RDKit, on a busy machine
FEATURES, READY = "tmr_jax.data.tables:pack_chunk", "tmr_jax.data.workers:ready"
AHEAD = 4  # jobs handed out for each process before the first result is taken


# Progress bars: what, a bar, how many of all, time spent, time left


def progress(
    *columns: ProgressColumn,
    console: Console | None = None,
    transient: bool = False,
    disable: bool = False,
) -> Progress:
    """A `rich` progress display to use in a `with`; standard output stays free for results.

    `columns` replace counts and times behind the bar; `transient` removes the bar at the end, and
    shows none where it could not be removed, as in a file.
    """
    from rich import console as consoles
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = console or consoles.Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())),
        console=console,
        transient=transient,
        disable=disable or (transient and not console.is_terminal),
    )


@contextlib.contextmanager
def progress_of(
    what: str, total: int | None, transient: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields `on_progress(done)`, whose first call shows the bar; the block's end completes it."""
    bar = progress(transient=transient)
    task = bar.add_task(what, total=total)

    def on_progress(done: int) -> None:
        bar.start()
        bar.update(task, completed=done)

    try:
        yield on_progress
        if total is not None:
            on_progress(total)
    finally:
        bar.stop()


def track(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    transient: bool = False,
    disable: bool = False,
) -> Iterator[T]:
    """The items, with a bar that counts those that are done; `total` where they have no length."""
    with progress(transient=transient, disable=disable) as bar:
        yield from bar.track(items, total=total, description=what)


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


# Processes


class Died(RuntimeError):
    """A process ended during its job, or was killed after its time limit."""


class Closed(RuntimeError):
    """The worker was closed; nothing waits for its result."""


class Worker:
    """One process that does a job at a time and can be killed over it; starts with its first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._closed = False

    def ask(self, task: str, job: list, limit: float | None = None) -> Arrays:
        """Arrays of the function `task`, named as "module:function", called with the job.

        Died where the process ends or needs more than `limit` seconds: the next job has a new one.
        Closed after `close`.
        """
        if self._closed:
            raise Closed
        process = self._process = self._process or _start()
        if self._closed:  # while it was being started
            self._end()
            raise Closed
        assert process.stdin is not None and process.stdout is not None
        timer = None if limit is None else threading.Timer(limit, process.kill)
        try:
            if timer is not None:
                timer.start()
            process.stdin.write(json.dumps([task, job]).encode() + b"\n")
            process.stdin.flush()
            return _receive(process.stdout)
        except (OSError, ValueError) as error:
            self._end()
            if self._closed:  # by another thread, meanwhile: that is nobody's fault
                raise Closed from error
            raise Died(f"the process ended over {task}") from error
        except BaseException:  # Ctrl-C: the next job must not get the result of this one
            self._end()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def be_ready(self, task: str) -> None:
        """Starts the process where there is none, so that the time of the next job is its own.

        Raises RuntimeError where it does not come up.
        """
        if self._process is not None:
            return
        try:
            self.ask(READY, [task], START)
        except Died as error:
            raise RuntimeError(
                f"expected a process for {task} to start within {START:g} s, got none; look at "
                "what it says above, and at how busy the machine is"
            ) from error

    def close(self) -> None:
        """Ends the process and whatever it does, for good."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # an unsent rest trips over the closed pipe
                assert pipe is not None
                pipe.close()


def in_workers(
    jobs: Iterable[Any], do: Callable[[Worker, Any], Arrays] | None = None, ahead: int = AHEAD
) -> Generator[Arrays, None, None]:
    """`do(worker, job)` of every job, in order; `jobs` is read so far ahead and no further.

    Without `do`: the features of [smiles, molecule, motif]; RuntimeError where a process dies.
    """
    count = _cores()
    workers = [Worker() for _ in range(count)]
    idle = deque(workers)

    def run(job: Any) -> Arrays:
        worker = idle.pop()  # there are as many as threads
        try:
            return (do or _features)(worker, job)
        finally:
            idle.append(worker)

    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for job in jobs:
            waiting.append(pool.submit(run, job))
            if len(waiting) >= ahead * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
        pool.shutdown(wait=True)


def _features(worker: Worker, job: list) -> Arrays:
    try:
        return worker.ask(FEATURES, job)
    except Died as error:
        raise RuntimeError(
            f"expected features of the {len(job[0])} molecules from {job[0][0]!r} on, but the "
            "process that computed them ended; try again with fewer molecules to find the one it "
            "fails on"
        ) from error


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start() -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "tmr_jax.data.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, which then stops its workers
        env={**os.environ, "PYTHONPATH": path},
    )


def _receive(stream: Any) -> Arrays:
    size = stream.read(8)
    content = stream.read(int.from_bytes(size, "little"))
    if len(size) < 8:
        raise OSError("the process ended")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _task(name: str) -> Callable[..., Arrays]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def ready(task: str) -> Arrays:
    """Imports what the task needs."""
    _task(task)
    return {}


def main() -> None:
    for line in sys.stdin.buffer:
        task, job = json.loads(line)
        buffer = io.BytesIO()
        np.savez(buffer, **_task(task)(*job))  # type: ignore[arg-type]
        content = buffer.getvalue()
        sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
