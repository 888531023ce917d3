"""Maximal marginal relevance, on three groups of near twins."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.search.diversity import mmr

# Two like items that score best, two like items next, one like none.
SCORE = np.array([0.9, 0.88, 0.7, 0.69, 0.5], np.float32)
LIKENESS = np.eye(5, dtype=np.float32)
LIKENESS[0, 1] = LIKENESS[1, 0] = LIKENESS[2, 3] = LIKENESS[3, 2] = 0.95


def test_without_weight_the_order_is_that_of_the_scores():
    assert mmr(SCORE[::-1], LIKENESS, 5, 0.0).tolist() == [4, 3, 2, 1, 0]


def test_a_twin_waits_until_others_were_shown():
    assert mmr(SCORE, LIKENESS, 3, 0.55).tolist() == [0, 2, 4]
    assert mmr(SCORE, LIKENESS, 5, 0.55).tolist() == [0, 2, 4, 1, 3]


def test_by_hand():
    # Good: 1, .95, .5, .475, 0. After item 0, at .3: .7 * .95 - .3 * .95 = .38; .7 * .5 = .35.
    assert mmr(SCORE, LIKENESS, 2, 0.3).tolist() == [0, 1]
    # At .35: .65 * .95 - .35 * .95 = .285; .65 * .5 = .325.
    assert mmr(SCORE, LIKENESS, 2, 0.35).tolist() == [0, 2]


def test_equal_scores_and_no_items():
    assert mmr(np.ones(3, np.float32), np.eye(3, dtype=np.float32), 2, 0.4).tolist() == [0, 1]
    assert mmr(np.ones(0, np.float32), np.zeros((0, 0), np.float32), 3, 0.5).tolist() == []


def test_more_weight_is_less_score_and_less_likeness():
    """Summed over many random shortlists; one by one the greedy choice need not be monotonic."""
    rng = np.random.default_rng(0)
    found = []
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        score_sum = like_sum = 0.0
        for _ in range(50):
            points = rng.normal(size=(40, 3))
            points /= np.linalg.norm(points, axis=1, keepdims=True)
            score, likeness = points[:, 0], points @ points.T
            chosen = mmr(score.astype(np.float32), likeness.astype(np.float32), 5, weight)
            score_sum += score[chosen].sum()
            like_sum += likeness[np.ix_(chosen, chosen)].sum()
        found.append((score_sum, like_sum))
        rng = np.random.default_rng(0)
    assert (np.diff(np.array(found), axis=0) < 0).all()


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_beyond_is_refused(weight):
    with pytest.raises(ValueError, match="diversity of 0 to 1"):
        mmr(SCORE, LIKENESS, 2, weight)
