"""What every store does, each engine put through the same."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import PIPE
from uuid import uuid4

import numpy as np
import pytest

from tests.index.items import ABOUT, items, own, rows
from tmr_jax.index.index import create_engine, open_engine
from tmr_jax.index.schema import (
    COLUMNS,
    COMPARE,
    KEPT,
    NONE,
    TEXTS,
    Filter,
    OwnCondition,
    meets,
    parse_filter,
)

WIDTH = 4


PROGRAM = """
import sys
import milvus
server = milvus.MilvusServer(data_dir=sys.argv[1])
server.start()
print(server.listen_port, flush=True)
sys.stdin.read()
server.stop()
"""


class Server:
    """A Milvus server with its data in `folder`."""

    def __init__(self, folder):
        self._folder = folder
        self.start()

    def start(self):
        # Its parts call each other at the machine's own address.
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        command = [sys.executable, "-c", PROGRAM, str(self._folder)]
        self._process = subprocess.Popen(command, env=env, stdin=PIPE, stdout=PIPE, text=True)
        self.address = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def stop(self):
        self._process.communicate()  # ends its input


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    pytest.importorskip("milvus", reason="there is a server for Linux on x86-64 only")
    server = Server(tmp_path_factory.mktemp("milvus"))
    yield server
    server.stop()


@pytest.fixture(params=["exact", "lance", "milvus", pytest.param("server", marks=pytest.mark.slow)])
def engine(request, tmp_path):
    """(make an empty store, open it again)."""
    place = f"{request.param}:{tmp_path / 'lib'}"
    place += ".db" if request.param == "milvus" else ""
    if request.param == "server":
        place = f"{request.getfixturevalue('server').address}/of_{uuid4().hex}"
    about = {"of": "tests"}
    return (
        lambda more={}: create_engine(place, WIDTH, about | more),
        lambda: open_engine(place),
    )


@pytest.fixture
def filled(engine):
    store = engine[0]()
    vectors = rows(50)
    for low in (0, 20, 30):
        high = {0: 20, 20: 30, 30: 50}[low]
        store.upsert(items(range(low, high), vectors[low:high]))
    yield store
    store.close()


def test_the_nearest_come_first(filled):
    vectors, queries = rows(50), rows(3, seed=1)
    found = filled.search(queries, 10)
    cosines = queries @ vectors.T
    np.testing.assert_array_equal(found.ids, np.argsort(-cosines, axis=1)[:, :10])
    np.testing.assert_allclose(found.scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)
    assert not found.partial and filled.count() == 50 and filled.width == WIDTH


def test_more_than_there_is(filled):
    found = filled.search(rows(1), 60)
    assert (found.ids[0, :50] != NONE).all() and (found.ids[0, 50:] == NONE).all()
    assert np.isneginf(found.scores[0, 50:]).all()


def test_an_item_is_found_by_its_name(filled):
    assert filled.called('item 3 "é"') == 3 and filled.called("item 3") is None
    assert filled.called("it's") is None and filled.called("") is None
    batch = items([60, 61], rows(2, seed=7), name=['it\'s\\ "one"', 'it\'s\\ "one"'])
    filled.upsert(batch)
    assert filled.called('it\'s\\ "one"') == 60


@pytest.mark.parametrize(
    "where",
    [
        parse_filter(["mw<205"]),
        parse_filter(["mw>=100", "mw<=120", "logp<-5.2"]),
        parse_filter(["rings=2"]),
        parse_filter(["mw>480"]),
        parse_filter(["rings<2.5", "charge>-1000000000000"]),
        parse_filter(["rings>1.5", "charge<0.1"]),
        parse_filter(["rings=1.5"]),
        parse_filter(["unsalted", "distinct"]),
        Filter(groups=0b101),
        Filter(groups=0b001, without=0b100),
        parse_filter(["alcohol", "steroid", "!bile-acid"]),
        parse_filter(["mw<0"]),
    ],
    ids=str,
)
def test_a_filter_is_met_by_all_and_only_those(filled, where):
    batch = items(range(50), rows(50))
    right = np.flatnonzero(meets({n: batch.columns[n] for n in COLUMNS}, where))
    query = rows(1, seed=2)
    found = filled.search(query, 12, where)
    best = right[np.argsort(-(query @ rows(50)[right].T)[0])][:12]
    assert found.ids[0].tolist() == [*best.tolist(), *[NONE] * (12 - len(best))]
    assert filled.count(where) == len(right)


def test_items_by_id(filled):
    found = filled.get([33, 4, 1000, 33], [*KEPT, "vector"])
    batch = items(range(50), rows(50))
    assert found[2] is None and found[0]["id"] == 33
    for item in (found[0], found[1], found[3]):
        for name in COLUMNS:
            assert item[name] == pytest.approx(batch.columns[name][item["id"]].item()), name
        assert all(item[name] == batch.columns[name][item["id"]] for name in TEXTS)
        np.testing.assert_allclose(item["vector"], rows(50)[item["id"]], atol=1e-6)
    assert filled.get([4], ["norm"]) == [{"id": 4, "norm": 5.0}]


def test_an_item_is_replaced(filled):
    new = rows(1, seed=9)
    filled.upsert(items([7], new, name=["the new one"]))
    assert filled.count() == 50
    assert filled.get([7])[0]["name"] == "the new one"
    found = filled.search(new, 50)
    assert found.ids[0, 0] == 7 and sorted(found.ids[0].tolist()) == list(range(50))


def test_everything_in_the_order_of_the_ids(filled):
    filled.upsert(items([50, 3], rows(51)[[50, 3]]))
    batches = list(filled.batches(8))
    assert np.concatenate([b.ids for b in batches]).tolist() == list(range(51))
    np.testing.assert_allclose(np.concatenate([b.vectors for b in batches]), rows(51), atol=1e-6)
    names = [name for b in batches for name in b.columns["name"]]
    assert names == items(range(51), rows(51)).columns["name"]
    assert set(batches[0].columns) == {*COLUMNS, *TEXTS}


def test_what_is_in_it_is_there_when_it_is_opened_again(engine):
    store = engine[0]()
    store.upsert(items(range(5), rows(5)))
    store.close()
    again = engine[1]()
    assert again.count() == 5 and again.about == {"of": "tests"} and again.width == WIDTH
    assert again.search(rows(1), 1).ids[0, 0] == 0
    again.close()


@pytest.mark.slow
def test_a_server_that_restarts_has_what_it_had(server):
    store = create_engine(f"{server.address}/kept", WIDTH, {"of": "tests"})
    store.upsert(items(range(5), rows(5)))
    store.upsert(items([3], rows(1, seed=9), name=["replaced"]))
    store.close()
    server.stop()
    server.start()
    again = open_engine(f"{server.address}/kept")
    assert again.count() == 5 and again.get([3], ["name"])[0]["name"] == "replaced"
    assert again.search(rows(5)[4:], 1, parse_filter(["mw<500"])).ids[0, 0] == 4
    again.close()


def test_vectors_of_another_model_are_refused(filled):
    with pytest.raises(ValueError, match=r"vectors of shape \(2, 4\), got \(2, 3\)"):
        filled.upsert(items([60, 61], rows(2, 3)))
    with pytest.raises(ValueError, match="vectors of length one"):
        filled.upsert(items([60, 61], 2 * rows(2)))
    assert filled.count() == 50


CONDITIONS = [
    ("A b.c", "<", 4.0),
    ("A b.c", ">=", 4.25),
    ("A b.c", "=", 2.5),
    ('"', "=", 'it\'s\\ "2"'),
    ("d", ">=", "2024-01-15"),
    ("d", "=", "2024-01-02"),
    ("d", "<", "2024-01-03"),
]


@pytest.fixture
def told(engine):
    """A store with columns of a user's file; item 3 replaced, and opened again."""
    store = engine[0](ABOUT)
    store.upsert(items(range(30), rows(50)[:30], **own(range(30))))
    store.upsert(items(range(30, 50), rows(50)[30:], **own(range(30, 50))))
    store.upsert(items([3], rows(50)[3:4], **{"A b.c": [0.75], '"': [None], "d": ["2024-01-02"]}))
    store.close()
    store = engine[1]()
    yield store
    store.close()


def after() -> dict[str, list]:
    """The cells once item 3 is replaced."""
    cells = own(range(50))
    cells["A b.c"][3], cells['"'][3], cells["d"][3] = 0.75, None, "2024-01-02"
    return cells


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_a_column_of_the_file_is_compared(told, condition):
    column, sign, value = condition
    where = Filter(own=(OwnCondition(*condition),))
    cells = after()
    right = [i for i, c in enumerate(cells[column]) if c is not None and COMPARE[sign](c, value)]
    assert right and told.count(where) == len(right)
    assert sorted(told.search(rows(1), 50, where).ids[0].tolist()) == sorted(
        [*right, *[NONE] * (50 - len(right))]
    )


def test_cells_by_id_and_all_of_them(told):
    names = ['"', "A b.c", "smiles"]
    assert told.get([3, 4, 99], names) == [
        {"id": 3, '"': None, "A b.c": 0.75, "smiles": "CCCC"},
        {"id": 4, '"': 'it\'s\\ "0"', "A b.c": 1.0, "smiles": "CCCCC"},
        None,
    ]
    batches = list(told.batches(8))
    read = {name: [cell for b in batches for cell in b.columns[name]] for name in told.own}
    assert read == after() and told.own == {"A b.c": "number", '"': "text", "d": "date"}
