"""Questions to answers: the model, the library and the drawings, each in a thread of its own.

Texts that wait together are encoded together (`AT_ONCE`, `WINDOW`), and the vectors of the last
`KEPT` queries are kept. A library is replaced whole: what is being answered stays with the old one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.index.schema import MOLECULES, WHOLE
from tmr_jax.search.explain import Explanation
from tmr_jax.search.hits import Answer, EncodedQuery, Query
from tmr_jax.search.retriever import Retriever
from tmr_jax.serve.batcher import Batcher
from tmr_jax.serve.schemas import MAX_EXPLAINED_ATOMS, MAX_EXPLAINED_WORDS
from tmr_jax.types import UserError

AT_ONCE, WINDOW = 64, 0.003  # queries that are encoded together, seconds to wait for them
KEPT = 4096  # vectors of queries, drawings
log = logging.getLogger("tmr_jax.serve")


class Drawing(NamedTuple):
    smiles: str
    width: int
    height: int
    weights: tuple[float, ...] | None = None  # of the atoms
    numbered: bool = False


class IndexSource(NamedTuple):
    """Where the library comes from: `open` gives it anew.

    `damage` says what is wrong with it, part by part, and under `WHOLE` where nothing answers.
    """

    open: Callable[[], Retriever]
    damage: Callable[[], dict[str, str]]


class SearchEngine:
    """Takes questions from coroutines; `close` when no more come."""

    def __init__(self, index_source: IndexSource, room: int = 512) -> None:
        self._source = index_source
        self.damage: dict[str, str] = {}  # `watch` finds out: it reads bytes, and nobody waits
        self._told = self.damage  # what the index_source has said last
        self.retriever = index_source.open()
        self.reloads, self.encoded, self.remembered = 0, 0, 0
        self._kept: OrderedDict[tuple[str, str], EncodedQuery] = OrderedDict()
        self._lock = threading.Lock()
        self._reloading = asyncio.Lock()
        self._searches = Batcher("search", self._search, room, AT_ONCE, WINDOW)
        # Patterns take seconds at worst: nobody else may wait for them.
        self._patterns = Batcher("substructure", self._search, min(room, 32))
        self._explanations = Batcher("explain", self._explain, min(room, 32))
        self._drawings = Batcher("draw", _draw, 4 * room)
        self.batchers = (self._searches, self._patterns, self._explanations, self._drawings)

    @property
    def of(self) -> str:
        """What is searched: store.MOLECULES or store.DESCRIPTIONS."""
        library = self.retriever.library
        return MOLECULES if library is None else library.of

    @property
    def partial(self) -> bool:
        """Whether a part of the library cannot be read, so that hits may be missing."""
        return bool(self.damage) or self.retriever.is_partial

    async def search(self, queries: Sequence[Query], seconds: float) -> list[Answer]:
        plain = [query for query in queries if not query.substructure]
        other = [query for query in queries if query.substructure]
        answers = {}
        for batcher, asked in ((self._searches, plain), (self._patterns, other)):
            if asked:
                answers |= zip(asked, await batcher.submit(asked, seconds), strict=True)
        return [answers[query] for query in queries]

    async def explain(self, text: str, smiles: str, seconds: float) -> Explanation:
        return (await self._explanations.submit([(text, smiles)], seconds))[0]

    async def draw(self, drawings: Sequence[Drawing], seconds: float) -> list[str]:
        return await self._drawings.submit(drawings, seconds)

    async def check(self, smiles: str, seconds: float) -> None:
        """`BadMolecule` where a SMILES is none."""
        await self._drawings.submit([smiles], seconds)

    async def reload(self) -> None:
        """Opens the library anew; whoever is being answered stays with the old one (S9)."""
        async with self._reloading:
            damage = await asyncio.to_thread(self._source.damage)
            self.retriever = await asyncio.to_thread(self._source.open)
            if WHOLE in damage:  # of what was open before
                damage = await asyncio.to_thread(self._source.damage)
            self.damage, self.reloads = damage, self.reloads + 1

    async def watch(self, every: float) -> None:
        """Looks after the library's files; what has broken is answered without from then on (F24).

        A file that is cut short under a mapping ends the process at its next touch, so it is let
        go of as soon as it is seen.
        """
        while True:
            await asyncio.sleep(every)
            try:
                await self._look()
            except Exception as error:  # nothing is left to open: the old one answers
                if self.damage.get(WHOLE) != repr(error):
                    log.warning("the library cannot be opened: %r", error)
                self.damage = {**self._told, WHOLE: repr(error)}

    async def _look(self) -> None:
        damage = await asyncio.to_thread(self._source.damage)
        if damage != self._told:
            self._told = damage
            log.warning("the library on disk: %s", damage or "whole again")
        elif damage == self.damage and WHOLE not in damage:
            return
        # What has changed is opened anew; where nothing answers that may help, too.
        await self.reload()

    def warm(self) -> None:
        """Questions of every shape, so that no client waits for a compiler."""
        self.retriever.warm()
        buckets = self.retriever.config.train.text_buckets
        queries = [Query("acid " * (tokens - 2)) for tokens in buckets]
        for query in (*queries, Query("CCO", "molecule")):
            (answer,) = self._search([query])
            if isinstance(answer, Exception):
                raise answer

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
        """What the model makes of each query, from memory where it was asked before."""
        keys = [(query.of, query.content) for query in queries]
        with self._lock:
            known: dict[tuple[str, str], EncodedQuery | ValueError] = {
                key: self._kept[key] for key in keys if key in self._kept
            }
        self.remembered += sum(key in known for key in keys)
        new = {key: q for key, q in zip(keys, queries, strict=True) if key not in known}
        self.encoded += len(new)
        known |= zip(new, retriever.encode_queries(list(new.values())), strict=True)
        with self._lock:
            for key, read in known.items():
                if isinstance(read, EncodedQuery):
                    self._kept[key] = read
                    self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return [known[key] for key in keys]

    def _explain(self, pairs: list[tuple[str, str]]) -> Iterator[Explanation | Exception]:
        for text, smiles in pairs:
            try:
                _check_size(text, parse_smiles(smiles).GetNumAtoms())
                yield self.retriever.explain(text, smiles)
            except ValueError as error:
                yield error


def _check_size(text: str, atoms: int) -> None:
    """ValueError where a pair is more than is explained."""
    words = len(text.split())
    if words > MAX_EXPLAINED_WORDS or atoms > MAX_EXPLAINED_ATOMS:
        raise UserError(
            f"expected at most {MAX_EXPLAINED_WORDS} words and {MAX_EXPLAINED_ATOMS} atoms to "
            f"explain, got {words:,} and {atoms:,}; shorten the text, or take a smaller molecule"
        )


def _draw(asked: list[Drawing | str]) -> Iterator[str | Exception]:
    """Drawings; of a SMILES alone, whether it is one."""
    for one in asked:
        try:
            yield drawn(one) if isinstance(one, Drawing) else str(parse_smiles(one).GetNumAtoms())
        except BadMolecule as error:
            yield error


@lru_cache(KEPT)
def drawn(drawing: Drawing) -> str:
    """The <svg> element, without `style`: the page's policy lets no inline style pass."""
    svg = molecule_svg(*drawing)
    return re.sub(r"""style=(['"])(.*?)\1""", _attributes, svg)


def _attributes(style: re.Match[str]) -> str:
    """fill:none;stroke:#000 as attributes of the element, which mean the same."""
    pairs = (part.split(":", 1) for part in style.group(2).split(";") if ":" in part)
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs)
