"""Columns, filters and the protocol of an engine; one file for each engine.

`exact` is the folder that `tmr index` writes, searched row by row: the truth that the others are
measured against. `lance` is a folder with an approximate index, for many rows. `milvus` is an
embedded file or, by the same client, a cluster. `index` tells them apart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import eq, ge, gt, le, lt
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from tmr_jax.data.columns import NUMBER, TEXT, as_date, as_number, kept
from tmr_jax.data.features.properties import FLOATS, INTEGERS, MASKS, NAMED, mask_of, parts
from tmr_jax.data.files import plain_name
from tmr_jax.types import UserError, did_you_mean

LANCE_HEAD = "lance.json"  # marks a folder of LanceDB, whose package need not be installed
LOCK = "lock"  # in the folder of an index, while something is written there
LITE = ".db"  # suffix of an embedded Milvus
NONE = -1  # id in the places of a result that no item fills
WHOLE = "library"  # the broken part where nothing of an index can be read

# Columns of every item besides its id and vector; index/entries.py computes them.
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
    **dict.fromkeys(MASKS, np.int64),
    **dict.fromkeys(FLAGS, np.bool_),
    **dict.fromkeys(IDENTITIES, np.int64),
    NORM: np.float32,
}  # and TEXTS, which are lists of strings
KEPT = (*COLUMNS, *TEXTS)
# Names that a column of a file cannot have: those of what engines and exports write besides.
TAKEN = {
    *(*KEPT, "id", "vector", "text", "query"),
    *("unsure", "rank", "score", "refined", "columns"),
}

Sign = Literal["<", "<=", ">", ">=", "="]
COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq}
SWITCHES = ("unsalted", "distinct", "parents")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(rf"(\w+)\s*(<=|>=|<|>|=)\s*({_NUMBER})")
_COMPARED = re.compile(r"(.*?)\s*(<=|>=|<|>|=)\s*(.*)", re.S)


class Condition(NamedTuple):
    """A column of numbers compared with a number."""

    column: str
    sign: Sign
    number: float


class OwnCondition(NamedTuple):
    """A column of the user's file compared with a number or a text; an empty cell never meets it.

    Dates are texts such as 2024-01-31, whose order is that of the dates.
    """

    column: str
    sign: Sign
    value: float | str


class Filter(NamedTuple):
    """What an item must meet: every condition, all groups and classes of `groups`, none of
    `without`."""

    conditions: tuple[Condition, ...] = ()
    groups: int = 0  # as features.properties.mask_of says
    without: int = 0
    unsalted: bool = False  # no items of several parts
    distinct: bool = False  # only the first of equal molecules
    parents: bool = False  # only the first of molecules that are equal but for salt and charge
    own: tuple[OwnCondition, ...] = ()

    @property
    def repeats(self) -> str:
        """The column, "parent" or "identity", whose first value may fail a condition that the next
        one meets; "" where there is none.

        Then flags cannot decide which one to drop. Duplicates differ by columns of the file alone.
        """
        if self.parents and self._replace(distinct=False) != Filter(parents=True):
            return "parent"
        return "identity" if self.distinct and self.own else ""

    @property
    def unflagged(self) -> list[str]:
        """The FLAGS that no item may have."""
        return [flag for flag, s in zip(FLAGS, SWITCHES, strict=True) if getattr(self, s)]


def parse_filter(words: Sequence[str], columns: Mapping[str, str] = MappingProxyType({})) -> Filter:
    """One filter of all words; UserError for an invalid word, with the nearest name.

    A condition compares a property with a number, or one of `columns`, the names and kinds of the
    user's own, with a value. A name requires a group or a class, a name after `!` excludes one.
    `unsalted`: single parts only; `distinct`: each molecule once; `parents`: each once whatever its
    salt and charge.

    Names of columns are written as in the file; where that is unambiguous, in any case and without
    what is between letters and digits.

    >>> parse_filter(["assay value>=7"], {"Assay value": "number"}).own
    (OwnCondition(column='Assay value', sign='>=', value=7.0),)
    """
    words = [word.strip() for word in words]
    compared = [_condition(word, columns) for word in words if any(sign in word for sign in "<>=")]
    others = [word for word in words if not any(sign in word for sign in "<>=")]
    names = [word for word in others if word not in SWITCHES]
    for name in names:
        if name.removeprefix("!") not in NAMED:
            example = f", or {name}=... of the file" if _columns_called(name, columns) else ""
            raise UserError(
                f"expected a filter such as mw<500, nitrile or !nitro{example}, got {name!r}; "
                f"{did_you_mean(name.lower(), [*NAMED, *SWITCHES, *columns])}"
            )
    return Filter(
        tuple(one for one in compared if isinstance(one, Condition)),
        mask_of(name for name in names if not name.startswith("!")),
        mask_of(name[1:] for name in names if name.startswith("!")),
        **{switch: switch in others for switch in SWITCHES},
        own=tuple(one for one in compared if isinstance(one, OwnCondition)),
    )


def _condition(word: str, columns: Mapping[str, str]) -> Condition | OwnCondition:
    match = _CONDITION.fullmatch(word)
    if match and match[1].lower() in FLOATS + INTEGERS:
        return Condition(match[1].lower(), match[2], float(match[3]))  # type: ignore[arg-type]
    name, sign, value = _compared(word, columns)
    found = [name] if name in columns else _columns_called(name, columns)
    if len(found) == 1:
        return _own_condition(found[0], columns[found[0]], sign, value)
    if found:
        raise UserError(
            f"expected the name of one column, got {name!r}, which may be "
            f"{' or '.join(map(repr, found))}; write it as the file does"
        )
    if name.lower() in FLOATS + INTEGERS or not (name and value):
        raise UserError(f"expected a filter such as mw<500 or charge=0, got {word!r}; correct it")
    what = "a property or a column of the file" if columns else "a property"
    raise UserError(
        f"expected {what} to compare, got {name!r}; "
        f"{did_you_mean(name.lower(), [*FLOATS, *INTEGERS, *columns])}"
    )


def _compared(word: str, columns: Iterable[str]) -> tuple[str, str, str]:
    """Name, sign and value. A name that the word begins with may hold signs itself."""
    own = max((name for name in columns if word.startswith(name)), key=len, default="")
    match = _COMPARED.fullmatch(word.removeprefix(own))
    if own and match and not match[1]:
        return own, match[2], match[3]
    match = _COMPARED.fullmatch(word)
    assert match  # it holds a sign
    return match[1], match[2], match[3]


def _columns_called(name: str, columns: Iterable[str]) -> list[str]:
    wanted = plain_name(name)
    return [column for column in columns if wanted and plain_name(column) == wanted]


def _own_condition(column: str, kind: str, sign: str, text: str) -> OwnCondition:
    if kind == TEXT:
        value = text if sign == "=" else None
        example = "which holds text, with =, as in {}=A12"
    elif kind == NUMBER:
        value, example = as_number(text), "which holds numbers, as in {}>7"
    else:
        value, example = as_date(text), "which holds dates, as in {}>=2024-01-31"
    if value is None or value == "":
        raise UserError(
            f"expected a comparison of {column!r}, {example.format(column)}, got "
            f"{column + sign + text!r}; correct it"
        )
    return OwnCondition(column, sign, value)  # type: ignore[arg-type]


def is_taken(name: str) -> bool:
    """Whether a column of a file needs another name: it is one of ours, or filters by a property.

    Names of properties are compared in any case.
    """
    return name in TAKEN or name.lower() in FLOATS + INTEGERS


def own_columns(about: Mapping[str, Any]) -> dict[str, str]:
    """Names and kinds of the user's own columns; indexes of older builds have none."""
    return kept(about.get("columns", ()))


class Batch(NamedTuple):
    """Items with all their columns."""

    ids: Int[np.ndarray, " n"]  # from 0; an item replaces the one with its id
    vectors: Float[np.ndarray, "n D"]  # of length one
    columns: dict[str, Any]  # COLUMNS as arrays [n], TEXTS and the user's own as lists


class Matches(NamedTuple):
    """The best items of each query, best first; places that none fills have the id `NONE`."""

    ids: Int[np.ndarray, "Q K"]
    scores: Float[np.ndarray, "Q K"]  # cosines; -inf where there is no item
    partial: bool = False  # a part of the index could not be read


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # cosine, -1 to 1; higher is better
    content: str  # the SMILES, or the text of an index of descriptions
    name: str
    refined: float | None = None  # score of the second stage, where the model has one
    id: int = NONE  # row of the file or list, from 0
    # Of an index on disk: properties, groups, flags, and the user's own columns.
    columns: Mapping[str, Any] = {}
    is_text: bool = False  # whether `content` is a text
    held: tuple[bool, ...] = ()  # of its atoms, those of the query's substructure


def own_cells(hit: Hit) -> dict[str, float | str | None]:
    """What the columns of the file say of a hit, None for an empty cell."""
    return {name: value for name, value in hit.columns.items() if name not in COLUMNS}


def ranked(hits: Sequence[Hit]) -> list[Hit]:
    """The hits with their places as ranks."""
    return [hit._replace(rank=i) for i, hit in enumerate(hits, 1)]


def contents(about: dict[str, Any]) -> str:
    """What an index holds, MOLECULES or DESCRIPTIONS; `about` is the record of its build.

    Both have the same columns. Of descriptions, `identity` and `parent` are a hash of the text
    without regard to white space, and columns that only a molecule has are 0.
    """
    return about.get("of", MOLECULES)


def has_classes(about: dict[str, Any]) -> bool:
    """Whether the molecules of an index were classified; those of older builds are of no class."""
    return "rules" in about


class IndexUnavailable(UserError):
    """An index cannot be read, or its server does not answer: no fault of the query."""


class Engine(Protocol):
    """What every engine does. The caller chooses ids and columns; vectors have length one."""

    width: int
    about: dict[str, Any]  # what the index was built from, kept as it is
    broken: dict[str, str]  # parts that cannot be read, and why; the rest is searched
    account: dict[str, Any] | None  # what became of the rows; None before `finalize`

    @property
    def own(self) -> dict[str, str]:
        """Names and kinds of the user's own columns."""
        return own_columns(self.about)

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

        `names` may hold "vector" and the user's own columns, whose empty cells are None.
        """
        ...

    def count(self, where: Filter | None = None) -> int: ...

    def called(self, name: str) -> int | None:
        """The lowest id of the items with this name; None where there is none."""
        ...

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        """All items, in the order of their ids."""
        ...

    def optimize(self) -> None:
        """Builds the engine's own indexes, where it has any; repeatable after an interruption."""

    def finalize(self, account: dict[str, Any]) -> None:
        """Marks the index complete."""
        ...

    def read_one(self) -> None:
        """Reads as little as shows that the index answers; IndexUnavailable where it does not."""

    def check(self) -> dict[str, str]:
        """Parts that cannot be read now, and why; cheap, since a service asks every few seconds."""
        try:
            self.read_one()
        except IndexUnavailable as error:
            return {WHOLE: str(error)}
        return {}

    def close(self) -> None:
        """Frees what the engine holds, where it holds anything."""


# What engines share


def check_free(folder: Path, allowed: set[str], choose: str = "another") -> None:
    """UserError unless a folder for an index is new, or holds nothing but the names `allowed`."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not (folder.is_dir() and there <= allowed):
        raise UserError(
            f"expected a new or empty folder for an index, got {folder}, which holds something "
            f"else; choose {choose}"
        )


def best_first(
    lists: Iterable[tuple[np.ndarray, np.ndarray]], queries: int, k: int, partial: bool = False
) -> Matches:
    """The k best of the ids and cosines of each query: of equal cosines the lower ids first."""
    ids = np.full((queries, k), NONE, np.int64)
    scores = np.full((queries, k), -np.inf, np.float32)
    for i, (number, cosine) in enumerate(lists):
        order = np.lexsort((number, -cosine))[:k]
        ids[i, : len(order)], scores[i, : len(order)] = number[order], cosine[order]
    return Matches(ids, scores, partial)


def by_id(
    ids: Sequence[int], size: int, read: Callable[[list[int]], Iterable[dict[str, Any]]]
) -> list[dict[str, Any] | None]:
    """`Engine.get` where `read` returns items of at most `size` ids, in any order."""
    wanted = [int(i) for i in dict.fromkeys(ids)]
    items: dict[int, dict[str, Any]] = {}
    for low in range(0, len(wanted), size):
        items |= {item["id"]: item for item in read(wanted[low : low + size])}
    for item in items.values():
        if "vector" in item:
            item["vector"] = np.array(item["vector"], np.float32)
    return [items.get(int(i)) for i in ids]


def literal(condition: Condition, equal: str = "=") -> str:
    """A condition as text, for engines with a query language that writes "=" as `equal`.

    Numbers are written in the type and range of the column, so that no engine's rules of
    conversion matter.
    """
    column, sign, number = condition
    written = equal if sign == "=" else sign
    if column in FLOATS:
        widest = float(np.finfo(np.float32).max)
        return f"{column} {written} {float(np.float32(min(max(number, -widest), widest)))!r}"
    number = min(max(number, -(2**31) + 0.5), 2**31 - 1.5)
    if number == int(number):
        return f"{column} {written} {int(number)}"
    if sign == "=":
        return f"{column} < {-(2**31)}"  # no whole number is a half
    below = math.floor(number)
    return f"{column} <= {below}" if "<" in sign else f"{column} >= {below + 1}"


def places(own: Iterable[str]) -> dict[str, str]:
    """What an engine calls the user's own columns whose names it may not take."""
    return {name: f"column_{i}" for i, name in enumerate(own)}


def meets(columns: dict[str, np.ndarray], where: Filter) -> Bool[np.ndarray, " n"]:
    """Which rows meet a filter but its `own`: this defines filters for every engine."""
    met = np.ones(len(next(iter(columns.values()))), bool)
    for column, sign, number in where.conditions:
        met &= COMPARE[sign](columns[column], number)
    for column, mask in parts(where.groups).items():
        if mask:
            met &= columns[column] & mask == mask
    for column, mask in parts(where.without).items():
        if mask:
            met &= columns[column] & mask == 0
    for flag in where.unflagged:
        met &= ~columns[flag]
    return met


def bits(mask: int) -> list[int]:
    """The bits that are set, for engines without operations on them."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def check_batch(batch: Batch, width: int, own: Iterable[str] = ()) -> None:
    """UserError where a batch does not fit an engine of that width."""
    shape = (len(batch.ids), width)
    if batch.vectors.shape != shape:
        raise UserError(
            f"expected vectors of shape {shape}, got {batch.vectors.shape}; "
            "encode with the model that built the index"
        )
    lengths = np.linalg.norm(batch.vectors, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise UserError("expected vectors of length one, got other lengths; normalize them")
    sizes = {name: len(batch.columns[name]) for name in (*KEPT, *own)}
    assert set(sizes.values()) == {len(batch.ids)}, sizes
    assert len(np.unique(batch.ids)) == len(batch.ids), "an id twice in one batch"


def shortened(value: Any) -> str:
    """The value as JSON for a message, cut to 300 characters."""
    text = json.dumps(value)
    return text if len(text) < 300 else text[:300] + "..."
