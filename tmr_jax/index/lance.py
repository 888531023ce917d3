"""An index in LanceDB: one folder, no server, an index on disk that is searched in milliseconds.

    lance.json   width, what it was built from, and, once complete, what became of the rows
    items.lance  ids, vectors and columns, with their indices, as LanceDB keeps them

Results are nearly those of `exact`, from a fraction of the rows: the vectors lie in partitions of
about `PARTITION` rows around centres; the partitions nearest to a query are searched with one byte
per number, and the best rows are scored again by their full vectors. Below `INDEX_FROM` rows every
row is compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, IvfSq

from tmr_jax.data.columns import NUMBER
from tmr_jax.data.features import properties
from tmr_jax.index import schema
from tmr_jax.index.exact import columns_of, keep_text
from tmr_jax.index.schema import COLUMNS, KEPT, Batch, Engine, Filter, IndexUnavailable, Matches
from tmr_jax.types import UserError

FORMAT = 3
HEAD, TABLE = schema.LANCE_HEAD, "items"
INDEX_FROM = 50_000  # rows; comparing fewer one by one takes a few milliseconds
PARTITION = 1_000  # rows around one centre
# How many partitions a search reads, at least, and which share of them: this decides recall. At
# 1,000,000 rows 30 of 1,000 parts had .96 of the ten nearest to real texts in one index and .98 in
# another; 60 have .98 in the first for a few ms more. With a filter as many times more as there are
# fewer rows that meet it, so that as many are scored: under one that 1 % meet 120 parts had .78,
# and all had 1.000 in little more time (experiments/LOG.md).
LEAST, SHARE = 60, 0.01
AGAIN = 4  # times k rows are scored again by their full vectors
ROUNDS, SAMPLE = 15, 128  # of k-means for the centres; rows per centre that it samples
READ = 1_000  # ids per request
FAILURES = (OSError, RuntimeError, pa.ArrowException)  # LanceDB raises any of them


class LanceEngine(Engine):
    """Approximate search beyond `INDEX_FROM` rows, after `optimize`."""

    def __init__(self, folder: Path) -> None:
        """Opens an index; UserError where there is none."""
        self.folder = folder
        self.broken: dict[str, str] = {}  # a table is read as a whole: see `check`
        try:
            head = json.loads((folder / HEAD).read_text("utf-8"))
            self._table = lancedb.connect(folder).open_table(TABLE)
        except (OSError, ValueError, RuntimeError) as error:
            raise IndexUnavailable(
                f"expected an index of LanceDB in {folder}, got no readable one ({error}); "
                "make one: tmr index copy INDEX FOLDER"
            ) from error
        if head.get("format") != FORMAT:
            raise UserError(
                f"expected an index of format {FORMAT} in {folder}, got {head.get('format')}; "
                "copy it again with tmr index copy"
            )
        self.width, self.about = int(head["width"]), dict(head["about"])
        self.account: dict[str, Any] | None = head["account"]
        self._places = schema.places(self.own)
        self._greatest: int | None = None  # id; read at the first write
        self._measure()

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether an index was created; an interrupted creation leaves only its head."""
        return (folder / HEAD).exists() and TABLE in lancedb.connect(folder).list_tables().tables

    @classmethod
    def create(cls, folder: Path, width: int, about: dict[str, Any]) -> LanceEngine:
        """An empty index in a new folder; UserError where the folder holds something else.

        It may hold the rest of an interrupted creation, and a lock.
        """
        if not ((folder / HEAD).is_file() and not cls.exists(folder)):
            schema.check_free(folder, {schema.LOCK})
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _write_head(folder, width, about, None)
            lancedb.connect(folder).create_table(
                TABLE, schema=_schema(width, schema.own_columns(about))
            )
        return cls(folder)

    def upsert(self, batch: Batch) -> None:
        schema.check_batch(batch, self.width, self.own)
        rows = _rows(batch, self.width, self.own)
        if self._greatest is None:
            self._greatest = max(self._numbers(), default=schema.NONE)
        with _writing(self.folder):
            if batch.ids.min(initial=self._greatest + 1) > self._greatest:
                self._table.add(rows)  # much faster than looking for items to replace
            else:
                merge = self._table.merge_insert("id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(rows)
        self._greatest = max(self._greatest, int(batch.ids.max(initial=schema.NONE)))

    def search(self, vectors: np.ndarray, k: int, where: Filter | None = None) -> Matches:
        probes, condition = self._probes(where), sql(where, self._places)
        nearest = (self._nearest(vector, k, probes, condition) for vector in vectors)
        return schema.best_first(nearest, len(vectors), k)

    def _nearest(
        self, vector: np.ndarray, k: int, probes: int, condition: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and cosines."""
        vector = np.asarray(vector, np.float32)
        query: Any = self._table.search(vector)  # its type depends on the argument
        query = query.distance_type("dot").limit(k).select(["id", "_distance"])
        if probes:
            query = query.nprobes(probes).refine_factor(AGAIN)
        if condition:
            query = query.where(condition, prefilter=True)
        with _reading(self.folder):
            rows = query.to_arrow()
        return rows.column("id").to_numpy(), 1 - rows.column("_distance").to_numpy()

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        there = [self._places.get(name, name) for name in names]

        def read(part: list[int]) -> list[dict[str, Any]]:
            query = self._table.search().where(f"id IN ({', '.join(map(str, part))})")
            with _reading(self.folder):
                rows = query.select(["id", *there]).limit(len(part)).to_list()
            pairs = [("id", "id"), *zip(names, there, strict=True)]
            return [{name: row[own] for name, own in pairs} for row in rows]

        return schema.by_id(ids, READ, read)

    def count(self, where: Filter | None = None) -> int:
        with _reading(self.folder):
            return self._table.count_rows(sql(where, self._places) or None)

    def called(self, name: str) -> int | None:
        with _reading(self.folder):
            rows = self._table.search().where(f"name = {_quoted(name)}").select(["id"]).to_arrow()
        return min(rows.column("id").to_pylist(), default=None)

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        numbers = np.array(sorted(self._numbers()), np.int64)
        for low in range(0, len(numbers), size):
            part = numbers[low : low + size]
            # All rows between two ids are read in one request, in any order.
            query = self._table.search().where(f"id >= {part[0]} AND id <= {part[-1]}")
            with _reading(self.folder):
                rows = query.limit(len(part)).to_arrow().sort_by("id").combine_chunks()
            flat = rows.column("vector").combine_chunks().flatten().to_numpy()
            vectors = flat.reshape(-1, self.width)
            yield Batch(rows.column("id").to_numpy(), vectors, columns_of(rows, self._places))

    def optimize(self) -> None:
        """Merges the added fragments and builds the indexes: minutes for a million rows.

        No other process may read or write: everything but the newest version is removed.
        """
        with _writing(self.folder):
            self._optimize()
        self._measure()

    def _optimize(self) -> None:
        moment = timedelta(milliseconds=1)
        self._table.optimize(cleanup_older_than=moment, delete_unverified=True)
        count = self._table.count_rows()
        if count >= INDEX_FROM:
            index = IvfSq(
                distance_type="dot",
                num_partitions=count // PARTITION,
                max_iterations=ROUNDS,
                sample_rate=SAMPLE,
            )
            self._table.create_index("vector", config=index)
            # The other columns are not compared by order.
            for column in ("id", *schema.FLOATS, *schema.INTEGERS):
                self._table.create_index(column, config=BTree())

    def finalize(self, account: dict[str, Any]) -> None:
        with _writing(self.folder):
            _write_head(self.folder, self.width, self.about, account)
        self.account = account

    def read_one(self) -> None:
        """Searches, since counting or opening reads no data files."""
        self.search(np.eye(1, self.width, dtype=np.float32), 1)

    def _measure(self) -> None:
        """Counts rows and partitions."""
        self._count = self._table.count_rows()
        has_index = any("vector" in index.columns for index in self._table.list_indices())
        self._parts = self._count // PARTITION if has_index else 0

    def _probes(self, where: Filter | None) -> int:
        """How many partitions a search reads; 0 without an index."""
        if not self._parts:
            return 0
        least = max(LEAST, int(SHARE * self._parts))
        if where is not None:
            least = math.ceil(least * self._count / max(1, self.count(where)))
        return min(least, self._parts)

    def _numbers(self) -> Iterator[int]:
        """All ids, in no order."""
        with _reading(self.folder):
            query = self._table.search().select(["id"])
            for batch in query.to_batches():
                yield from batch.column("id").to_pylist()


def sql(where: Filter | None, places: Mapping[str, str] = MappingProxyType({})) -> str:
    """A filter as a condition of SQL, or ""; `places` are the user's own columns in the table."""
    if where is None:
        return ""
    parts = [schema.literal(condition) for condition in where.conditions]
    # It has no operations on bits; the masks are not negative.
    for mask, there in ((where.groups, 1), (where.without, 0)):
        for column, part in properties.parts(mask).items():
            parts += [f"({column} / {1 << i}) % 2 = {there}" for i in schema.bits(part)]
    parts += [f"{flag} = false" for flag in where.unflagged]
    for column, sign, value in where.own:
        quoted = _quoted(value) if isinstance(value, str) else repr(value)
        parts.append(f"{places[column]} {sign} {quoted}")
    return " AND ".join(parts)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write_head(
    folder: Path, width: int, about: dict[str, Any], account: dict[str, Any] | None
) -> None:
    head = {"format": FORMAT, "width": width, "about": about, "account": account}
    keep_text(folder / HEAD, json.dumps(head, indent=2) + "\n")


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Names a missing or damaged file."""
    try:
        yield
    except FAILURES as error:
        raise IndexUnavailable(
            f"expected an index that can be read in {folder}, got {error}; copy it again with "
            "tmr index copy"
        ) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Names a full disk, a missing permission or a file in the way."""
    try:
        yield
    except FAILURES as error:
        raise UserError(
            f"expected to write an index to {folder}, got {error}; make room, or choose another "
            "place; what is written is kept, and the same command resumes"
        ) from error


def _schema(width: int, own: Mapping[str, str]) -> pa.Schema:
    kinds = {name: pa.from_numpy_dtype(kind) for name, kind in COLUMNS.items()}
    fields = [pa.field("id", pa.int64()), pa.field("vector", pa.list_(pa.float32(), width))]
    fields += [pa.field(name, kind) for name, kind in kinds.items()]
    fields += [pa.field(name, pa.string()) for name in schema.TEXTS]
    for name, place in schema.places(own).items():
        fields.append(pa.field(place, pa.float64() if own[name] == NUMBER else pa.string()))
    return pa.schema(fields)


def _rows(batch: Batch, width: int, own: Mapping[str, str]) -> pa.Table:
    flat = np.ascontiguousarray(batch.vectors, np.float32).reshape(-1)
    arrays = [pa.array(batch.ids), pa.FixedSizeListArray.from_arrays(pa.array(flat), width)]
    arrays += [pa.array(np.asarray(batch.columns[n], kind)) for n, kind in COLUMNS.items()]
    arrays += [pa.array(list(batch.columns[name]), pa.string()) for name in schema.TEXTS]
    whole = _schema(width, own)
    arrays += [
        pa.array(batch.columns[n], whole.field(p).type) for n, p in schema.places(own).items()
    ]
    return pa.table(arrays, schema=whole)
