"""What the words for a place mean, and what is said of those that mean none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tmr_jax.index import index as opening
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.index import (
    Place,
    create_engine,
    exists,
    is_index_place,
    lock_of,
    open_engine,
    parse_place,
)


@pytest.mark.parametrize(
    "words, meant",
    {
        "lib": Place("", Path("lib")),
        "exact:my lib": Place("exact", Path("my lib")),
        "lance:/a/b": Place("lance", Path("/a/b")),
        "milvus:/a/b.db": Place("milvus", Path("/a/b.db")),
        "b.db": Place("milvus", Path("b.db")),
        "http://host:19530/mine": Place("milvus", None, "http://host:19530", "mine"),
        "https://host/mine": Place("milvus", None, "https://host", "mine"),
    }.items(),
)
def test_words_for_a_place(words, meant):
    assert parse_place(words) == meant
    if meant.uri:
        assert parse_place(Path(words)) == meant  # which has one slash


@pytest.mark.parametrize(
    "words",
    [
        "http://host:19530",
        "http://host/a/b",
        "http://host/a b",
        "http://host:abc/c",
        "http://host:99999/c",
        "http://[host/c",
    ],
)
def test_addresses_that_are_none(words):
    with pytest.raises(ValueError, match=r"expected http.*HOST:PORT/COLLECTION, got .*host"):
        parse_place(words)


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="TMR_JAX_MILVUS_TOKEN") as error:
        parse_place("https://me:geheim@host/mine")
    assert "geheim" not in str(error.value)
    with pytest.raises(ValueError, match=r"ends in .db after milvus:, got 'lib'"):
        parse_place("milvus:lib")


def test_what_a_new_place_is(tmp_path):
    create_engine(tmp_path / "new", 4, {}).close()
    assert type(open_engine(tmp_path / "new")).__name__ == "LanceEngine"
    create_engine(f"exact:{tmp_path / 'old'}", 4, {}).close()
    assert type(open_engine(tmp_path / "old")) is ExactEngine
    with pytest.raises(ValueError, match="expected an index in"):
        open_engine(tmp_path)


def test_what_is_there(tmp_path):
    places = [str(tmp_path / "a"), f"exact:{tmp_path / 'b'}", f"milvus:{tmp_path / 'c.db'}"]
    for place in places:
        assert not exists(place)
        create_engine(place, 4, {}).close()
        assert exists(place) and is_index_place(place)
    assert not (tmp_path / "other.db").exists()
    with pytest.raises(ValueError, match=r"index in the collection 'library' at .*other\.db"):
        open_engine(tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "my.smi").write_text("C\n")
    assert not is_index_place(tmp_path / "my.smi")


def test_locks_lie_where_their_place_is():
    assert lock_of("lib") == Path("lib/lock")
    assert lock_of("milvus:a/b.db") == Path("a/b.db.lock")
    assert lock_of("http://host/mine") is None


@pytest.mark.parametrize(
    "place, package, command",
    [
        ("lance:{}/lib", "lancedb", "make setup"),
        ("milvus:{}/lib.db", "milvus_lite", "make setup EXTRAS=dev,milvus"),
        ("milvus:{}/lib.db", "pymilvus", "make setup EXTRAS=dev,milvus"),
    ],
)
def test_a_package_that_is_not_installed(place, package, command, tmp_path, monkeypatch):
    for name in [
        n for n in sys.modules if n.startswith(("tmr_jax.index.lance", "tmr_jax.index.milvus"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"to be installed, got: .*{package}.*; run {command}"):
        create_engine(place.format(tmp_path), 4, {})
    assert opening.TOKEN == "TMR_JAX_MILVUS_TOKEN"
