"""An index as a folder of shards, searched row by row.

    library.json            width, what it was built from, format
    shards/000000/rows.f32  vectors, float32 [n, D], by rows
                  entries.arrow  ids, columns and the user's own columns, an Arrow file of one
                                 record batch
                  shard.json     how many, and the SHA-256 of the other two
    manifest.json           marks a complete index: what became of the rows, and all shards

A shard is written under another name and moved into place, so every shard is complete even if the
writer is killed. Files are mapped, not read: a search uses memory only for what it touches.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tmr_jax.data.columns import NUMBER
from tmr_jax.data.features.properties import MASKS
from tmr_jax.data.files import new_folder, replaced, sha256_of, to_disk
from tmr_jax.index import schema
from tmr_jax.index.schema import COLUMNS, KEPT, Batch, Engine, Filter, IndexUnavailable, Matches
from tmr_jax.types import UserError

FORMAT = 3
READABLE = (2, FORMAT)  # 2 has no column of classes: see schema.has_classes
HEAD, SHARDS, MANIFEST = "library.json", "shards", "manifest.json"
PARTS = "parts"  # folder of an index that is not joined yet: see `tmr_jax.index.parts`
ROWS, ENTRIES, SEAL = "rows.f32", "entries.arrow", "shard.json"
FEW = 0.2  # below this share of rows that meet a filter, they are gathered first
TILE = 8  # queries per block, always, so that the bits of a score do not depend on other queries
NO_IDS = np.zeros(0, np.int64)
ARROW = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "=": "equal"}
AT_ONCE = 1.0  # seconds that one check reads bytes for; at least one shard

Stamp = tuple[tuple[int, int, int], ...]  # inode, size and time of change of each file of a shard
# Files of a shard whose every byte was read, and what is wrong with them: the next opening of the
# index in this process leaves damaged shards out.
_seen: dict[Path, tuple[Stamp, str]] = {}


class Shard(NamedTuple):
    """A mapped shard."""

    ids: np.ndarray  # int64 [n]
    rows: np.ndarray  # float32 [n, D]
    columns: dict[str, np.ndarray]  # of COLUMNS
    table: pa.RecordBatch  # with TEXTS


class ExactEngine(Engine):
    """Every row is compared with every query: the truth, and fast enough up to a million rows."""

    def __init__(self, folder: Path) -> None:
        """Opens an index; UserError where there is none, IndexUnavailable where it cannot be read.

        A damaged or missing shard is left out and named in `broken`.
        """
        self.folder = folder
        self.width, self.about = read_head(folder)
        self.account, named = _read_manifest(folder)
        self._shards: list[Shard] = []
        try:
            places = shard_places(folder)
            missing = set(named) - {place.name for place in places}
            self.broken = dict.fromkeys(sorted(missing), "is missing")
            for place in places:
                self._open(place)
        except OSError as error:
            raise IndexUnavailable(
                f"expected an index that can be read in {folder}, got {error}; build it again "
                "with tmr index, or check its permissions"
            ) from error
        self._order()

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether an index was created."""
        return (folder / HEAD).exists()

    @classmethod
    def create(cls, folder: Path, width: int, about: dict[str, Any]) -> ExactEngine:
        """An empty index in a new folder; UserError where the folder holds something else.

        It may hold the rest of an interrupted creation, parts to join, and a lock.
        """
        schema.check_free(folder, {SHARDS, PARTS, schema.LOCK})
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "width": width, "about": about}
        keep_text(folder / HEAD, json.dumps(head, indent=2) + "\n")
        return cls(folder)

    def upsert(self, batch: Batch) -> None:
        number = 1 + max((int(p.name) for p in shard_places(self.folder)), default=-1)
        write_shard(self.folder, number, batch, self.width, {}, self.own)
        self._open(self.folder / SHARDS / f"{number:06}")
        self._order()

    def search(self, vectors: np.ndarray, k: int, where: Filter | None = None) -> Matches:
        tiles = (vectors[low : low + TILE] for low in range(0, len(vectors), TILE))
        nearest = (found for tile in tiles for found in self._nearest(tile, k, where))
        return schema.best_first(nearest, len(vectors), k, bool(self.broken))

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        return [self._item(int(i), names) for i in ids]

    def count(self, where: Filter | None = None) -> int:
        return sum(int(self._live(i, where).sum()) for i in range(len(self._shards)))

    def called(self, name: str) -> int | None:
        found = []
        for shard, current in zip(self._shards, self._current, strict=True):
            names = shard.table.column("name")
            same = pc.call_function("equal", [names, name]).to_numpy(zero_copy_only=False)
            found += shard.ids[np.flatnonzero(same & current)].tolist()
        return min(found, default=None)

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        live = [np.flatnonzero(current) for current in self._current]
        shard = np.repeat(np.arange(len(live)), [len(rows) for rows in live])
        row = np.concatenate([NO_IDS, *live])
        parts = (s.ids[rows] for s, rows in zip(self._shards, live, strict=True))
        order = np.argsort(np.concatenate([NO_IDS, *parts]), kind="stable")
        for low in range(0, len(order), size):
            part = order[low : low + size]
            yield self._gathered(shard[part], row[part])

    def _gathered(self, shard: np.ndarray, row: np.ndarray) -> Batch:
        """The items at rows of shards, in that order."""
        parts = [(self._shards[number], row[shard == number]) for number in np.unique(shard)]
        back = np.argsort(np.argsort(shard, kind="stable"))  # from the order of the shards
        table = pa.Table.from_batches([s.table.take(pa.array(rows)) for s, rows in parts])
        vectors = np.concatenate([s.rows[rows] for s, rows in parts])[back]
        table = table.take(pa.array(back))
        return Batch(
            table.column("id").to_numpy(),
            vectors,
            columns_of(table, dict(zip(self.own, self.own, strict=True))),
        )

    def finalize(self, account: dict[str, Any]) -> None:
        ids, parts = hashlib.sha256(), {}
        for place in shard_places(self.folder):
            seal = read_seal(place)
            parts[place.name] = {"count": seal["count"], "files": seal["files"]}
            ids.update(np.ascontiguousarray(map_shard(place, self.width).ids, "<i8").tobytes())
        whole = account | {"ids_sha256": ids.hexdigest(), "parts": parts}
        keep_text(self.folder / MANIFEST, json.dumps(whole, indent=1) + "\n")
        self.account = account

    def check(self) -> dict[str, str]:
        """Shards whose files are missing, cut, or hold other bytes.

        Reads the bytes of changed shards, and once those of every other, a few at a time.
        """
        try:
            bad, places = dict(ExactEngine(self.folder).broken), shard_places(self.folder)
        except (ValueError, OSError) as error:
            return {schema.WHOLE: str(error)}
        fresh = [p for p in places if p.name not in bad and not _is_read(p)]
        end = time.monotonic() + AT_ONCE
        for place in sorted(fresh, key=lambda p: p not in _seen):  # changed ones first
            if wrong := damage(place, self.width, deep=True):
                bad[place.name] = wrong
            if time.monotonic() > end:
                break
        return bad

    def close(self) -> None:
        self._shards = []

    def verify(self) -> dict[str, str]:
        """Reads every byte: the shards that differ from what was written, and why."""
        places = (p for p in shard_places(self.folder) if p.name not in self.broken)
        damaged = {place.name: damage(place, self.width, deep=True) for place in places}
        return self.broken | {name: wrong for name, wrong in damaged.items() if wrong}

    def _open(self, place: Path) -> None:
        if wrong := damage(place, self.width):
            self.broken[place.name] = wrong
        else:
            self._shards.append(map_shard(place, self.width))

    def _order(self) -> None:
        """Finds the rows of each shard that no later one replaces."""
        ids = [s.ids for s in self._shards]
        whole = np.concatenate([NO_IDS, *ids])
        current = np.ones(len(whole), bool)
        if not (np.diff(whole) > 0).all():
            current[:] = False
            current[len(whole) - 1 - np.unique(whole[::-1], return_index=True)[1]] = True
        starts = np.cumsum([0, *map(len, ids)])
        self._current = [current[a:b] for a, b in pairwise(starts)]

    def _live(self, number: int, where: Filter | None) -> np.ndarray:
        """Rows of a shard that are current and meet the filter, bool [n]."""
        live, shard = self._current[number], self._shards[number]
        if where:
            live = live & schema.meets(shard.columns, where)
            for condition in where.own:
                live &= _meets(shard.table, condition)
        return live

    def _nearest(
        self, vectors: np.ndarray, k: int, where: Filter | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and cosines of the k best rows of each shard, for each of at most TILE queries."""
        tile = np.zeros((TILE, self.width), np.float32)
        tile[: len(vectors)] = vectors
        best = [[(NO_IDS, np.zeros(0, np.float32))] for _ in vectors]
        for number, shard in enumerate(self._shards):
            live = self._live(number, where)
            rows = np.flatnonzero(live)
            if not len(rows):
                continue
            part = rows if len(rows) < FEW * len(live) else slice(None)
            scored = _scored(tile, shard.ids[part], shard.rows[part], live[part], k)
            for lists, ids, scores in zip(best, *scored, strict=False):
                lists.append(_best(ids, scores, k))
        for lists in best:
            ids, scores = (np.concatenate(parts) for parts in zip(*lists, strict=True))
            yield ids, scores

    def _item(self, wanted: int, names: Sequence[str]) -> dict[str, Any] | None:
        for number in reversed(range(len(self._shards))):
            shard = self._shards[number]
            row = int(np.searchsorted(shard.ids, wanted))
            if row < len(shard.ids) and shard.ids[row] == wanted:
                return {"id": wanted} | {name: _value(shard, name, row) for name in names}
        return None


def _value(shard: Shard, name: str, row: int) -> Any:
    if name == "vector":
        return np.array(shard.rows[row])
    if name in COLUMNS:
        return shard.columns[name][row].item()
    return shard.table.column(name)[row].as_py()


def _meets(table: pa.RecordBatch, condition: schema.OwnCondition) -> np.ndarray:
    """Which rows meet it, bool [n]."""
    column, sign, value = condition
    column = table.column(column)
    met = pc.call_function(ARROW[sign], [column, pa.scalar(value, column.type)])
    return met.fill_null(False).to_numpy(zero_copy_only=False)


def columns_of(table: pa.Table, own: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a `Batch`; `own` says what the user's are called in the table."""
    columns: dict[str, Any] = {
        name: table.column(name).to_numpy().astype(kind) for name, kind in COLUMNS.items()
    }
    columns |= {name: table.column(name).to_pylist() for name in schema.TEXTS}
    return columns | {name: table.column(there).to_pylist() for name, there in own.items()}


def _scored(
    tile: np.ndarray, ids: np.ndarray, rows: np.ndarray, live: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [TILE, K] and cosines of rows, the k best live ones among them; -inf if not live."""
    if is_accelerated():
        from tmr_jax.index import scan  # only accelerators need it

        places, scores = scan.best_of_block(tile, rows, live, k)
        return ids[places], scores
    scores = tile @ rows.T
    scores[:, ~live] = -np.inf
    return np.broadcast_to(ids, scores.shape), scores


def is_accelerated() -> bool:
    """Whether devices are faster than numpy, which uses all cores of a CPU."""
    import jax  # takes a second, which copying does not need

    return jax.local_devices()[0].platform != "cpu"


def _best(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """At most k of one query, of equal cosines the lower ids; none of -inf."""
    edge = np.partition(scores, -k)[-k] if len(scores) > k else -np.inf
    near = np.flatnonzero((scores >= edge) & (scores > -np.inf))
    if len(near) > k:  # many may tie with the k-th
        near = near[np.lexsort((ids[near], -scores[near]))[:k]]
    return ids[near], scores[near]


# Files


def read_head(folder: Path) -> tuple[int, dict[str, Any]]:
    """Width and origin of an index; UserError where they are missing or of another format."""
    if (folder / PARTS).is_dir() and not (folder / HEAD).exists():
        raise UserError(
            f"expected an index in {folder}, got parts of one; join them: tmr index join {folder}"
        )
    try:
        head = json.loads((folder / HEAD).read_text("utf-8"))
        if head.get("format") in READABLE:
            return int(head["width"]), dict(head["about"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"expected an index in {folder}, got no readable {HEAD} ({error}); "
            "build one: tmr index --run runs/NAME --library FILE --out FOLDER"
        ) from error
    raise UserError(
        f"expected an index of format {FORMAT} in {folder}, got {head.get('format')}; "
        "build it again with tmr index"
    )


def _read_manifest(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What became of the rows, and all shards; None and {} for an incomplete index."""
    try:
        whole = json.loads((folder / MANIFEST).read_text("utf-8"))
        parts = whole.pop("parts")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None, {}
    whole.pop("ids_sha256", None)
    return whole, parts


def shard_places(folder: Path) -> list[Path]:
    """The folders of all shards, by number."""
    named = (p for p in (folder / SHARDS).iterdir() if p.name.isdigit())
    return sorted(named, key=lambda p: int(p.name))


def write_shard(
    folder: Path,
    number: int,
    batch: Batch,
    width: int,
    more: dict[str, Any],
    own: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a shard under another name and moves it into place; `more` goes into shard.json.

    `own` are names and kinds of the user's own columns. Rows are in the order of their ids. Raises
    OSError where the disk is full, and leaves nothing.
    """
    schema.check_batch(batch, width, own)
    order = np.argsort(batch.ids)
    with new_folder(folder / SHARDS / f"{number:06}") as part:
        np.ascontiguousarray(batch.vectors[order], "<f4").tofile(part / ROWS)
        arrays = {"id": pa.array(batch.ids[order])}
        for name, kind in COLUMNS.items():
            column = np.asarray(batch.columns[name], kind)[order]
            arrays[name] = pa.array(column.view(np.uint8) if kind is np.bool_ else column)
        for name in schema.TEXTS:
            arrays[name] = pa.array([batch.columns[name][i] for i in order], pa.large_string())
        for name, kind in own.items():
            arrow = pa.float64() if kind == NUMBER else pa.large_string()
            arrays[name] = pa.array([batch.columns[name][i] for i in order], arrow)
        table = pa.record_batch(arrays)
        with pa.OSFile(str(part / ENTRIES), "wb") as sink, pa.ipc.new_file(sink, table.schema) as w:
            w.write_batch(table)
        files = {name: sha256_of(part / name) for name in (ROWS, ENTRIES)}
        seal = {"count": len(order), "files": files, **more}
        (part / SEAL).write_text(json.dumps(seal), "utf-8")
        for name in (ROWS, ENTRIES, SEAL):
            to_disk(part / name)


def read_seal(place: Path) -> dict[str, Any]:
    return json.loads((place / SEAL).read_text("utf-8"))


def damage(place: Path, width: int, deep: bool = False) -> str:
    """What is wrong with a shard, or "". `deep` compares every byte with its hash.

    Without it, the last such comparison in this process counts for the same files.
    """
    try:
        stamp = _stamp(place)
        seal = read_seal(place)
        size = (place / ROWS).stat().st_size
        if size != 4 * width * seal["count"]:
            return f"{ROWS} has {size} bytes, {4 * width * seal['count']} were written"
        with pa.memory_map(str(place / ENTRIES)) as source:
            table = pa.ipc.open_file(source).get_batch(0)
            if table.num_rows != seal["count"]:
                return f"{ENTRIES} has {table.num_rows} rows, {seal['count']} were written"
        if deep:
            wrong = [n for n, digest in seal["files"].items() if sha256_of(place / n) != digest]
            _seen[place] = stamp, f"{wrong[0]} differs from what was written" if wrong else ""
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        return str(error)
    read_stamp, problem = _seen.get(place, (stamp, ""))
    return problem if read_stamp == stamp else ""


def _stamp(place: Path) -> Stamp:
    stats = [(place / name).stat() for name in (ROWS, ENTRIES, SEAL)]
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)


def _is_read(place: Path) -> bool:
    """Whether this process has read every byte of a shard since it last changed."""
    try:
        return place in _seen and _seen[place][0] == _stamp(place)
    except OSError:  # it just vanished: the next check reports it
        return True


def map_shard(place: Path, width: int) -> Shard:
    table = pa.ipc.open_file(pa.memory_map(str(place / ENTRIES))).get_batch(0)
    ids = table.column("id").to_numpy()
    for name in (n for n in MASKS if n not in table.schema.names):
        table = table.append_column(name, pa.array(np.zeros(len(ids), np.int64)))
    columns = {name: table.column(name).to_numpy().view(kind) for name, kind in COLUMNS.items()}
    rows = np.zeros((0, width), np.float32)
    if len(ids):  # or there is nothing to map
        rows = np.memmap(place / ROWS, np.dtype("<f4"), "r", shape=(len(ids), width))
    return Shard(ids, rows, columns, table)


def keep_text(path: Path, text: str) -> None:
    """Writes a text file that survives a loss of power."""
    with replaced(path) as partial:
        partial.write_text(text, "utf-8")
        to_disk(partial)
