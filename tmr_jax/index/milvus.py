"""A library in Milvus: a cluster by its address, or a file of Milvus Lite, by the same client.

In: batches as every store takes them. Out: nearly the answers of `exact`. The collection NAME has
the items; what they were made of, and once it is whole what became of the rows, is in a second one,
NAME_about. An embedded file is served by threads of this process on a port of the loopback address,
to one process at a time, and each search goes over all rows in Python: good for trying out what a
cluster will do, not for a large library (`lance` is).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from tmr_jax.index.schema import (
    COLUMNS,
    KEPT,
    LITE,
    MASK,
    NONE,
    TEXTS,
    WHOLE,
    Batch,
    Filter,
    IndexUnavailable,
    Matches,
    bits,
    check_batch,
    literal,
)
from tmr_jax.types import UserError

FORMAT = 2  # as the other engines count
NEIGHBOURS, BUILD_EFFORT = 16, 200  # of the graph, and of its making
# How many candidates a search keeps, at least: with a filter most of them are none.
EFFORT, EFFORT_FILTERED = 128, 1_024
AT_ONCE = 2_000  # rows of a message: 4 MB, where a server takes 64
PAGE = 10_000  # rows that a server is asked for at once, of at most 16,384
MOST = 16_384  # hits of one search: Milvus' own limit
LONGEST = 65_535  # bytes of a text: Milvus' own limit
PATIENCE = 10.0  # seconds until a server that does not answer is given up
BITS = "group_bits"  # the mask as a list of numbers: its language has no operations on bits
SECRET = "***"
KINDS = {np.float32: DataType.FLOAT, np.int32: DataType.INT32, np.int64: DataType.INT64}

# What it logs it raises, too, and its lines hold whole tracebacks.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


class MilvusEngine:
    """Approximate search in a cluster; `uri` is http(s)://HOST:PORT, or a path that ends in .db."""

    def __init__(self, uri: str, name: str = "library", token: str = "") -> None:
        """Opens a library; ValueError where there is none, or no answer."""
        self.broken: dict[str, str] = {}  # a server answers for all or not at all: see `look`
        if not self.exists(uri, name, token):
            raise UserError(
                f"expected a library in the collection {name!r} at {uri}, got none; make it: "
                f"tmr index copy LIBRARY {_words(uri, name)}"
            )
        self._server, self._name = _Server(uri, token), name
        for collection in (_beside(name), name):  # what is not loaded is not searched
            self._server.ask("load_collection", collection)
        (row,) = self._server.ask(
            "query", _beside(name), filter="id == 0", output_fields=["head"], **STRONG
        )
        head = json.loads(row["head"])
        if head.get("format") != FORMAT:
            self._server.close()
            raise UserError(
                f"expected a library of format {FORMAT} in the collection {name!r} at {uri}, got "
                f"{head.get('format')}; copy it again under another name with tmr index copy"
            )
        self.width, self.about = int(head["width"]), dict(head["about"])
        self.account: dict[str, Any] | None = head["account"]

    @staticmethod
    def exists(uri: str, name: str = "library", token: str = "") -> bool:
        """Whether a library was created: the items come after the head."""
        if uri.endswith(LITE) and not Path(uri).exists():
            return False  # Milvus Lite would make it
        with closing(_Server(uri, token)) as server:
            return server.ask("has_collection", name)

    @classmethod
    def create(
        cls, uri: str, width: int, about: dict[str, Any], name: str = "library", token: str = ""
    ) -> MilvusEngine:
        """An empty library; ValueError where a collection of that name is there."""
        if cls.exists(uri, name, token):
            raise UserError(
                f"expected no collection {name!r} at {uri}, got one; choose another name"
            )
        if uri.endswith(LITE):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        with closing(_Server(uri, token)) as server:
            if server.ask("has_collection", _beside(name)):  # of a creation that was stopped
                server.ask("drop_collection", _beside(name))
            _create_head(server, name)
            _write_head(server, name, {"width": width, "about": about, "account": None})
            _create_items(server, name, width)
        return cls(uri, name, token)

    def upsert(self, batch: Batch) -> None:
        """A batch beyond `AT_ONCE` rows that is cut off leaves its beginning."""
        check_batch(batch, self.width)
        rows = [_row(batch, i) for i in np.argsort(batch.ids).tolist()]
        for low in range(0, len(rows), AT_ONCE):
            self._server.ask("upsert", self._name, rows[low : low + AT_ONCE])

    def search(self, vectors: np.ndarray, k: int, where: Filter | None = None) -> Matches:
        ids = np.full((len(vectors), k), NONE, np.int64)
        scores = np.full((len(vectors), k), -np.inf, np.float32)
        least = EFFORT if where is None else EFFORT_FILTERED
        answers = self._server.ask(
            "search",
            self._name,
            data=list(np.asarray(vectors, np.float32)),
            limit=min(k, MOST),
            filter=expression(where),
            search_params={"params": {"ef": max(least, 2 * k)}},
            output_fields=["id"],
        )
        for i, hits in enumerate(answers):
            own = np.array([hit["distance"] for hit in hits], np.float32)
            number = np.array([hit["id"] for hit in hits], np.int64)
            order = np.lexsort((number, -own))
            ids[i, : len(order)], scores[i, : len(order)] = number[order], own[order]
        return Matches(ids, scores)

    def get(self, ids: Sequence[int], names: Sequence[str] = KEPT) -> list[dict[str, Any] | None]:
        names = ["id", *names]
        wanted = [int(i) for i in dict.fromkeys(ids)]
        found: dict[int, dict[str, Any]] = {}
        for low in range(0, len(wanted), AT_ONCE):
            part = wanted[low : low + AT_ONCE]
            rows = self._server.ask("get", self._name, ids=part, output_fields=names)
            found |= {row["id"]: {name: row[name] for name in names} for row in rows}
        for row in found.values() if "vector" in names else ():
            row["vector"] = np.array(row["vector"], np.float32)
        return [found.get(int(i)) for i in ids]

    def count(self, where: Filter | None = None) -> int:
        words = {"filter": expression(where), "output_fields": ["count(*)"]}
        return int(self._server.ask("query", self._name, **words, **STRONG)[0]["count(*)"])

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        names = ["id", "vector", *KEPT]
        words: dict[str, Any] = {"batch_size": min(size, PAGE), "filter": "id >= 0", **STRONG}
        pages = self._server.ask("query_iterator", self._name, output_fields=names, **words)
        last = NONE
        while items := self._server.told(pages.next):
            ids = np.array([item["id"] for item in items], np.int64)
            assert last < ids[0] and (np.diff(ids) > 0).all()  # Milvus goes by the primary key
            columns: dict[str, Any] = {
                name: np.array([item[name] for item in items], kind)
                for name, kind in COLUMNS.items()
            }
            columns |= {name: [item[name] for item in items] for name in TEXTS}
            vectors = np.array([item["vector"] for item in items], np.float32)
            yield Batch(ids, vectors, columns)
            last = int(ids[-1])
        pages.close()

    def optimize(self) -> None:
        """Milvus makes its index as rows come in; this waits until all are in it."""
        self._server.ask("flush", self._name)

    def finalize(self, account: dict[str, Any]) -> None:
        head = {"width": self.width, "about": self.about, "account": account}
        _write_head(self._server, self._name, head)
        self.account = account

    def check(self) -> dict[str, str]:
        """Asked for one item: cheap for a cluster, and for a file, whose searches read all rows."""
        try:
            words: dict[str, Any] = {"output_fields": ["id"], "timeout": PATIENCE}
            self._server.ask("get", self._name, ids=[0], **words)
        except IndexUnavailable as error:
            return {WHOLE: str(error)}
        return {}

    def close(self) -> None:
        self._server.close()


STRONG = {"consistency_level": "Strong"}  # a copy reads what it has just written


class _Server:
    """A connection whose errors say where, and never say the token."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri, self._token = uri, token
        self._client = self.told(lambda: MilvusClient(uri, token=token, timeout=PATIENCE))

    def ask(self, verb: str, *told: Any, **named: Any) -> Any:
        return self.told(lambda: getattr(self._client, verb)(*told, **named))

    def told(self, question: Any) -> Any:
        """The answer to a question; IndexUnavailable where Milvus has none."""
        try:
            return question()
        except MilvusException as error:
            said = str(error).replace(self._token, SECRET) if self._token else str(error)
        raise IndexUnavailable(
            f"expected an answer from Milvus at {self._uri}, got: {said}; see that it runs there, "
            "and that TMR_JAX_MILVUS_TOKEN is set if it wants one"
        )

    def close(self) -> None:
        self._client.close()
        if self._uri.endswith(LITE):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self._uri)


def expression(where: Filter | None) -> str:
    """A filter in Milvus' language, or ""."""
    if where is None:
        return ""
    parts = []
    for condition in where.conditions:
        column, sign, number = literal(condition)
        parts.append(f"{column} {'==' if sign == '=' else sign} {number}")
    if where.groups:
        parts.append(f"ARRAY_CONTAINS_ALL({BITS}, {bits(where.groups)})")
    if where.without:
        parts.append(f"not ARRAY_CONTAINS_ANY({BITS}, {bits(where.without)})")
    parts += [f"{flag} == false" for flag in where.unflagged]
    return " and ".join(parts)


def _row(batch: Batch, i: int) -> dict[str, Any]:
    """One item as a message holds it; ValueError where a text is beyond Milvus' limit."""
    row: dict[str, Any] = {"id": int(batch.ids[i]), "vector": batch.vectors[i]}
    row |= {name: batch.columns[name][i].item() for name in COLUMNS}
    row[BITS] = bits(row[MASK])
    for name in TEXTS:
        row[name] = batch.columns[name][i]
        if len(row[name].encode()) > LONGEST:
            raise UserError(
                f"expected a {name} of at most {LONGEST:,} bytes, which is Milvus' limit, got "
                f"{len(row[name].encode()):,} of the item {row['id']}; copy to LanceDB, or leave "
                "it out"
            )
    return row


def _beside(name: str) -> str:
    return f"{name}_about"


def _words(uri: str, name: str) -> str:
    """As `tmr index` takes the place."""
    return f"milvus:{uri}" if uri.endswith(LITE) else f"{uri}/{name}"


def _create_head(server: _Server, name: str) -> None:
    """A collection for one row: Milvus has none without a vector."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("place", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("head", DataType.VARCHAR, max_length=LONGEST)
    index = MilvusClient.prepare_index_params()
    index.add_index("place", index_type="FLAT", metric_type="L2")
    server.ask("create_collection", _beside(name), schema=schema, index_params=index)


def _write_head(server: _Server, name: str, head: dict[str, Any]) -> None:
    row = {"id": 0, "place": [0.0, 0.0], "head": json.dumps({"format": FORMAT, **head})}
    server.ask("upsert", _beside(name), [row])


def _create_items(server: _Server, name: str, width: int) -> None:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    for column, kind in COLUMNS.items():
        schema.add_field(column, KINDS.get(kind, DataType.BOOL))
    schema.add_field(BITS, DataType.ARRAY, element_type=DataType.INT16, max_capacity=64)
    for text in TEXTS:
        schema.add_field(text, DataType.VARCHAR, max_length=LONGEST)
    index = MilvusClient.prepare_index_params()
    graph = {"M": NEIGHBOURS, "efConstruction": BUILD_EFFORT}
    index.add_index("vector", index_type="HNSW", metric_type="IP", params=graph)
    server.ask("create_collection", name, schema=schema, index_params=index)
