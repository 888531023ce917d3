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
from typing import Literal, NamedTuple

import numpy as np

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.index.schema import MOLECULES, WHOLE, Filter
from tmr_jax.search.explain import Explanation
from tmr_jax.search.retriever import Hit, Retriever
from tmr_jax.serve.batcher import Batcher
from tmr_jax.serve.schemas import MAX_EXPLAINED_ATOMS, MAX_EXPLAINED_WORDS
from tmr_jax.types import UserError

AT_ONCE, WINDOW = 64, 0.003  # queries that are encoded together, seconds to wait for them
KEPT = 4096  # vectors of queries, drawings
log = logging.getLogger("tmr_jax.serve")


class Question(NamedTuple):
    """A search, as API and page ask it."""

    asked: str  # a description or a SMILES
    of: Literal["text", "molecule"] = "text"
    k: int = 10
    where: Filter | None = None
    substructure: str = ""
    spread: float = 0.0


class Answer(NamedTuple):
    question: Question
    hits: list[Hit]
    is_cut: bool = False  # the model saw only the beginning of the text
    is_unlike: bool = False  # the descriptions the run was validated on are unlike it
    looked: int | None = None  # where time ran out: molecules looked at for the substructure
    partial: bool = False  # a part of the library cannot be read


class Asked(NamedTuple):
    """What the model makes of a query by itself."""

    row: np.ndarray  # float32 [1, D]
    is_cut: bool
    is_unlike: bool


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
        self._kept: OrderedDict[tuple[str, str], Asked] = OrderedDict()
        self._lock = threading.Lock()
        self._reloading = asyncio.Lock()
        self._searches = Batcher("search", self._search, room, AT_ONCE, WINDOW)
        # Patterns take seconds at worst: nobody else may wait for them.
        self._patterns = Batcher("substructure", self._match, min(room, 32))
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

    async def search(self, questions: Sequence[Question], seconds: float) -> list[Answer]:
        plain = [q for q in questions if not q.substructure]
        other = [q for q in questions if q.substructure]
        answers = {}
        for batcher, asked in ((self._searches, plain), (self._patterns, other)):
            if asked:
                answers |= zip(asked, await batcher.submit(asked, seconds), strict=True)
        return [answers[q] for q in questions]

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
        questions = [Question("acid " * (tokens - 2)) for tokens in buckets]
        for question in (*questions, Question("CCO", "molecule")):
            (answer,) = self._search([question])
            if isinstance(answer, Exception):
                raise answer

    def close(self) -> None:
        for batcher in self.batchers:
            batcher.close()

    # In the threads of the batchers

    def _search(self, questions: list[Question]) -> Iterator[Answer | Exception]:
        retriever = self.retriever
        asked = self._read(retriever, questions)
        together: dict[tuple[int, Filter | None], list[int]] = {}
        for i, (question, read) in enumerate(zip(questions, asked, strict=True)):
            if isinstance(read, Asked):
                key = (_wanted(retriever, question), question.where)
                together.setdefault(key, []).append(i)
        found: dict[int, list[Hit] | Exception] = {}
        for (wanted, where), places in together.items():
            rows = np.concatenate([read.row for i in places if isinstance(read := asked[i], Asked)])
            try:
                found |= zip(places, retriever.nearest(rows, wanted, where), strict=True)
            except ValueError as error:  # a filter that the library has no columns for
                found |= dict.fromkeys(places, error)
        for i, (question, read) in enumerate(zip(questions, asked, strict=True)):
            yield self._finished(retriever, question, read, found.get(i, []))

    def _match(self, questions: list[Question]) -> Iterator[Answer | Exception]:
        retriever = self.retriever
        for question, read in zip(questions, self._read(retriever, questions), strict=True):
            if isinstance(read, Exception):
                yield read
                continue
            wanted = _wanted(retriever, question)
            try:
                held = retriever.containing(read.row, wanted, question.where, question.substructure)
            except ValueError as error:
                yield error
                continue
            short = not held.is_all and len(held.hits) < question.k
            looked = held.looked if short else None
            yield self._finished(retriever, question, read, held.hits, looked)

    def _finished(
        self,
        retriever: Retriever,
        question: Question,
        read: Asked | Exception,
        hits: list[Hit] | Exception,
        looked: int | None = None,
    ) -> Answer | Exception:
        """The second stage, where the model has one, and the spread."""
        if isinstance(read, Exception):
            return read
        if isinstance(hits, Exception):
            return hits
        try:
            k, spread = question.k, question.spread
            hits = retriever.finished(question.asked, hits, k, spread, _direction(question))
        except ValueError as error:
            return error
        return Answer(question, hits, read.is_cut, read.is_unlike, looked, self.partial)

    def _read(self, retriever: Retriever, questions: list[Question]) -> list[Asked | Exception]:
        """What the model makes of each query, from memory where it was asked before."""
        keys = [(q.of, q.asked) for q in questions]
        with self._lock:
            known: dict[tuple[str, str], Asked | Exception] = {
                key: self._kept[key] for key in keys if key in self._kept
            }
        self.remembered += sum(key in known for key in keys)
        new = [key for key in dict.fromkeys(keys) if key not in known]
        self.encoded += len(new)
        for of in ("text", "molecule"):
            fresh = [asked for kind, asked in new if kind == of]
            if fresh:
                outcomes = _encoded(retriever, of, fresh)
                known |= {(of, a): o for a, o in zip(fresh, outcomes, strict=True)}
        with self._lock:
            for key, read in known.items():
                if isinstance(read, Asked):
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


def _direction(question: Question) -> Literal["t2m", "m2t"]:
    return "t2m" if question.of == "text" else "m2t"


def _wanted(retriever: Retriever, question: Question) -> int:
    return retriever.wanted(question.k, question.spread, _direction(question))


def _encoded(retriever: Retriever, of: str, asked: list[str]) -> list[Asked | Exception]:
    """All at once; where one of them is refused, one by one."""
    try:
        if of == "molecule":
            for smiles in asked:
                parse_smiles(smiles)
            rows = retriever.encode_molecules(asked)
            return [Asked(rows[i : i + 1], False, False) for i in range(len(asked))]
        rows = retriever.encode_text(asked)
        unlike = retriever.are_unlike(rows)
        return [
            Asked(rows[i : i + 1], retriever.is_cut(text), unlike is not None and bool(unlike[i]))
            for i, text in enumerate(asked)
        ]
    except ValueError as error:
        if len(asked) == 1:
            return [error]
        return [_encoded(retriever, of, [one])[0] for one in asked]


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
