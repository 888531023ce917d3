"""Columns, filters and the protocol of an engine; one file for each engine.

`exact` is the folder that `tmr index` writes, searched row by row: the truth that the others are
measured against. `lance` is a folder with an approximate index, for many rows. `milvus` is an
embedded file or, by the same client, a cluster. `open` tells them apart.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from tmr_jax.types import UserError

LANCE_HEAD = "lance.json"  # marks a folder of LanceDB, whose package need not be installed
LOCK = "lock"  # in the folder of an index, while something is written there
LITE = ".db"  # suffix of an embedded Milvus
NONE = -1  # id in the places of a result that no item fills
WHOLE = "library"  # the broken part where nothing of an index can be read

# Columns of every item besides its id and vector; index/entries.py computes them.
FLOATS = ("mw", "logp", "tpsa")
INTEGERS = ("hbd", "hba", "rings", "charge", "heavy_atoms")
MASK = "groups"
# Several parts; equal to an item with a lower id; equal to one but for salt and charge.
FLAGS = ("salt", "duplicate", "variant")
IDENTITIES = ("identity", "parent")  # hashes of canonical SMILES, which decide the last two
NORM = "norm"  # length of the embedding before normalization, which second stages need
CONTENT = "smiles"  # a SMILES; in an index of descriptions the text, under the same name
TEXTS = ("name", CONTENT)
MOLECULES, DESCRIPTIONS = "molecules", "descriptions"  # see `contents`
COLUMNS = {
    **dict.fromkeys(FLOATS, np.float32),
    **dict.fromkeys(INTEGERS, np.int32),
    MASK: np.int64,
    **dict.fromkeys(FLAGS, np.bool_),
    **dict.fromkeys(IDENTITIES, np.int64),
    NORM: np.float32,
}  # and TEXTS, which are lists of strings
KEPT = (*COLUMNS, *TEXTS)

Sign = Literal["<", "<=", ">", ">=", "="]
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


def check_free(folder: Path, allowed: set[str], choose: str = "another") -> None:
    """UserError unless a folder for an index is new, or holds nothing but the names `allowed`."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not (folder.is_dir() and there <= allowed):
        raise UserError(
            f"expected a new or empty folder for an index, got {folder}, which holds something "
            f"else; choose {choose}"
        )


class Condition(NamedTuple):
    """A column of numbers compared with a number."""

    column: str
    sign: Sign
    number: float


class Filter(NamedTuple):
    """What an item must meet: every condition, all of `groups`, none of `without`."""

    conditions: tuple[Condition, ...] = ()
    groups: int = 0  # masks of features.properties.GROUPS
    without: int = 0
    unsalted: bool = False  # no items of several parts
    distinct: bool = False  # only the first of equal molecules
    parents: bool = False  # only the first of molecules that are equal but for salt and charge

    @property
    def drops_parents(self) -> bool:
        """Whether the first of equal parents may fail a condition that the next one meets.

        Then flags cannot decide which one to drop. Duplicates meet the same conditions.
        """
        return self.parents and self._replace(distinct=False) != Filter(parents=True)

    @property
    def unflagged(self) -> list[str]:
        """The FLAGS that no item may have."""
        switches = (self.unsalted, self.distinct, self.parents)
        return [flag for flag, is_on in zip(FLAGS, switches, strict=True) if is_on]


class Batch(NamedTuple):
    """Items with all their columns."""

    ids: Int[np.ndarray, " n"]  # from 0; an item replaces the one with its id
    vectors: Float[np.ndarray, "n D"]  # of length one
    columns: dict[str, Any]  # COLUMNS as arrays [n], TEXTS as lists


class Matches(NamedTuple):
    """The best items of each query, best first; places that none fills have the id `NONE`."""

    ids: Int[np.ndarray, "Q K"]
    scores: Float[np.ndarray, "Q K"]  # cosines; -inf where there is no item
    partial: bool = False  # a part of the index could not be read


def contents(about: dict[str, Any]) -> str:
    """What an index holds, MOLECULES or DESCRIPTIONS; `about` is the record of its build.

    Both have the same columns. Of descriptions, `identity` and `parent` are a hash of the text
    without regard to white space, and columns that only a molecule has are 0.
    """
    return about.get("of", MOLECULES)


class IndexUnavailable(UserError):
    """An index cannot be read, or its server does not answer: no fault of the query."""


class Engine(Protocol):
    """What every engine does. The caller chooses ids and columns; vectors have length one."""

    width: int
    about: dict[str, Any]  # what the index was built from, kept as it is
    broken: dict[str, str]  # parts that cannot be read, and why; the rest is searched
    account: dict[str, Any] | None  # what became of the rows; None before `finalize`

    def upsert(self, batch: Batch) -> None:
        """Adds items, or replaces those with their ids; all of them or none."""
        ...

    def search(
        self, vectors: Float[np.ndarray, "Q D"], k: int, where: Filter | None = None
    ) -> Matches:
        """The k items of highest cosine among those that meet the filter."""
        ...

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        """Columns and "id" of items in the order of `ids`, None for an unknown id.

        `names` may hold "vector".
        """
        ...

    def count(self, where: Filter | None = None) -> int: ...

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        """All items, in the order of their ids."""
        ...

    def optimize(self) -> None:
        """Builds the engine's own indexes, where it has any; repeatable after an interruption."""
        ...

    def finalize(self, account: dict[str, Any]) -> None:
        """Marks the index complete."""
        ...

    def check(self) -> dict[str, str]:
        """Parts that cannot be read now, and why; cheap, since a service asks every few seconds."""
        ...

    def close(self) -> None: ...


def literal(condition: Condition) -> tuple[str, str, str]:
    """Column, sign and number of a condition as text, for engines with a query language.

    Numbers are written in the type and range of the column, so that no engine's rules of
    conversion matter.
    """
    column, sign, number = condition
    if column in FLOATS:
        widest = float(np.finfo(np.float32).max)
        return column, sign, repr(float(np.float32(min(max(number, -widest), widest))))
    number = min(max(number, -(2**31) + 0.5), 2**31 - 1.5)
    if number == int(number):
        return column, sign, str(int(number))
    if sign == "=":
        return column, "<", str(-(2**31))  # no whole number is a half
    below = math.floor(number)
    return (column, "<=", str(below)) if "<" in sign else (column, ">=", str(below + 1))


def meets(columns: dict[str, np.ndarray], where: Filter) -> Bool[np.ndarray, " n"]:
    """Which rows meet a filter: this defines filters for every engine."""
    met = np.ones(len(columns[MASK]), bool)
    for column, sign, number in where.conditions:
        met &= COMPARE[sign](columns[column], number)
    if where.groups:
        met &= columns[MASK] & where.groups == where.groups
    if where.without:
        met &= columns[MASK] & where.without == 0
    for flag in where.unflagged:
        met &= ~columns[flag]
    return met


def bits(mask: int) -> list[int]:
    """The groups of a mask by their numbers, for engines without operations on bits."""
    return [i for i in range(63) if mask >> i & 1]


def check_batch(batch: Batch, width: int) -> None:
    """ValueError where a batch does not fit an engine of that width."""
    shape = (len(batch.ids), width)
    if batch.vectors.shape != shape:
        raise UserError(
            f"expected vectors of shape {shape}, got {batch.vectors.shape}; "
            "encode with the model that built the index"
        )
    lengths = np.linalg.norm(batch.vectors, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise UserError("expected vectors of length one, got other lengths; normalize them")
    sizes = {name: len(batch.columns[name]) for name in KEPT}
    assert set(sizes.values()) == {len(batch.ids)}, sizes
    assert len(np.unique(batch.ids)) == len(batch.ids), "an id twice in one batch"


def shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 300 else text[:300] + "..."
