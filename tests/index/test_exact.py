"""The folder of shards by hand, and what it makes of damage; what all engines do: test_engines."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from tests.index.items import items, rows
from tmr_jax.index import exact
from tmr_jax.index.exact import ENTRIES, HEAD, ROWS, SEAL, ExactEngine, shard_places
from tmr_jax.index.schema import NONE, IndexUnavailable


@pytest.fixture
def library(tmp_path):
    store = ExactEngine.create(tmp_path / "lib", 4, {"of": "tests"})
    for low in (0, 10, 20):
        store.upsert(items(range(low, low + 10), rows(30)[low : low + 10]))
    return store


def test_ties_go_to_the_lower_id(tmp_path):
    store = ExactEngine.create(tmp_path / "lib", 4, {})
    same = np.tile(rows(1), (6, 1))
    store.upsert(items([7, 3, 5], same[:3]))
    store.upsert(items([1, 9, 4], same[:3]))
    assert store.search(rows(1), 4).ids.tolist() == [[1, 3, 4, 5]]
    assert store.search(rows(1), 8).ids.tolist() == [[1, 3, 4, 5, 7, 9, NONE, NONE]]


def test_a_shard_of_equals_gives_no_more_than_asked_for():
    ids = np.arange(1000)[::-1]
    best, scores = exact._best(ids, np.ones(1000, np.float32), 3)
    assert best.tolist() == [0, 1, 2] and scores.tolist() == [1, 1, 1]


def test_a_score_does_not_depend_on_other_queries(library):
    queries = rows(20, seed=5)
    together = library.search(queries, 5)
    for i, query in enumerate(queries):
        alone = library.search(query[None], 5)
        assert alone.ids[0].tolist() == together.ids[i].tolist()
        assert alone.scores[0].tobytes() == together.scores[i].tobytes()


def test_a_shard_that_is_gone_is_said_and_the_rest_answers(library):
    folder = library.folder
    whole = ExactEngine(folder).search(rows(2), 30)
    assert not whole.partial
    os.remove(shard_places(folder)[1] / ROWS)
    rest = ExactEngine(folder)
    found = rest.search(rows(2), 30)
    assert found.partial and list(rest.broken) == ["000001"] and rest.count() == 20
    kept = [i for i in whole.ids[0].tolist() if not 10 <= i < 20]
    assert found.ids[0].tolist() == [*kept, *[NONE] * 10]
    assert rest.get([15]) == [None]


@pytest.mark.parametrize("name", [ROWS, ENTRIES])
def test_one_flipped_bit_is_found_by_reading_all(library, name):
    path = shard_places(library.folder)[2] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert ExactEngine(library.folder).verify() == {
        "000002": f"{name} differs from what was written"
    }


@pytest.mark.parametrize("name", [ROWS, ENTRIES, SEAL])
def test_a_cut_file_is_found_at_once(library, name):
    path = shard_places(library.folder)[0] / name
    path.write_bytes(path.read_bytes()[:-9])
    assert list(ExactEngine(library.folder).broken) == ["000000"]


def test_other_bytes_are_seen_by_looking_though_as_many(library, monkeypatch):
    """Also where nothing has changed since, and when the index is opened after that."""
    path = shard_places(library.folder)[2] / ROWS
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert ExactEngine(library.folder).broken == {}  # sizes and counts are as they were
    monkeypatch.setattr(exact, "AT_ONCE", 0.0)  # a shard at each look
    said = [library.check() for _ in range(4)]
    assert said[0] == {} and said[3] == {"000002": f"{ROWS} differs from what was written"}
    rest = ExactEngine(library.folder)
    assert list(rest.broken) == ["000002"] and rest.search(rows(1), 30).partial
    path.write_bytes(content)
    assert library.check() == {} and ExactEngine(library.folder).broken == {}


def test_what_has_changed_is_read_before_what_was_never_read(library, monkeypatch):
    monkeypatch.setattr(exact, "AT_ONCE", 0.0)
    library.check()
    path = shard_places(library.folder)[0] / ENTRIES
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert list(library.check()) == ["000000"]


def test_a_folder_of_shards_that_is_gone_is_said(library):
    shutil.rmtree(library.folder / "shards")
    with pytest.raises(IndexUnavailable, match=r"expected an index that can be read in .*shards"):
        ExactEngine(library.folder)
    assert list(library.check()) == ["library"]


def test_what_is_no_library(tmp_path, library):
    with pytest.raises(ValueError, match=r"expected an index in .* tmr index --run"):
        ExactEngine(tmp_path)
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        ExactEngine.create(library.folder, 4, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(ValueError, match="expected a new or empty folder"):
            ExactEngine.create(place, 4, {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "begun" / "shards").mkdir(parents=True)
    (tmp_path / "begun" / "lock").touch()
    assert ExactEngine.create(tmp_path / "begun", 4, {}).count() == 0
    head = library.folder / HEAD
    head.write_text(json.dumps(json.loads(head.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match=r"format 3 .* got 0"):
        ExactEngine(library.folder)


def test_a_batch_that_cannot_be_written_leaves_nothing(library, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tmr_jax.index.exact.to_disk", full)
    with pytest.raises(OSError, match="No space"):
        library.upsert(items([99], rows(1)))
    assert [p.name for p in (library.folder / "shards").iterdir() if p.name.startswith(".")] == []
    assert ExactEngine(library.folder).count() == 30
