"""What can be searched: a list in memory, or a library that `tmr index` has made.

A file that is searched without an index gets one in the cache folder, under a hash of its content,
the model's parameters and the featuriser; the next search of the same file opens it in a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from tmr_jax.data.cache import cache_folder, cache_key
from tmr_jax.eval.rank import top
from tmr_jax.index.build import Model, Source, build_shown, identity, of_model
from tmr_jax.index.entries import RDKIT
from tmr_jax.index.exact import FORMAT, HEAD, ExactEngine, sha256_of
from tmr_jax.index.open import is_index_place, open_engine
from tmr_jax.index.schema import (
    CONTENT,
    DESCRIPTIONS,
    MOLECULES,
    NONE,
    NORM,
    Engine,
    Filter,
    IndexUnavailable,
    contents,
)
from tmr_jax.types import UserError

MOST = 16_384  # items of which those are chosen that differ by more than salt and charge


class Summary(NamedTuple):
    """What became of the rows of a library: rows = kept + all refused."""

    source: str
    rows: int
    kept: int
    refused: dict[str, int]  # reason -> how many
    of: str = MOLECULES  # or DESCRIPTIONS

    @property
    def of_texts(self) -> bool:
        return self.of == DESCRIPTIONS


class Item(NamedTuple):
    """Something that was found."""

    id: int
    score: float  # cosine
    content: str  # a SMILES or a text
    name: str
    columns: dict[str, Any]  # of a library on disk: properties, groups and flags, see `DiskIndex`


class HasColumns(Protocol):
    @property
    def columns(self) -> Mapping[str, Any]: ...


class Index(Protocol):
    """Embedded items to search."""

    account: Summary

    @property
    def partial(self) -> bool:
        """Whether a part of the library cannot be read: the rest answers."""
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
        """Of items that were found, as the model gave them, before they got length one."""
        ...


class InMemoryIndex:
    """Items in memory; item i has the unit row `rows[i]`, which was `norm[i]` long, and (content,
    name) `entries[i]`."""

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
        if where is not None:
            raise UserError(
                "expected a library with properties to filter by, got a list; give a file, or a "
                "folder that tmr index has made"
            )
        index, score = top(queries, self._rows, k)
        return [
            [
                Item(i, s, self._entries[i][0], self._entries[i][1], {})
                for i, s in zip(*row, strict=True)
            ]
            for row in zip(index.tolist(), score.tolist(), strict=True)
        ]

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        chosen = np.array(ids, np.int64)
        return self._rows[chosen] * self._norm[chosen, None]


class DiskIndex:
    """A library on disk; of one of descriptions the items have the column `duplicate` alone."""

    def __init__(self, store: Engine, account: Summary) -> None:
        self.store, self.account = store, account

    @property
    def partial(self) -> bool:
        return bool(self.store.broken)

    def check(self) -> dict[str, str]:
        return self.store.check()

    def find(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Item]]:
        if self.account.of_texts and where not in (None, Filter(), Filter(distinct=True)):
            raise UserError(
                "expected no filter but distinct for a library of descriptions, got one that asks "
                "for properties, groups, salts or parents; leave it out"
            )
        if where is not None and where.drops_parents:
            return self._parents(queries, k, where._replace(parents=False))
        return self._found(queries, k, where)

    def _parents(self, queries: np.ndarray, k: int, where: Filter) -> list[list[Item]]:
        """Of items that are one but for salt and charge the best that meets the filter."""
        fetched = 4 * k
        while True:
            found = self._found(queries, fetched, where)
            kept = [first_parents(items) for items in found]
            pairs = zip(kept, found, strict=True)
            if fetched >= MOST or all(len(a) >= k or len(b) < fetched for a, b in pairs):
                return [items[:k] for items in kept]
            fetched *= 4

    def _found(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Item]]:
        found = self.store.search(queries, k, where)
        return [self._items(i, s) for i, s in zip(found.ids, found.scores, strict=True)]

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        found = []
        for item in self.store.get(ids, ["vector", NORM]):
            assert item is not None
            found.append(item["vector"] * np.float32(item[NORM]))
        return np.stack(found)

    def _items(self, ids: np.ndarray, scores: np.ndarray) -> list[Item]:
        kept = ids[ids != NONE].tolist()
        items = []
        for i, score, item in zip(kept, scores.tolist(), self.store.get(kept), strict=False):
            assert item is not None
            columns = {n: v for n, v in item.items() if n not in ("id", "name", CONTENT, NORM)}
            if self.account.of_texts:
                columns = {"duplicate": columns["duplicate"]}
            items.append(Item(i, score, item[CONTENT], item["name"], columns))
        return items


Found = TypeVar("Found", bound=HasColumns)


def first_parents(items: Sequence[Found]) -> list[Found]:
    """The first of items that are one but for salt and charge, in their order."""
    first: dict[int, Found] = {}
    for item in items:
        first.setdefault(item.columns["parent"], item)
    return list(first.values())


def in_memory(molecules: Sequence[str], model: Model) -> InMemoryIndex:
    """A library in memory, of SMILES; what is no molecule is counted and left out."""
    encoded, kept, bad = model.encoder.molecules(molecules)
    refused: dict[str, int] = {}
    for b in bad:
        refused[b.reason] = refused.get(b.reason, 0) + 1
    account = Summary("the list given", len(molecules), len(kept), refused)
    if not account.kept:
        raise UserError(
            f"expected at least one molecule in the list, got none of {account.rows:,} "
            f"(refused: {account.refused}); give SMILES"
        )
    entries = [(str(molecules[i]), f"row {i + 1}") for i in kept]
    return InMemoryIndex(encoded.rows, encoded.norm, entries, account)


def open_index(
    path: Path,
    model: Model,
    smiles_column: str = "",
    name_column: str = "",
    text_column: str = "",
) -> DiskIndex:
    """The library of a place that `tmr index` made, or of a file, which is indexed first.

    Raises ValueError where a library is of another model (F23: both hashes are named), where a file
    cannot be read or holds no molecule or text, and where there is no room for the embeddings.
    """
    if is_index_place(path):
        return _opened(open_engine(path), model, str(path), path)
    source = Source(path, smiles_column, name_column, text_column)
    if not path.is_file():
        next(source.read(), None)  # says what is wrong
    # What a build compares with the library that is there: never another one in its place.
    told = [text_column, name_column, source.of]
    if source.of == MOLECULES:
        told = [smiles_column, name_column, RDKIT]
    key = [sha256_of(path), path.suffixes, identity(model), FORMAT, *told]
    place = cache_folder() / cache_key("library", key)
    if not _is_whole(place):
        build_shown(source, place, model)
    return _opened(ExactEngine(place), model, str(path), place)


def _is_whole(folder: Path) -> bool:
    if not (folder / HEAD).exists():
        return False
    try:
        store = ExactEngine(folder)
    except IndexUnavailable:  # whose shards are gone: they are made again
        return False
    return store.account is not None and not store.broken


def _opened(store: Engine, model: Model, source: str, place: Path) -> DiskIndex:
    of_model(store.about, model, place)
    said = store.account
    if said is None:
        raise UserError(
            f"expected a whole library in {place}, got one whose making has not come to its end; "
            "say the tmr index that began it again"
        )
    told = (said["rows"], said["kept"], said["refused"], contents(store.about))
    return DiskIndex(store, Summary(source, *told))
