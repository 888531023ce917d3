"""Where the vectors of a library are: one narrow protocol, one file for each engine.

`exact` is the folder that `tmr index` writes, searched row by row: the truth that others are
measured against. `lance` is a folder with an index, for large libraries. `milvus` is an embedded
file or, by the same client, a cluster. `opening` tells them apart.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from tmr_jax.types import UserError

LANCE_HEAD = "lance.json"  # by which a folder of LanceDB is known without its package
LITE = ".db"  # how the path of an embedded Milvus ends
NONE = -1  # the id in a place of a result that no item fills
WHOLE = "library"  # the part that is broken where none of a library can be read

# Columns of every item beside its id and vector; see index/entries.py for what they hold.
FLOATS = ("mw", "logp", "tpsa")
INTEGERS = ("hbd", "hba", "rings", "charge", "heavy_atoms")
MASK = "groups"
# Several parts; the same molecule as one of a lower id; the same but for salt and charge.
FLAGS = ("salt", "duplicate", "variant")
IDENTITIES = ("identity", "parent")  # hashes of canonical SMILES, by which the last two are found
NORM = "norm"  # length of the embedding whose direction the vector is: second stages read both
CONTENT = "smiles"  # a SMILES; of a library of descriptions the text, under the same name
TEXTS = ("name", CONTENT)
MOLECULES, DESCRIPTIONS = "molecules", "descriptions"  # what a library is of: see `contents`
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


class Condition(NamedTuple):
    """A column of numbers compared with a number."""

    column: str
    sign: Sign
    number: float


class Filter(NamedTuple):
    """What an item must meet: every condition, all groups of `groups`, none of `without`."""

    conditions: tuple[Condition, ...] = ()
    groups: int = 0  # masks of features.properties.GROUPS
    without: int = 0
    unsalted: bool = False  # no item of several parts
    distinct: bool = False  # of items that are one molecule only the first
    parents: bool = False  # of items that are one but for salt and charge only the first

    @property
    def drops_parents(self) -> bool:
        """Whether the first of those that are one may fail another condition, and the next not.

        Then none of them may be left out by its flag. Duplicates meet the same conditions.
        """
        return self.parents and self._replace(distinct=False) != Filter(parents=True)

    @property
    def unflagged(self) -> list[str]:
        """The FLAGS that no item may have."""
        asked = (self.unsalted, self.distinct, self.parents)
        return [flag for flag, is_asked in zip(FLAGS, asked, strict=True) if is_asked]


class Batch(NamedTuple):
    """Items with everything that a store keeps of them."""

    ids: Int[np.ndarray, " n"]  # from 0; an item replaces that of the same id
    vectors: Float[np.ndarray, "n D"]  # of length one
    columns: dict[str, Any]  # COLUMNS as arrays [n], TEXTS as lists


class Matches(NamedTuple):
    """The best items of each query, best first; places that none fills have the id `NONE`."""

    ids: Int[np.ndarray, "Q K"]
    scores: Float[np.ndarray, "Q K"]  # cosines; -inf where there is no item
    partial: bool = False  # a part of the library could not be read


def contents(about: dict[str, Any]) -> str:
    """What a library is of, MOLECULES or DESCRIPTIONS, by what is kept of its making.

    Those of descriptions say so. They have the same columns: `identity` and `parent` are a hash of
    the text without regard to white space, what only a molecule has is 0.
    """
    return about.get("of", MOLECULES)


class IndexUnavailable(UserError):
    """What was a library cannot be read, or its server does not answer: nobody asked wrongly."""


class Engine(Protocol):
    """What every engine does. Ids and columns are the caller's; vectors have length one."""

    width: int
    about: dict[str, Any]  # what the library was made of, kept word for word
    broken: dict[str, str]  # parts that cannot be read, and why; the rest answers
    account: dict[str, Any] | None  # what became of the rows it is made of; None before `seal`

    def upsert(self, batch: Batch) -> None:
        """Adds items, in the place of those that have their ids; all of them or none."""
        ...

    def search(
        self, vectors: Float[np.ndarray, "Q D"], k: int, where: Filter | None = None
    ) -> Matches:
        """The k items of highest cosine among those that meet the filter."""
        ...

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        """Columns of items and "id", in the order asked; None for an unknown.

        `names` may hold "vector".
        """
        ...

    def count(self, where: Filter | None = None) -> int: ...

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        """Everything, in the order of the ids."""
        ...

    def optimize(self) -> None:
        """Makes its indices, where it has any; what was stopped may be begun again."""
        ...

    def finalize(self, account: dict[str, Any]) -> None:
        """Marks it whole: nothing more comes in."""
        ...

    def check(self) -> dict[str, str]:
        """Parts that cannot be read now, and why: cheap, for it is asked every few seconds."""
        ...

    def close(self) -> None: ...


def literal(condition: Condition) -> tuple[str, str, str]:
    """Column, sign and number of a condition as text, for engines with a language of their own.

    A number of 32 bits is written as the column holds it, whole numbers are compared with whole
    numbers, and none is beyond the column's kind: no engine's rules of conversion matter.
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
    """Which rows of the columns meet a filter: the meaning of a filter for every engine."""
    found = np.ones(len(columns[MASK]), bool)
    for column, sign, number in where.conditions:
        found &= COMPARE[sign](columns[column], number)
    if where.groups:
        found &= columns[MASK] & where.groups == where.groups
    if where.without:
        found &= columns[MASK] & where.without == 0
    for flag in where.unflagged:
        found &= ~columns[flag]
    return found


def bits(mask: int) -> list[int]:
    """The groups of a mask by their numbers, for engines that know no operations on bits."""
    return [i for i in range(63) if mask >> i & 1]


def check_batch(batch: Batch, width: int) -> None:
    """ValueError where a batch is not what a store of that width takes."""
    shape = (len(batch.ids), width)
    if batch.vectors.shape != shape:
        raise UserError(
            f"expected vectors of shape {shape}, got {batch.vectors.shape}; "
            "encode with the model that the library is of"
        )
    lengths = np.linalg.norm(batch.vectors, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise UserError("expected vectors of length one, got others; divide each by its length")
    sizes = {name: len(batch.columns[name]) for name in KEPT}
    assert set(sizes.values()) == {len(batch.ids)}, sizes
    assert len(np.unique(batch.ids)) == len(batch.ids), "an id twice in one batch"
