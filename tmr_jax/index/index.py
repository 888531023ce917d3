"""What a search reads: items in memory, or an index on disk.

`tmr_jax.index.build` makes an index; this file opens it, checks that it fits the model, and finds
the nearest items.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from rdkit import rdBase

from tmr_jax.config import Experiment
from tmr_jax.data.files import VERSION
from tmr_jax.index.open import open_engine
from tmr_jax.index.schema import (
    CONTENT,
    DESCRIPTIONS,
    MOLECULES,
    NONE,
    NORM,
    Engine,
    Filter,
    contents,
    shortened,
)
from tmr_jax.models.encode import Encoder
from tmr_jax.types import UserError

MOST = 16_384  # items among which one of each parent is chosen
RDKIT = rdBase.rdkitVersion  # which computes the columns and features of an index


class Model(NamedTuple):
    """What encodes molecules and texts, and what identifies it."""

    encoder: Encoder
    config: Experiment
    vocabulary: Any  # of morgan1, or None
    checkpoint: str  # SHA-256 of the parameters
    run: str

    @property
    def identity(self) -> dict[str, Any]:
        """What index and query must agree on: parameters and features."""
        return {
            "checkpoint": self.checkpoint,
            "featuriser": VERSION,
            "features": dataclasses.asdict(self.config.features),
        }


class Summary(NamedTuple):
    """What an index holds: rows = kept + all refused."""

    source: str
    rows: int
    kept: int
    refused: dict[str, int]  # number of skipped rows by reason
    of: str = MOLECULES  # or DESCRIPTIONS

    @property
    def of_texts(self) -> bool:
        return self.of == DESCRIPTIONS


class Item(NamedTuple):
    """A result of a search."""

    id: int
    score: float  # cosine
    content: str  # a SMILES or a text
    name: str
    columns: dict[str, Any]  # of an index on disk: properties, groups and flags, see `DiskIndex`


class Index(Protocol):
    """Embedded items to search."""

    account: Summary

    @property
    def partial(self) -> bool:
        """Whether a part of the index cannot be read; the rest can be searched."""
        ...

    def check(self) -> dict[str, str]:
        """Parts that cannot be read now, and why."""
        ...

    def find(
        self, queries: Float[np.ndarray, "Q D"], k: int, where: Filter | None
    ) -> list[list[Item]]:
        """The k best items of each query, best first."""
        ...

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        """Of items by their ids, as the model returned them, before they were normalized."""
        ...


class InMemoryIndex:
    """Items in memory: item i has the row `rows[i]` of length one, which was `norm[i]` long, and
    (content, name) `entries[i]`."""

    partial = False

    def __init__(
        self,
        rows: Float[np.ndarray, "C D"],
        norm: Float[np.ndarray, " C"],
        entries: Sequence[tuple[str, str]],
        account: Summary,
    ) -> None:
        self._rows, self._norm = rows, norm
        self._entries, self.account = entries, account

    def check(self) -> dict[str, str]:
        return {}

    def find(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Item]]:
        from tmr_jax.eval.rank import top

        if where is not None:
            raise UserError(
                "expected an index with properties to filter by, got a list; give a file, or a "
                "folder that tmr index has made"
            )
        best, scores = (array.tolist() for array in top(queries, self._rows, k))
        return [
            [self._item(i, score) for i, score in zip(*row, strict=True)]
            for row in zip(best, scores, strict=True)
        ]

    def _item(self, i: int, score: float) -> Item:
        content, name = self._entries[i]
        return Item(i, score, content, name, {})

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        places = np.array(ids, np.int64)
        return self._rows[places] * self._norm[places, None]


class DiskIndex:
    """An index on disk. Items of an index of descriptions have the column `duplicate` alone."""

    def __init__(self, engine: Engine, account: Summary) -> None:
        self.engine, self.account = engine, account

    @property
    def partial(self) -> bool:
        return bool(self.engine.broken)

    def check(self) -> dict[str, str]:
        return self.engine.check()

    def find(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Item]]:
        if self.account.of_texts and where not in (None, Filter(), Filter(distinct=True)):
            raise UserError(
                "expected no filter but distinct for an index of descriptions, got one by "
                "properties, groups, salts or parents; leave it out"
            )
        if where is not None and where.drops_parents:
            return self._parents(queries, k, where._replace(parents=False))
        return self._nearest(queries, k, where)

    def _parents(self, queries: np.ndarray, k: int, where: Filter) -> list[list[Item]]:
        """The best item of each parent (equal but for salt and charge) that meets the filter."""
        fetched = 4 * k
        while True:
            nearest = self._nearest(queries, fetched, where)
            parents = [first_parents(items) for items in nearest]
            pairs = zip(parents, nearest, strict=True)
            if fetched >= MOST or all(len(a) >= k or len(b) < fetched for a, b in pairs):
                return [items[:k] for items in parents]
            fetched *= 4

    def _nearest(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Item]]:
        k = min(k, max(self.account.kept, 1))  # or an engine asks for arrays of any k
        matches = self.engine.search(queries, k, where)
        return [self._items(i, s) for i, s in zip(matches.ids, matches.scores, strict=True)]

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        rows = []
        for item in self.engine.get(ids, ["vector", NORM]):
            assert item is not None
            rows.append(item["vector"] * np.float32(item[NORM]))
        return np.stack(rows)

    def _items(self, ids: np.ndarray, scores: np.ndarray) -> list[Item]:
        filled = ids[ids != NONE].tolist()
        items = []
        for i, score, item in zip(filled, scores.tolist(), self.engine.get(filled), strict=False):
            assert item is not None
            columns = {n: v for n, v in item.items() if n not in ("id", "name", CONTENT, NORM)}
            if self.account.of_texts:
                columns = {"duplicate": columns["duplicate"]}
            items.append(Item(i, score, item[CONTENT], item["name"], columns))
        return items


class HasColumns(Protocol):
    @property
    def columns(self) -> Mapping[str, Any]: ...


AnyItem = TypeVar("AnyItem", bound=HasColumns)


def first_parents(items: Sequence[AnyItem]) -> list[AnyItem]:
    """The first item of each parent, in their order; a parent is without salt and charge."""
    first: dict[int, AnyItem] = {}
    for item in items:
        first.setdefault(item.columns["parent"], item)
    return list(first.values())


def in_memory(molecules: Sequence[str], model: Model) -> InMemoryIndex:
    """An index of SMILES in memory; invalid ones are skipped and counted."""
    encoded, valid, skipped = model.encoder.molecules(molecules)
    refused = dict(Counter(row.reason for row in skipped))
    account = Summary("the list given", len(molecules), len(valid), refused)
    if not account.kept:
        raise UserError(
            f"expected at least one molecule in the list, got none of {account.rows:,} "
            f"(skipped: {account.refused}); give SMILES"
        )
    entries = [(str(molecules[i]), f"row {i + 1}") for i in valid]
    return InMemoryIndex(encoded.rows, encoded.norm, entries, account)


def open_index(place: Path, model: Model, source: str = "") -> DiskIndex:
    """The index at a place, for the model that built it; `source` names what it was made from.

    Raises ValueError where it was built with another model, and where it is incomplete. Another
    RDKit version is noted on standard error.
    """
    engine = open_engine(place)
    check_model(engine.about, model, place)
    if engine.account is None:
        raise UserError(
            f"expected a complete index in {place}, got an incomplete one; run the tmr index "
            "command that started it again"
        )
    if note := rdkit_note(engine.about, place):
        print(note, file=sys.stderr)
    rows, kept, refused = (engine.account[name] for name in ("rows", "kept", "refused"))
    of = contents(engine.about)
    return DiskIndex(engine, Summary(source or str(place), rows, kept, refused, of))


def rdkit_note(about: dict[str, Any], place: Path) -> str:
    """What to know of an index whose columns another RDKit version computed, or ""."""
    version = about.get("rdkit", RDKIT)  # of descriptions there is none
    if version == RDKIT:
        return ""
    return (
        f"{place} was built with RDKit {version}, this is {RDKIT}: canonical SMILES can differ, so "
        "duplicates may be judged differently; build it again with tmr index to be sure"
    )


def check_model(about: dict[str, Any], model: Model, place: Path) -> None:
    """ValueError where an index was built with another model: its vectors mean nothing to this."""
    built = about.get("model", {})
    identity = {key: value for key, value in built.items() if key != "run"}
    if identity != model.identity:
        raise UserError(
            f"expected an index of the model {model.checkpoint} (its parameters' SHA-256), got "
            f"{place}, which differs from it ({difference(identity, model.identity)}); search it "
            f"with the run that built it ({built.get('run')}), or build it again"
        )


def difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """The keys whose values differ, with both values."""
    pairs = ((key, there.get(key), now[key]) for key in now)
    return "; ".join(
        f"{k}: {shortened(a)} there, {shortened(b)} now" for k, a, b in pairs if a != b
    )
