"""What Milvus alone does: errors of a server, its limits. All else: test_stores.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from milvus_lite.server_manager import server_manager_instance

from tests.index.items import items, rows
from tmr_jax.index import milvus
from tmr_jax.index.index import TOKEN, open_engine
from tmr_jax.index.milvus import MilvusEngine, expression
from tmr_jax.index.schema import Filter, IndexUnavailable, parse_filter


@pytest.fixture
def empty(tmp_path):
    store = MilvusEngine.create(str(tmp_path / "lib.db"), 4, {"of": "tests"})
    yield store
    store.close()


def test_a_server_that_does_not_answer_is_named_and_the_token_is_not(monkeypatch, caplog, capfd):
    monkeypatch.setattr(milvus, "PATIENCE", 0.5)
    monkeypatch.setenv(TOKEN, "geheim")
    with pytest.raises(ValueError, match=r"answer from Milvus at http://127.0.0.1:9, got: ") as e:
        open_engine("http://127.0.0.1:9/mine")
    told = [str(e.value), caplog.text, *capfd.readouterr()]
    assert not any("geheim" in text for text in told)


def test_a_file_that_another_process_has_open_is_named(empty, tmp_path):
    program = "import sys; from tmr_jax.index.milvus import MilvusEngine; MilvusEngine(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "lib.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stderr.strip().splitlines()[-1]
    assert "got a file that another process has open" in said
    assert "server" not in said and "DataDirLockedError" not in done.stderr


def test_a_server_that_ends_is_seen_by_looking(empty, monkeypatch):
    assert empty.check() == {}
    monkeypatch.setattr(milvus, "PATIENCE", 0.5)
    server_manager_instance.release_server(empty._server._uri)
    assert "expected an answer from Milvus" in empty.check()["library"]
    with pytest.raises(IndexUnavailable):
        empty._server.ask("get", "library", ids=[0], timeout=0.5)


def test_a_token_in_an_answer_is_struck_out(empty):
    server = empty._server
    server._token = "geheim"

    def refused():
        raise milvus.MilvusException(message="bad token geheim")

    with pytest.raises(ValueError, match=r"bad token \*\*\*"):
        server.result_of(refused)


def test_a_library_of_another_format_is_refused(empty, tmp_path):
    row = {"id": 0, "place": [0.0, 0.0], "head": json.dumps({"width": 4, "about": {}})}
    empty._server.ask("upsert", "library_about", [row])
    empty.close()
    with pytest.raises(ValueError, match=r"format 3 .* got None; copy it again"):
        MilvusEngine(str(tmp_path / "lib.db"))


def test_a_batch_of_several_messages(empty, monkeypatch):
    monkeypatch.setattr(milvus, "AT_ONCE", 3)
    empty.upsert(items([5, 1, 9, 3, 7, 8, 2], rows(7)))
    assert empty.count() == 7 and empty.get([9], ["name"])[0]["name"] == 'item 9 "é"'
    assert [batch.ids.tolist() for batch in empty.batches(4)] == [[1, 2, 3, 5], [7, 8, 9]]


def test_a_text_beyond_the_limit_is_named(empty):
    with pytest.raises(ValueError, match=r"smiles of at most 65,535 bytes.*65,536 of the item 4"):
        empty.upsert(items([4], rows(1), smiles=["C" * 65_536]))
    empty.upsert(items([4], rows(1), smiles=["C" * 65_535]))
    assert len(empty.get([4])[0]["smiles"]) == 65_535


def test_a_creation_that_was_cut_off_is_begun_again(empty, tmp_path):
    empty._server.ask("drop_collection", "library")
    empty.close()
    path = str(tmp_path / "lib.db")
    with pytest.raises(ValueError, match=r"got none; make it: tmr index copy INDEX milvus:"):
        MilvusEngine(path)
    again = MilvusEngine.create(path, 4, {"of": "others"})
    assert again.about == {"of": "others"} and again.count() == 0
    again.close()
    with pytest.raises(ValueError, match="expected no collection 'library'"):
        MilvusEngine.create(path, 4, {})


def test_two_libraries_in_one_file(tmp_path):
    path = str(tmp_path / "lib.db")
    for name in ("one", "two"):
        MilvusEngine.create(path, 4, {"of": name}, name).close()
    store = MilvusEngine(path, "two")
    assert store.about == {"of": "two"}
    store.close()


def test_a_filter_in_its_language():
    assert expression(None) == "" and expression(Filter()) == ""
    assert expression(parse_filter(["alcohol", "steroid"])) == (
        "ARRAY_CONTAINS_ALL(group_bits, [0, 63])"
    )
    assert expression(Filter(groups=0b101, without=0b10, distinct=True)) == (
        "ARRAY_CONTAINS_ALL(group_bits, [0, 2]) and not ARRAY_CONTAINS_ANY(group_bits, [1]) and "
        "duplicate == false"
    )
