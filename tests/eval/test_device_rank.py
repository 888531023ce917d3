"""Counting on devices against counting on the host: ties, twins, labels, refusals."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tmr_jax.eval import rank as module
from tmr_jax.eval.rank import rank, rank_on


def spread(count):
    return jax.devices()[:count]


def same(found, wanted):
    assert found.greater.tolist() == wanted.greater.tolist()
    assert found.equal.tolist() == wanted.equal.tolist()
    assert found.pool_size == wanted.pool_size


def halves(items, dim, seed):
    """Numbers whose products are exact in any order: scores tie often, across devices too."""
    return np.float32(np.random.default_rng(seed).integers(-2, 3, (items, dim)) / 2)


@pytest.mark.parametrize("devices", [1, 8])
def test_two_twins_one_tie_and_one_above(devices):
    # One query along the first axis; candidates 1 and 2 are one input, the target is 0.
    column = np.zeros((2_000, 2), np.float32)
    column[[0, 1, 1_500, 1_999], 0] = [0.5, 0.5, 0.5, 0.75]
    group = np.concatenate([[0, 1, 1], np.arange(2, 2_000)])
    found = rank_on(spread(devices), np.float32([[1, 0]]), column, np.array([0]), group)
    assert (found.greater.tolist(), found.equal.tolist()) == ([1], [3])
    assert found.pool_size == 2_001


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("labelled", [False, True])
def test_ranks_are_those_of_the_host(devices, labelled):
    random = np.random.default_rng(4)
    queries, candidates = 2 * module.QUERIES + 40, 3_000
    query, column = halves(queries, 6, 1), halves(candidates, 6, 2)
    group = random.integers(0, 2_500, candidates)  # some of several candidates
    target = random.integers(0, candidates, queries)
    labels = random.integers(0, 700, (2, candidates)) if labelled else None
    further = random.integers(0, candidates, (queries, 3)) if labelled else None
    wanted = rank(query, column, target, group, labels, further=further)
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    found = rank_on(spread(devices), query, column[first], target, group, labels, further)
    assert wanted.equal.max() > 10
    same(found, wanted)


def test_scores_as_they_come_are_ranked_alike():
    random = np.random.default_rng(0)
    query, column = (np.float32(random.normal(size=(n, 48))) for n in (50, 900))
    column[[100, 800]] = column[7]  # one input three times
    group = np.unique(column, axis=0, return_inverse=True)[1]
    target = random.integers(0, 900, 50)
    target[:3] = 7, 100, 800
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    found = rank_on(spread(8), query, column[first], target, group)
    assert found.equal[:4].tolist() == [2, 2, 2, 0]
    same(found, rank(query, column, target))


def test_an_accelerator_is_used_for_large_pools_only(monkeypatch):
    asked = []

    def seen(devices, *arrays):
        asked.append(len(arrays[1]))
        return rank_on(devices, *arrays)

    query, column, target = halves(20, 5, 1), halves(400, 5, 2), np.arange(20)
    wanted = rank(query, column, target)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(module, "rank_on", seen)
    same(rank(query, column, target), wanted)
    monkeypatch.setattr(module, "LEAST", 100)
    same(rank(query, column, target), wanted)
    assert asked == [len(np.unique(column, axis=0))]


def test_nan_names_the_query():
    query = halves(module.QUERIES + 9, 3, 1)
    query[module.QUERIES + 5, 1] = np.nan
    with pytest.raises(ValueError, match=f"NaN for query {module.QUERIES + 5}"):
        rank_on(spread(2), query, halves(9, 3, 2), np.zeros(len(query), int), np.arange(9))


def test_the_program_asks_for_float32_and_moves_counts_only():
    count, place = module.counter(tuple(spread(8)))
    whole = NamedSharding(place.mesh, PartitionSpec())
    shapes = (
        jax.ShapeDtypeStruct((module.QUERIES, 300), np.float32, sharding=whole),
        jax.ShapeDtypeStruct((4_096, 300), np.float32, sharding=place),
        jax.ShapeDtypeStruct((4_096,), np.int32, sharding=place),
        jax.ShapeDtypeStruct((module.QUERIES, 2), np.int32, sharding=whole),
    )
    lowered = count.lower(*shapes)
    assert "precision = [HIGHEST, HIGHEST]" in lowered.as_text()
    text = lowered.compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text
