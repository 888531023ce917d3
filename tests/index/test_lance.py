"""What LanceDB alone does: its index, damage, and a creation cut off. All else: test_stores.py."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.index.items import items, rows
from tmr_jax.index import lance
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.lance import HEAD, TABLE, LanceEngine
from tmr_jax.index.schema import COLUMNS, Filter, IndexUnavailable, meets, parse_filter
from tmr_jax.types import UserError


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """2,000 rows in 20 parts, of which four are looked into."""
    for name, value in {"INDEX_FROM": 1000, "PARTITION": 100, "LEAST": 1, "SHARE": 0.2}.items():
        monkeypatch.setattr(lance, name, value)
    store = LanceEngine.create(tmp_path / "lib", 16, {})
    for low in range(0, 2000, 500):
        store.upsert(items(range(low, low + 500), rows(2000, 16)[low : low + 500]))
    store.optimize()
    return store


def test_the_index_finds_most_of_what_is_nearest(indexed, tmp_path):
    exact = ExactEngine.create(tmp_path / "exact", 16, {})
    exact.upsert(items(range(2000), rows(2000, 16)))
    queries = rows(40, 16, seed=1)
    found = LanceEngine(indexed.folder).search(queries, 10)
    truth = exact.search(queries, 10)
    hits = [len({*a} & {*b}) for a, b in zip(found.ids.tolist(), truth.ids.tolist(), strict=True)]
    assert 0.5 < np.mean(hits) / 10 < 1  # a fraction of the rows was looked at
    own = np.einsum("qd,qkd->qk", queries, rows(2000, 16)[found.ids])
    np.testing.assert_allclose(found.scores, own, atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_the_fewer_meet_a_filter_the_more_parts_are_looked_into(indexed, tmp_path, monkeypatch):
    where, queries = parse_filter(["rings=3"]), rows(20, 16, seed=1)
    exact = ExactEngine.create(tmp_path / "exact", 16, {})
    exact.upsert(items(range(2000), rows(2000, 16)))
    truth = exact.search(queries, 10, where).ids.tolist()
    assert indexed.search(queries, 10, where).ids.tolist() == truth  # a fifth of all: every part
    monkeypatch.setattr(indexed, "_count", 400)
    assert indexed.search(queries, 10, where).ids.tolist() != truth


def test_what_cannot_be_written_is_the_users_error(indexed, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("lance error: LanceError(IO): No space left on device")

    monkeypatch.setattr(type(indexed._table), "add", full)
    with pytest.raises(UserError, match=r"expected to write an index to .*lib, got .*No space"):
        indexed.upsert(items(range(2000, 2010), rows(10, 16)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="something else"):
        LanceEngine.create(tmp_path / "file", 16, {})


@pytest.mark.parametrize(
    "where",
    [
        parse_filter(["mw<2000.5", "rings>1.5", "unsalted"]),
        parse_filter(["logp>-100", "rings<=2", "charge<1000000000000"]),
        parse_filter(["rings=2.5"]),
        Filter(groups=0b11, without=0b100, distinct=True),
        parse_filter(["alcohol", "steroid", "!bile-acid"]),
    ],
    ids=str,
)
def test_filters_with_an_index(indexed, where):
    batch = items(range(2000), rows(2000, 16))
    right = np.flatnonzero(meets({n: batch.columns[n] for n in COLUMNS}, where))
    assert indexed.count(where) == len(right)
    found = indexed.search(rows(3, 16, seed=2), 10, where)
    assert np.isin(found.ids[found.ids >= 0], right).all()
    assert ((found.ids >= 0).sum(axis=1) == min(10, len(right))).all()


def test_what_comes_in_after_the_index_is_found_too(indexed):
    new = rows(1, 16, seed=5)
    indexed.upsert(items([7, 2000], np.concatenate([rows(1, 16, seed=6), new])))
    assert indexed.search(new, 1).ids.tolist() == [[2000]]
    assert indexed.count() == 2001
    indexed.optimize()
    assert indexed.search(rows(1, 16, seed=6), 1).ids.tolist() == [[7]]


def test_a_creation_that_was_cut_off_is_begun_again(tmp_path):
    folder = tmp_path / "lib"
    LanceEngine.create(folder, 4, {"of": "tests"})
    shutil.rmtree(folder / f"{TABLE}.lance")
    with pytest.raises(ValueError, match=r"expected an index of LanceDB in .* tmr index copy"):
        LanceEngine(folder)
    store = LanceEngine.create(folder, 4, {"of": "others"})
    assert store.count() == 0 and store.about == {"of": "others"}


def test_what_is_no_library(tmp_path):
    store = LanceEngine.create(tmp_path / "lib", 4, {})
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        LanceEngine.create(tmp_path / "lib", 4, {})
    head = json.loads((store.folder / HEAD).read_text())
    (store.folder / HEAD).write_text(json.dumps(head | {"format": 0}))
    with pytest.raises(ValueError, match=r"format 3 .* got 0"):
        LanceEngine(store.folder)


def test_a_file_that_is_gone_is_said(tmp_path):
    store = LanceEngine.create(tmp_path / "lib", 4, {})
    store.upsert(items(range(5), rows(5)))
    assert store.check() == {}
    for path in (store.folder / f"{TABLE}.lance" / "data").iterdir():
        path.unlink()
    assert LanceEngine(tmp_path / "lib").count() == 5  # which is not read from them
    again = LanceEngine(store.folder)
    assert list(again.check()) == ["library"]
    for question in (lambda: again.search(rows(1), 3), lambda: again.get([1])):
        with pytest.raises(IndexUnavailable, match=r"can be read in .*copy it again"):
            question()
