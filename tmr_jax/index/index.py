"""What a search reads: items in memory, or the index at a place, whichever engine has it.

A place is a folder, `milvus:FILE.db`, or `http(s)://HOST:PORT/COLLECTION`. The files of a folder
tell its engine; a new one gets LanceDB, unless written as `exact:FOLDER`. `tmr_jax.index.build`
makes an index.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rdkit import rdBase

from tmr_jax.data.columns import Column
from tmr_jax.data.features.properties import parts
from tmr_jax.data.files import VERSION
from tmr_jax.index import schema
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.schema import CONTENT, DESCRIPTIONS, MOLECULES, NONE, NORM, Engine, Filter, Hit
from tmr_jax.types import UserError, did_you_mean

if TYPE_CHECKING:  # JAX takes a second to import, which copying an index does not need
    from tmr_jax.config import Experiment
    from tmr_jax.models.encode import Encoder

TOKEN = "TMR_JAX_MILVUS_TOKEN"
PACKAGES = {  # of an engine, and how to install them
    "lance": ("lancedb", "make setup"),
    "milvus": ("pymilvus and milvus-lite", "make setup EXTRAS=dev,milvus"),
}
# A Path made of an address has one slash.
_ADDRESS = re.compile(r"(https?):/{1,2}([^/]+)/(\w+)/?")
_KIND = re.compile(r"(exact|lance|milvus):(.+)", re.S)
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
    columns: Mapping[str, str] = {}  # names of the file's own columns, and what they hold
    notes: tuple[str, ...] = ()  # columns that are left out or have another name

    @property
    def of_texts(self) -> bool:
        return self.of == DESCRIPTIONS


class InMemoryIndex(NamedTuple):
    """Items in memory."""

    rows: Float[np.ndarray, "C D"]  # of length one
    norm: Float[np.ndarray, " C"]  # length of the rows before they were normalized
    entries: Sequence[tuple[str, str]]  # content and name
    account: Summary
    partial: bool = False

    def check(self) -> dict[str, str]:
        return {}

    def find(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Hit]]:
        """As `DiskIndex.find`; UserError for a filter."""
        from tmr_jax.eval.rank import top

        if where is not None:
            raise UserError(
                "expected an index with properties to filter by, got a list; give a file, or a "
                "folder that tmr index has made"
            )
        best, scores = (array.tolist() for array in top(queries, self.rows, k))
        return [
            schema.ranked([self._hit(i, score) for i, score in zip(*row, strict=True)])
            for row in zip(best, scores, strict=True)
        ]

    def count(self, where: Filter | None) -> int:
        """As `DiskIndex.count`; `find` refuses any filter."""
        return self.account.kept

    def called(self, name: str) -> Hit | None:
        """The first item of that name, with the score 1; None where there is none."""
        found = (i for i, (_, own) in enumerate(self.entries) if own == name)
        i = next(found, None)
        return None if i is None else self._hit(i, 1.0)

    def with_columns(self, hits: Sequence[Hit]) -> list[Hit]:
        return [*hits]

    def _hit(self, i: int, score: float) -> Hit:
        return Hit(0, score, *self.entries[i], id=i, is_text=self.account.of_texts)

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        places = np.array(ids, np.int64)
        return self.rows[places] * self.norm[places, None]


class DiskIndex(NamedTuple):
    """An index on disk.

    Of our columns, items of an index of descriptions have `duplicate` and `identity` alone.
    """

    engine: Engine
    account: Summary

    @property
    def partial(self) -> bool:
        """Whether a part of the index cannot be read; the rest can be searched."""
        return bool(self.engine.broken)

    @property
    def has_classes(self) -> bool:
        return schema.has_classes(self.engine.about)

    def check(self) -> dict[str, str]:
        """Parts that cannot be read now, and why."""
        return self.engine.check()

    def find(
        self, queries: Float[np.ndarray, "Q D"], k: int, where: Filter | None
    ) -> list[list[Hit]]:
        """The k best items of each query, best first."""
        if self.account.of_texts and where and where._replace(distinct=False, own=()) != Filter():
            raise UserError(
                "expected no filter but distinct for an index of descriptions, or by columns of "
                "their file, got one by properties, groups, salts or parents; leave it out"
            )
        for condition in where.own if where else ():
            if condition.column not in self.account.columns:
                raise UserError(
                    f"expected a column of the file to compare, got {condition.column!r}; "
                    f"{did_you_mean(condition.column, self.account.columns)}"
                )
        asked = where and parts(where.groups | where.without)["classes"]
        if asked and not self.has_classes:
            raise UserError(
                "expected an index whose molecules are classified, got one that was built before "
                "there were classes; build it again with tmr index, or leave the class out"
            )
        if where is not None and where.repeats:
            every = where._replace(parents=False, distinct=False)
            return self._first(queries, k, every, where.repeats)
        return self._nearest(queries, k, where)

    def count(self, where: Filter | None) -> int:
        """How many items meet a filter; where `Filter.repeats`, an upper bound."""
        if where is not None and where.repeats:
            where = where._replace(parents=False, distinct=False)
        return self.engine.count(where)

    def _first(self, queries: np.ndarray, k: int, where: Filter, of: str) -> list[list[Hit]]:
        """The best item of each molecule, or parent, that meets the filter."""
        fetched = 4 * k
        while True:
            nearest = self._nearest(queries, fetched, where)
            first = [first_of(items, of) for items in nearest]
            pairs = zip(first, nearest, strict=True)
            if fetched >= MOST or all(len(a) >= k or len(b) < fetched for a, b in pairs):
                return [schema.ranked(items[:k]) for items in first]
            fetched *= 4

    def _nearest(self, queries: np.ndarray, k: int, where: Filter | None) -> list[list[Hit]]:
        k = min(k, max(self.account.kept, 1))  # or an engine asks for arrays of any k
        matches = self.engine.search(queries, k, where)
        return [self._items(i, s) for i, s in zip(matches.ids, matches.scores, strict=True)]

    def with_columns(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits with the user's own columns, which are read for hits that are shown alone."""
        own = self.engine.own
        if not own:
            return [*hits]
        items = self.engine.get([hit.id for hit in hits], [*own])
        return [
            hit._replace(columns={**hit.columns, **{n: _whole((item or {}).get(n)) for n in own}})
            for hit, item in zip(hits, items, strict=True)
        ]

    def called(self, name: str) -> Hit | None:
        """The first item of that name, with the score 1; None where there is none."""
        found = self.engine.called(name)
        return None if found is None else self._items(np.array([found]), np.ones(1))[0]

    def embeddings(self, ids: Sequence[int]) -> Float[np.ndarray, "n D"]:
        """Of items by their ids, as the model returned them, before they were normalized."""
        rows = []
        for item in self.engine.get(ids, ["vector", NORM]):
            assert item is not None
            rows.append(item["vector"] * np.float32(item[NORM]))
        return np.stack(rows)

    def _items(self, ids: np.ndarray, scores: np.ndarray) -> list[Hit]:
        filled = ids[ids != NONE].tolist()
        items = []
        for i, score, item in zip(filled, scores.tolist(), self.engine.get(filled), strict=False):
            assert item is not None
            columns = {n: v for n, v in item.items() if n not in ("id", "name", CONTENT, NORM)}
            texts = self.account.of_texts
            if texts:
                columns = {name: columns[name] for name in ("duplicate", "identity")}
            items.append(Hit(0, score, item[CONTENT], item["name"], None, i, columns, texts))
        return schema.ranked(items)


def _whole(value: float | str | None) -> float | str | None:
    """12 for 12.0, as the file has it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Index = InMemoryIndex | DiskIndex


def first_of(items: Sequence[Hit], of: str = "parent") -> list[Hit]:
    """The first item of each parent, or identity, in their order.

    A parent is without salt and charge.
    """
    first: dict[int, Hit] = {}
    for item in items:
        first.setdefault(item.columns[of], item)
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

    Raises UserError where it was built with another model, and where it is incomplete. Another
    RDKit version is noted on standard error.
    """
    engine = open_engine(place)
    check_model(engine.about, model, place)
    account = account_of(engine, place)
    version = engine.about.get("rdkit", RDKIT)  # of descriptions there is none
    if version != RDKIT:
        print(
            f"{place} was built with RDKit {version}, this is {RDKIT}: canonical SMILES can "
            "differ, so duplicates may be judged differently; build it again with tmr index to be "
            "sure",
            file=sys.stderr,
        )
    rows, kept, refused = (account[name] for name in ("rows", "kept", "refused"))
    of, notes = schema.contents(engine.about), columns_notes(engine.about)
    account = Summary(source or str(place), rows, kept, refused, of, engine.own, notes)
    return DiskIndex(engine, account)


def columns_notes(about: dict[str, Any]) -> tuple[str, ...]:
    """The user's own columns that are left out or called otherwise than in the file, and why."""
    columns = [Column(*listed) for listed in about.get("columns", ())]
    return tuple(
        f"column {c.source or c.name!r} is left out: {c.why}"
        if not c.kind
        else f"column {c.source!r} of the file is called {c.name!r} here"
        for c in columns
        if c.name != c.source or not c.kind
    )


def account_of(engine: Engine, place: str | Path) -> dict[str, Any]:
    """What became of the rows of a complete index; UserError for an incomplete one, or a part."""
    if "part" in engine.about:
        number, of = engine.about["part"]
        raise UserError(
            f"expected a complete index in {place}, got part {number} of {of}; join all of them: "
            "tmr index join OUT, with the --out of their builds"
        )
    if engine.account is None:
        raise UserError(
            f"expected a complete index in {place}, got an incomplete one; run the tmr index, tmr "
            "index join or tmr index copy command that started it again"
        )
    return engine.account


def check_model(about: dict[str, Any], model: Model, place: Path) -> None:
    """UserError where an index was built with another model: its vectors mean nothing to this."""
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
    old, new = ({key: schema.shortened(d.get(key)) for key in now} for d in (there, now))
    return "; ".join(f"{k}: {old[k]} there, {new[k]} now" for k in now if there.get(k) != now[k])


# Places


class Place(NamedTuple):
    engine: str  # "exact", "lance", "milvus", or "" where the files of the folder tell
    path: Path | None
    uri: str = ""  # of a server
    collection: str = "library"


def parse_place(place: str | Path) -> Place:
    """The parts of a place; UserError for an invalid one."""
    text = str(place)
    if re.match(r"https?:/", text):
        match = _ADDRESS.fullmatch(text)
        if not match or "@" in match[2] or not _is_host(match[2]):
            raise UserError(
                "expected http(s)://HOST:PORT/COLLECTION, got "
                f"{re.sub('//?[^/@]*@', '//***@', text)!r}; name a collection, and put a "
                f"password or token into the environment variable {TOKEN}"
            )
        return Place("milvus", None, f"{match[1]}://{match[2]}", match[3])
    kind = _KIND.fullmatch(text)
    engine, path = (kind[1], Path(kind[2])) if kind else ("", Path(text))
    if not engine and path.suffix == schema.LITE:
        engine = "milvus"
    if engine == "milvus" and path.suffix != schema.LITE:
        raise UserError(
            f"expected a file that ends in {schema.LITE} after milvus:, got {str(path)!r}; rename "
            "it, or give http://HOST:PORT/COLLECTION"
        )
    return Place(engine, path)


def _is_host(text: str) -> bool:
    try:
        return urllib.parse.urlsplit(f"//{text}").port != 0
    except ValueError:  # a port that is none, half of an IPv6 address
        return False


def is_index_place(place: str | Path) -> bool:
    """Whether it is a folder or names an engine, rather than a file of molecules."""
    engine, path, *_ = parse_place(place)
    return bool(engine or not path or path.is_dir())


def lock_of(place: str | Path) -> Path | None:
    """The file that a writer locks; None for a server, which takes many writers."""
    engine, path, *_ = parse_place(place)
    if path is None:
        return None
    return path.with_name(f"{path.name}.lock") if engine == "milvus" else path / schema.LOCK


def open_engine(place: str | Path) -> Engine:
    """The index at a place.

    Raises UserError where there is none, where it cannot be read, and where the engine's package
    is not installed.
    """
    engine, where, more = _engine_at(place)
    return engine(where, *more)


def create_engine(place: str | Path, width: int, about: dict[str, Any]) -> Engine:
    """An empty index at a place; a folder without an engine gets LanceDB.

    Raises UserError where something exists, and where the engine's package is not installed.
    """
    engine, where, more = _engine_at(place, new="lance")
    return engine.create(where, width, about, *more)


def exists(place: str | Path) -> bool:
    """Whether a place holds something that `open_engine` opens or reports as damaged."""
    engine, where, more = _engine_at(place)
    return engine.exists(where, *more)


def _engine_at(place: str | Path, new: str = "") -> tuple[Any, str | Path, tuple[str, ...]]:
    """The class of an engine, and the arguments that name the place to it.

    Of a folder whose engine neither its name nor its files tell it is `new`, else the exact one.
    """
    engine, path, uri, collection = parse_place(place)
    if engine == "milvus":
        return _installed(engine), uri or str(path), (collection, os.environ.get(TOKEN, ""))
    assert path is not None
    engine = engine or new or ("lance" if (path / schema.LANCE_HEAD).exists() else "exact")
    return ExactEngine if engine == "exact" else _installed(engine), path, ()


def _installed(engine: str) -> Any:
    """The class of an engine whose package may be missing."""
    try:
        module = importlib.import_module(f"tmr_jax.index.{engine}")
    except ImportError as error:
        packages, command = PACKAGES[engine]
        raise UserError(
            f"expected {packages} to be installed, got: {error}; run {command}"
        ) from error
    return getattr(module, f"{engine.capitalize()}Engine")
