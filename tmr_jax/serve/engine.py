"""From queries to answers: the model, the library and the drawings, each in threads of its own.

Event loop and model meet in a `Batcher`, a thread with a bounded queue, so that the loop never
waits. Texts that wait together are encoded together (`BATCH_SIZE`, `WINDOW`), and the vectors of
the last `CACHED` queries are kept. A reload replaces the library as a whole; requests that are
running keep the old one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.index.schema import WHOLE, Filter
from tmr_jax.search.explain import Explanation
from tmr_jax.search.retriever import Answer, EncodedQuery, Query, Retriever, Summary
from tmr_jax.serve.schemas import MAX_EXPLAINED_ATOMS, MAX_EXPLAINED_WORDS, Busy, Late
from tmr_jax.types import UserError

BATCH_SIZE, WINDOW = 64, 0.003  # queries encoded together, seconds that the first one waits
CACHED = 4096  # vectors of queries, drawings
# Texts to try, of which the page offers those that this model answers right in this library.
TRIED = (
    *("an aromatic amine with chlorine", "a steroid with a ketone", "a dipeptide"),
    *("a sugar with a phosphate group", "a fatty acid", "a nucleoside", "a sulfonamide"),
    *("a flavonoid", "a penicillin", "a quinoline with fluorine", "a triglyceride"),
    *("a pyridine with a nitrile", "a carboxylic acid with a nitro group"),
)
OFFERED = 5
log = logging.getLogger("tmr_jax.serve")


class _Job(NamedTuple):
    item: Any
    future: Future


class Batcher:
    """One thread that processes the items of coroutines, several at once where more than one waits.

    `work` takes a list of items and yields, in their order, a result or an exception each. A full
    queue refuses at once (`Busy`); items that waited too long are dropped.
    """

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


class Drawing(NamedTuple):
    smiles: str
    width: int
    height: int
    weights: tuple[float, ...] | None = None  # of the atoms
    numbered: bool = False


class SearchEngine:
    """Answers queries of coroutines until `close`."""

    def __init__(self, open: Callable[[], Retriever], room: int = 512) -> None:
        """`open` opens the model with its library, again at each reload; at most `room` queries
        wait."""
        self._open = open
        self.damage: dict[str, str] = {}  # set by `watch`
        self._reported = self.damage  # by the library, the last time
        self.retriever = open()
        self.examples = TRIED[:OFFERED]  # until `warm` has tried them
        self.reloads, self.encoded, self.remembered = 0, 0, 0
        self._cache: OrderedDict[tuple[str, str], EncodedQuery] = OrderedDict()
        self._lock = threading.Lock()
        self._reloading = asyncio.Lock()
        self._searches = Batcher("search", self._search, room, BATCH_SIZE, WINDOW)
        # A substructure may take seconds: other queries must not wait for it.
        self._patterns = Batcher("substructure", self._search, min(room, 32))
        self._counts = Batcher("count", self._count, room)
        self._explanations = Batcher("explain", self._explain, min(room, 32))
        self._drawings = Batcher("draw", _draw, 4 * room)
        self.batchers = (
            *(self._searches, self._patterns, self._counts),
            *(self._explanations, self._drawings),
        )

    @property
    def library(self) -> Summary:
        """What the library holds."""
        assert self.retriever.library is not None
        return self.retriever.library

    @property
    def partial(self) -> bool:
        """Whether a part of the library cannot be read, so that hits may be missing."""
        return bool(self.damage) or self.retriever.is_partial

    async def search(self, queries: Sequence[Query], seconds: float) -> list[Answer]:
        plain = [query for query in queries if not query.substructure]
        other = [query for query in queries if query.substructure]
        answers = {}
        for batcher, group in ((self._searches, plain), (self._patterns, other)):
            if group:
                answers |= zip(group, await batcher.submit(group, seconds), strict=True)
        return [answers[query] for query in queries]

    async def count(self, where: Filter | None, seconds: float) -> int:
        """How many items of the library meet a filter, see `Retriever.count`."""
        return (await self._counts.submit([where], seconds))[0]

    async def explain(self, text: str, smiles: str, seconds: float) -> Explanation:
        return (await self._explanations.submit([(text, smiles)], seconds))[0]

    async def draw(self, drawings: Sequence[Drawing], seconds: float) -> list[str]:
        return await self._drawings.submit(drawings, seconds)

    async def check(self, smiles: str, seconds: float) -> None:
        """Raises BadMolecule for an invalid SMILES."""
        await self._drawings.submit([smiles], seconds)

    async def reload(self) -> None:
        """Opens the library again; running requests keep the old one."""
        async with self._reloading:
            damage = await asyncio.to_thread(self.retriever.check)
            self.retriever = await asyncio.to_thread(self._open)
            if WHOLE in damage:  # of the library that was open before
                damage = await asyncio.to_thread(self.retriever.check)
            self.damage, self.reloads = damage, self.reloads + 1

    async def watch(self, every: float) -> None:
        """Checks the library's files every few seconds and continues without damaged parts.

        Access to a mapped file that was truncated would end the process, so such a file must be
        closed as soon as possible.
        """
        while True:
            await asyncio.sleep(every)
            try:
                await self._check_files()
            except Exception as error:  # the old library stays open
                if self.damage.get(WHOLE) != repr(error):
                    log.warning("the library cannot be opened: %r", error)
                self.damage = {**self._reported, WHOLE: repr(error)}

    async def _check_files(self) -> None:
        damage = await asyncio.to_thread(self.retriever.check)
        if damage != self._reported:
            self._reported = damage
            log.warning("the library on disk: %s", damage or "intact again")
        elif damage == self.damage and WHOLE not in damage:
            return
        # Opening it again drops the damaged parts, and may repair one that cannot answer.
        await self.reload()

    def warm(self) -> None:
        """Runs queries of every shape, so that no client waits for the compiler."""
        self.retriever.warm()
        buckets = self.retriever.config.train.text_buckets
        queries = [Query("acid " * (tokens - 2)) for tokens in buckets]
        for query in (*queries, Query("CCO", "molecule")):
            (answer,) = self._search([query])
            if isinstance(answer, Exception):
                raise answer
        right = (text for text in TRIED for a in self._search([Query(text, k=1)]) if _is_right(a))
        self.examples = tuple(islice(right, OFFERED)) or self.examples

    def close(self) -> None:
        for batcher in self.batchers:
            batcher.close()

    # In the threads of the batchers

    def _search(self, queries: list[Query]) -> Iterator[Answer | Exception]:
        retriever = self.retriever
        for answer in retriever.answers(queries, self._encoded(retriever, queries)):
            if isinstance(answer, Answer):
                answer = answer._replace(partial=self.partial)
            yield answer

    def _encoded(
        self, retriever: Retriever, queries: list[Query]
    ) -> list[EncodedQuery | ValueError]:
        """Each query encoded, or the error that it is refused with; from the cache if possible."""
        queries = [query.read() for query in queries]  # a SMILES is another query if it is pure
        keys = [(query.of, query.content) for query in queries]
        with self._lock:
            known: dict[tuple[str, str], EncodedQuery | ValueError] = {
                key: self._cache[key] for key in keys if key in self._cache
            }
        self.remembered += sum(key in known for key in keys)
        new = {key: q for key, q in zip(keys, queries, strict=True) if key not in known}
        self.encoded += len(new)
        known |= zip(new, retriever.encode_queries(list(new.values())), strict=True)
        with self._lock:
            for key, encoded in known.items():
                if isinstance(encoded, EncodedQuery):
                    self._cache[key] = encoded
                    self._cache.move_to_end(key)
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return [known[key] for key in keys]

    def _count(self, filters: list[Filter | None]) -> Iterator[int | Exception]:
        for where in filters:
            try:
                yield self.retriever.count(where)
            except ValueError as error:
                yield error

    def _explain(self, pairs: list[tuple[str, str]]) -> Iterator[Explanation | Exception]:
        for text, smiles in pairs:
            try:
                _check_size(text, parse_smiles(smiles).GetNumAtoms())
                yield self.retriever.explain(text, smiles)
            except ValueError as error:
                yield error


def _is_right(answer: Answer | Exception) -> bool:
    """Whether the only hit has all that a text states in words."""
    return not isinstance(answer, Exception) and answer.has_stated


def _check_size(text: str, atoms: int) -> None:
    """UserError where a pair is too large to explain."""
    words = len(text.split())
    if words > MAX_EXPLAINED_WORDS or atoms > MAX_EXPLAINED_ATOMS:
        raise UserError(
            f"expected at most {MAX_EXPLAINED_WORDS} words and {MAX_EXPLAINED_ATOMS} atoms to "
            f"explain, got {words:,} and {atoms:,}; shorten the text, or choose a smaller molecule"
        )


def _draw(items: list[Drawing | str]) -> Iterator[str | Exception]:
    """Drawings as SVG; a SMILES alone is only checked."""
    for item in items:
        try:
            yield (
                drawn(item) if isinstance(item, Drawing) else str(parse_smiles(item).GetNumAtoms())
            )
        except BadMolecule as error:
            yield error


@lru_cache(CACHED)
def drawn(drawing: Drawing) -> str:
    """The <svg> element without `style`, which the page's policy forbids."""
    svg = molecule_svg(*drawing)
    return re.sub(r"""style=(['"])(.*?)\1""", _attributes, svg)


def _attributes(style: re.Match[str]) -> str:
    """fill:none;stroke:#000 as attributes of the element, with the same meaning."""
    pairs = (part.split(":", 1) for part in style.group(2).split(";") if ":" in part)
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)
