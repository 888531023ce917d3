"""Rows on eight devices: the answers of numpy, whatever lies where."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tests.index.items import items, rows
from tmr_jax.index import exact, scan
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.schema import NONE, parse_filter


@pytest.fixture
def on_devices(monkeypatch):
    assert len(jax.local_devices()) == 8
    assert not exact.is_accelerated()  # on a CPU
    asked = []

    def told(*words):
        asked.append(words[1].shape)
        return found(*words)

    found = scan.best_of_block
    monkeypatch.setattr(scan, "best_of_block", told)
    return lambda: (monkeypatch.setattr(exact, "is_accelerated", lambda: True), asked)[1]


@pytest.mark.parametrize("words", [[], ["rings=2"], ["mw<50"]], ids=str)
def test_the_same_as_by_numpy(on_devices, tmp_path, words):
    where = parse_filter(words) if words else None
    store = ExactEngine.create(tmp_path / "lib", 16, {})
    vectors = rows(5000, 16)
    for low, high in ((0, 3000), (3000, 3001), (3001, 5000)):
        store.upsert(items(range(low, high), vectors[low:high]))
    store.upsert(items([7, 4000], rows(2, 16, seed=3)))
    queries = rows(11, 16, seed=1)
    one = {k: store.search(queries, k, where) for k in (1, 10, 300)}
    asked = on_devices()
    for k, found in one.items():
        many = store.search(queries, k, where)
        assert many.ids.tolist() == found.ids.tolist()
        np.testing.assert_allclose(many.scores, found.scores, atol=1e-6)
    assert asked


def test_equals_go_to_the_lower_id_across_devices(on_devices, tmp_path):
    """3,000 rows of which 400 are one and the same, on every device and in two shards."""
    vectors = rows(3000, 16)
    same = np.random.default_rng(0).permutation(3000)[:400]
    vectors[same] = vectors[same[0]]
    store = ExactEngine.create(tmp_path / "lib", 16, {})
    store.upsert(items(range(1500, 3000), vectors[1500:]))
    store.upsert(items(range(1500), vectors[:1500]))
    on_devices()
    found = store.search(vectors[same[:1]], 150)
    assert found.ids[0].tolist() == sorted(same.tolist())[:150]
    assert np.ptp(found.scores) == 0


def test_more_than_there_is_on_devices(on_devices, tmp_path):
    store = ExactEngine.create(tmp_path / "lib", 4, {})
    store.upsert(items(range(3), rows(3)))
    on_devices()
    found = store.search(rows(1), 5)
    assert (
        sorted(found.ids[0, :3].tolist()) == [0, 1, 2] and found.ids[0, 3:].tolist() == [NONE] * 2
    )
    assert np.isneginf(found.scores[0, 3:]).all()


def test_few_sizes_are_compiled():
    assert [scan._power(n) for n in (1, 128, 129, 257, 2048, 2049)] == [
        128,
        128,
        256,
        512,
        2048,
        4096,
    ]
