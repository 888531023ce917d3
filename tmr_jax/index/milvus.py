"""An index in Milvus: a cluster by its address, or a file of Milvus Lite, by the same client.

Results are nearly those of `exact`. The collection NAME has the items; a second one, NAME_about,
has what they were built from and, once complete, what became of the rows. An embedded file is
served by threads of this process on a port of the loopback address, to one process at a time, and
each search reads all rows in Python: good for trying out a cluster, not for many rows (use
`lance`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from milvus_lite import DataDirLockedError, server_manager
from pymilvus import DataType, MilvusClient, MilvusException

from tmr_jax.data.features import properties
from tmr_jax.index import schema
from tmr_jax.index.schema import COLUMNS, KEPT, Batch, Engine, Filter, IndexUnavailable, Matches
from tmr_jax.types import UserError

FORMAT = 3  # the same numbers as of the other engines
NEIGHBOURS, BUILD_EFFORT = 16, 200  # of the HNSW graph: M and efConstruction
# How many candidates a search keeps, at least: with a filter most of them do not meet it.
EFFORT, EFFORT_FILTERED = 128, 1_024
AT_ONCE = 2_000  # rows of a message: 4 MB, where a server takes 64
PAGE = 10_000  # rows of a page, which Milvus limits to 16,384
MOST = 16_384  # hits of one search: Milvus' own limit
LONGEST = 65_535  # bytes of a text: Milvus' own limit
PATIENCE = 10.0  # seconds to wait for a server
OWN = "own"  # the user's own columns as one JSON object: a collection has few fields
BITS = "group_bits"  # all masks as one list of numbers: Milvus has no operations on bits
SECRET = "***"
KINDS = {np.float32: DataType.FLOAT, np.int32: DataType.INT32, np.int64: DataType.INT64}

# It raises what it logs, too, and its log lines hold whole tracebacks.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class _Failures(logging.Handler):
    """Keeps the last error that Milvus Lite logs in place of raising it."""

    last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.exc_info[1] if record.exc_info else self.last


FAILURES = _Failures()
logging.getLogger("milvus_lite").addHandler(FAILURES)
logging.getLogger("milvus_lite").propagate = False


class MilvusEngine(Engine):
    """Approximate search in a cluster; `uri` is http(s)://HOST:PORT, or a path that ends in .db."""

    def __init__(self, uri: str, name: str = "library", token: str = "") -> None:
        """Opens an index; UserError where there is none, or the server does not answer."""
        self.broken: dict[str, str] = {}  # a server answers for all or not at all: see `check`
        if not self.exists(uri, name, token):
            raise UserError(
                f"expected an index in the collection {name!r} at {uri}, got none; make it: "
                f"tmr index copy INDEX {_words(uri, name)}"
            )
        self._server, self._name = _Server(uri, token), name
        for collection in (_head_of(name), name):  # only loaded collections are searched
            self._server.ask("load_collection", collection)
        (row,) = self._server.ask(
            "query", _head_of(name), filter="id == 0", output_fields=["head"], **STRONG
        )
        head = json.loads(row["head"])
        if head.get("format") != FORMAT:
            self._server.close()
            raise UserError(
                f"expected an index of format {FORMAT} in the collection {name!r} at {uri}, got "
                f"{head.get('format')}; copy it again under another name with tmr index copy"
            )
        self.width, self.about = int(head["width"]), dict(head["about"])
        self.account: dict[str, Any] | None = head["account"]
        self._places = schema.places(self.own)

    @staticmethod
    def exists(uri: str, name: str = "library", token: str = "") -> bool:
        """Whether an index was created; its items are created last."""
        if uri.endswith(schema.LITE) and not Path(uri).exists():
            return False  # Milvus Lite would make it
        with closing(_Server(uri, token)) as server:
            return server.ask("has_collection", name)

    @classmethod
    def create(
        cls, uri: str, width: int, about: dict[str, Any], name: str = "library", token: str = ""
    ) -> MilvusEngine:
        """An empty index; UserError where a collection of that name exists."""
        if cls.exists(uri, name, token):
            raise UserError(
                f"expected no collection {name!r} at {uri}, got one; choose another name"
            )
        if uri.endswith(schema.LITE):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        with closing(_Server(uri, token)) as server:
            if server.ask("has_collection", _head_of(name)):  # of an interrupted creation
                server.ask("drop_collection", _head_of(name))
            _create_head(server, name)
            _write_head(server, name, {"width": width, "about": about, "account": None})
            _create_items(server, name, width, bool(schema.own_columns(about)))
        return cls(uri, name, token)

    def upsert(self, batch: Batch) -> None:
        """An interruption may leave the beginning of a batch of more than `AT_ONCE` rows."""
        schema.check_batch(batch, self.width, self.own)
        rows = [_row(batch, i, self._places) for i in np.argsort(batch.ids).tolist()]
        for low in range(0, len(rows), AT_ONCE):
            self._server.ask("upsert", self._name, rows[low : low + AT_ONCE])

    def search(self, vectors: np.ndarray, k: int, where: Filter | None = None) -> Matches:
        least = EFFORT if where is None else EFFORT_FILTERED
        answers = self._server.ask(
            "search",
            self._name,
            data=list(np.asarray(vectors, np.float32)),
            limit=min(k, MOST),
            filter=expression(where, self._places),
            search_params={"params": {"ef": max(least, 2 * k)}},
            output_fields=["id"],
        )
        nearest = (
            (
                np.array([h["id"] for h in hits], np.int64),
                np.array([h["distance"] for h in hits], np.float32),
            )
            for hits in answers
        )
        return schema.best_first(nearest, len(vectors), k)

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        own = [name for name in names if name in self._places]
        ours = ["id", *(name for name in names if name not in own)]
        columns = [*ours, OWN] if own else ours

        def read(part: list[int]) -> list[dict[str, Any]]:
            rows = self._server.ask("get", self._name, ids=part, output_fields=columns)
            return [{n: row[n] for n in ours} | self._own_of(row, own) for row in rows]

        return schema.by_id(ids, AT_ONCE, read)

    def count(self, where: Filter | None = None) -> int:
        words = {"filter": expression(where, self._places), "output_fields": ["count(*)"]}
        return int(self._server.ask("query", self._name, **words, **STRONG)[0]["count(*)"])

    def called(self, name: str) -> int | None:
        same = f"name == {json.dumps(name, ensure_ascii=False)}"
        rows = self._server.ask("query", self._name, filter=same, output_fields=["id"], limit=MOST)
        return min((row["id"] for row in rows), default=None)

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        names = ["id", "vector", *KEPT, *([OWN] if self.own else [])]
        words: dict[str, Any] = {"batch_size": min(size, PAGE), "filter": "id >= 0", **STRONG}
        pages = self._server.ask("query_iterator", self._name, output_fields=names, **words)
        last = schema.NONE
        while items := self._server.result_of(pages.next):
            ids = np.array([item["id"] for item in items], np.int64)
            assert last < ids[0] and (np.diff(ids) > 0).all()  # Milvus goes by the primary key
            columns: dict[str, Any] = {
                name: np.array([item[name] for item in items], kind)
                for name, kind in COLUMNS.items()
            }
            columns |= {name: [item[name] for item in items] for name in schema.TEXTS}
            cells = [self._own_of(item, [*self.own]) for item in items]
            columns |= {name: [cell[name] for cell in cells] for name in self.own}
            vectors = np.array([item["vector"] for item in items], np.float32)
            yield Batch(ids, vectors, columns)
            last = int(ids[-1])
        pages.close()

    def _own_of(self, row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Cells of the user's own columns, None for an empty one."""
        cells = row.get(OWN) or {}
        return {name: cells.get(self._places[name]) for name in names}

    def optimize(self) -> None:
        """Milvus builds its index as rows arrive; this waits until all are in it."""
        self._server.ask("flush", self._name)

    def finalize(self, account: dict[str, Any]) -> None:
        head = {"width": self.width, "about": self.about, "account": account}
        _write_head(self._server, self._name, head)
        self.account = account

    def read_one(self) -> None:
        words: dict[str, Any] = {"output_fields": ["id"], "timeout": PATIENCE}
        self._server.ask("get", self._name, ids=[0], **words)

    def close(self) -> None:
        self._server.close()


STRONG = {"consistency_level": "Strong"}  # a copy reads what it has just written


class _Server:
    """A connection whose errors name the server and never the token."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri, self._token = uri, token
        FAILURES.last = None
        try:
            self._client = self.result_of(lambda: MilvusClient(uri, token=token, timeout=PATIENCE))
        except IndexUnavailable:
            if FAILURES.last is None:
                raise
            raise _lite_failed(uri, FAILURES.last) from None

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        return self.result_of(lambda: getattr(self._client, verb)(*args, **options))

    def result_of(self, request: Any) -> Any:
        """The result of a request; IndexUnavailable where Milvus fails."""
        try:
            return request()
        except MilvusException as error:
            message = str(error).replace(self._token, SECRET) if self._token else str(error)
        raise IndexUnavailable(
            f"expected an answer from Milvus at {self._uri}, got: {message}; check that it "
            "runs there, and set TMR_JAX_MILVUS_TOKEN if it needs a token"
        )

    def close(self) -> None:
        self._client.close()
        if self._uri.endswith(schema.LITE):
            server_manager.server_manager_instance.release_server(self._uri)


def _lite_failed(uri: str, error: BaseException) -> IndexUnavailable:
    if isinstance(error, DataDirLockedError):
        return IndexUnavailable(
            f"expected to open {uri}, got a file that another process has open; stop that process, "
            "or copy the index"
        )
    return IndexUnavailable(f"expected an index of Milvus Lite in {uri}, got: {error}")


def expression(where: Filter | None, places: Mapping[str, str] = MappingProxyType({})) -> str:
    """A filter as a Milvus expression, or ""; `places` are the keys of the user's own columns."""
    if where is None:
        return ""
    parts = [schema.literal(condition, "==") for condition in where.conditions]
    if where.groups:
        parts.append(f"ARRAY_CONTAINS_ALL({BITS}, {schema.bits(where.groups)})")
    if where.without:
        parts.append(f"not ARRAY_CONTAINS_ANY({BITS}, {schema.bits(where.without)})")
    parts += [f"{flag} == false" for flag in where.unflagged]
    for column, sign, value in where.own:
        equal = "==" if sign == "=" else sign
        parts.append(f'{OWN}["{places[column]}"] {equal} {json.dumps(value, ensure_ascii=False)}')
    return " and ".join(parts)


def _row(batch: Batch, i: int, places: Mapping[str, str]) -> dict[str, Any]:
    """One item as Milvus takes it; UserError where a text is beyond its limit."""
    row: dict[str, Any] = {"id": int(batch.ids[i]), "vector": batch.vectors[i]}
    row |= {name: batch.columns[name][i].item() for name in COLUMNS}
    row[BITS] = schema.bits(properties.joined(row))
    texts = {name: batch.columns[name][i] for name in schema.TEXTS}
    row |= texts
    if places:
        cells = {place: batch.columns[name][i] for name, place in places.items()}
        row[OWN] = {place: cell for place, cell in cells.items() if cell is not None}
        texts["row of the file's own columns"] = json.dumps(row[OWN], ensure_ascii=False)
    for name, text in texts.items():
        if len(text.encode()) > LONGEST:
            raise UserError(
                f"expected a {name} of at most {LONGEST:,} bytes, which is Milvus' limit, got "
                f"{len(text.encode()):,} of the item {row['id']}; copy to LanceDB, or "
                "remove it"
            )
    return row


def _head_of(name: str) -> str:
    return f"{name}_about"


def _words(uri: str, name: str) -> str:
    """The place as `tmr index copy` takes it."""
    return f"milvus:{uri}" if uri.endswith(schema.LITE) else f"{uri}/{name}"


def _create_head(server: _Server, name: str) -> None:
    """A collection for one row; the vector is there because Milvus requires one."""
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.INT64, is_primary=True)
    fields.add_field("place", DataType.FLOAT_VECTOR, dim=2)
    fields.add_field("head", DataType.VARCHAR, max_length=LONGEST)
    index = MilvusClient.prepare_index_params()
    index.add_index("place", index_type="FLAT", metric_type="L2")
    server.ask("create_collection", _head_of(name), schema=fields, index_params=index)


def _write_head(server: _Server, name: str, head: dict[str, Any]) -> None:
    row = {"id": 0, "place": [0.0, 0.0], "head": json.dumps({"format": FORMAT, **head})}
    server.ask("upsert", _head_of(name), [row])


def _create_items(server: _Server, name: str, width: int, has_own: bool) -> None:
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.INT64, is_primary=True)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    for column, kind in COLUMNS.items():
        fields.add_field(column, KINDS.get(kind, DataType.BOOL))
    fields.add_field(BITS, DataType.ARRAY, element_type=DataType.INT16, max_capacity=128)
    for text in schema.TEXTS:
        fields.add_field(text, DataType.VARCHAR, max_length=LONGEST)
    if has_own:
        fields.add_field(OWN, DataType.JSON)
    index = MilvusClient.prepare_index_params()
    graph = {"M": NEIGHBOURS, "efConstruction": BUILD_EFFORT}
    index.add_index("vector", index_type="HNSW", metric_type="IP", params=graph)
    # Who wrote a row reads it; others may wait for seconds, and ask with STRONG where that matters.
    level = {"consistency_level": "Session"}
    server.ask("create_collection", name, schema=fields, index_params=index, **level)
