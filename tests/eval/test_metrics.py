"""Metrics against hand-made numbers, brute force and simulated tie-breaking."""

import numpy as np
import pytest

from tmr_jax.eval.metrics import bounds, gains, impossible, intervals, metrics, of_rows, per_query
from tmr_jax.types import Ranking


def ranking(greater, equal, size):
    return Ranking(np.array(greater), np.array(equal), size)


def simulated(greater, equal, orders, seed):
    """Mean metrics over random orders of each tie: every rank drawn, no formula shared."""
    random = np.random.default_rng(seed)
    ranks = np.stack(
        [1 + g + random.integers(0, e + 1, orders) for g, e in zip(greater, equal, strict=True)]
    )
    found = {f"hits@{k}": (ranks <= k).mean() for k in (1, 5, 10, 20)}
    return found | {"mrr": (1 / ranks).mean(), "mr": ranks.mean()}


def test_no_ties_by_hand():
    found = metrics(ranking([0, 1, 4, 9, 49], [0] * 5, 50))
    assert found["hits@1"] == pytest.approx(0.2)
    assert found["hits@5"] == pytest.approx(0.6)
    assert found["hits@10"] == pytest.approx(0.8)
    assert found["hits@20"] == pytest.approx(0.8)
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 10 + 1 / 50) / 5)
    assert found["mr"] == pytest.approx((1 + 2 + 5 + 10 + 50) / 5)


def test_hand_made_four_by_five_with_ties():
    # The counts of tests/eval/test_rank.py's matrix, averaged over all orders by hand.
    found = metrics(ranking([0, 0, 2, 0], [0, 2, 1, 4], 5))
    assert found["hits@1"] == pytest.approx((1 + 1 / 3 + 0 + 1 / 5) / 4)
    assert found["hits@5"] == 1.0
    thirds, fifths = (1 + 1 / 2 + 1 / 3) / 3, (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5
    assert found["mrr"] == pytest.approx((1 + thirds + (1 / 3 + 1 / 4) / 2 + fifths) / 4)
    assert found["mr"] == pytest.approx((1 + 2 + 3.5 + 3) / 4)


def test_constant_scores_give_the_middle_rank():
    for size in (1, 2, 7, 1000):
        found = metrics(ranking([0], [size - 1], size))
        assert found["mr"] == (size + 1) / 2
        assert found["hits@1"] == pytest.approx(1 / size)


def test_expectations_agree_with_random_tie_breaking():
    random = np.random.default_rng(5)
    greater = random.integers(0, 30, 40)
    equal = random.integers(0, 12, 40)
    found = metrics(Ranking(greater, equal, 60))
    for name, value in simulated(greater, equal, 20_000, seed=1).items():
        assert found[name] == pytest.approx(value, rel=0.003, abs=0.002), name


def test_reciprocal_of_the_expected_rank_is_not_the_answer():
    assert metrics(ranking([0], [1], 2))["mrr"] == 0.75  # and not 1 / 1.5


def test_bounds_fence_the_expectation_in():
    found = ranking([0, 3, 9], [1, 8, 0], 20)
    kind, harsh = bounds(found).values()
    assert kind["hits@1"] == pytest.approx(1 / 3) and harsh["hits@1"] == 0.0
    assert kind["mr"] == pytest.approx((1 + 4 + 10) / 3)
    assert harsh["mr"] == pytest.approx((2 + 12 + 10) / 3)
    for name, value in metrics(found).items():
        low, high = sorted((kind[name], harsh[name]))
        assert low <= value <= high


def test_intervals_are_seeded_and_hold_the_mean():
    found = ranking(np.random.default_rng(0).geometric(0.2, 300) - 1, np.zeros(300, int), 1000)
    first, second, other = (intervals(found, 1000, seed) for seed in (1, 1, 2))
    assert first == second != other
    for name, value in metrics(found).items():
        low, high = first[name]
        assert low < value < high
    # Width of a 95 % interval of a share: about 2 x 1.96 standard errors.
    share = metrics(found)["hits@1"]
    low, high = first["hits@1"]
    assert high - low == pytest.approx(3.92 * np.sqrt(share * (1 - share) / 300), rel=0.15)


def test_gains_are_of_pairs_of_queries():
    base = np.random.default_rng(0).geometric(0.2, 300)
    better = base - (np.arange(300) % 3 == 0)  # every third query gains one place
    none = np.zeros(300, int)
    ours, theirs = ranking(better, none, 1000), ranking(base, none, 1000)
    mean, low, high = gains(ours, theirs, 500)["mr"]
    assert mean == pytest.approx(-1 / 3)
    assert low < mean < high
    # A share again: its interval knows nothing of how widely the ranks themselves vary.
    assert high - low == pytest.approx(3.92 * np.sqrt((1 / 3) * (2 / 3) / 300), rel=0.15)
    assert high - low < 0.3 * np.diff(intervals(ours, 500)["mr"])[0]


def test_a_ranking_gains_nothing_over_itself():
    found = ranking([2, 0, 7], [0, 1, 0], 9)
    assert set(gains(found, found, 50).values()) == {(0.0, 0.0, 0.0)}


def test_intervals_of_one_query_are_points():
    assert intervals(ranking([2], [0], 5), 50)["mr"] == (3.0, 3.0)


def test_some_of_the_queries_keep_their_ranks_and_their_pool():
    found = of_rows(ranking([0, 4, 2], [1, 0, 3], 50), np.array([True, False, True]))
    assert found.greater.tolist() == [0, 2] and found.equal.tolist() == [1, 3]
    assert found.pool_size == 50


def test_the_bound_of_mrr_holds_for_every_ranking_and_refuses_the_impossible():
    random = np.random.default_rng(3)
    for _ in range(200):
        size = int(random.integers(1, 60))
        equal = random.integers(0, size, 9)
        greater = np.array([random.integers(0, size - e) for e in equal])
        assert not impossible(metrics(Ranking(greater, equal, size)), 1e-9)
    printed = {"hits@1": 0.634, "hits@10": 0.901, "mrr": 0.792}
    assert impossible(printed, 1e-9)


def test_the_published_rows_pass_the_bound():
    for one, ten, mrr in ((0.728, 0.965, 0.823), (0.565, 0.941, 0.702), (0.494, 0.921, 0.647)):
        assert not impossible({"hits@1": one, "hits@10": ten, "mrr": mrr}, 1e-9)


def test_no_query_is_refused():
    with pytest.raises(ValueError, match="at least one query"):
        per_query(ranking([], [], 5))
