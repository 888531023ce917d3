"""Trust signals against numbers worked out by hand."""

import numpy as np
import pytest

from tests.eval.vectors import random_rows
from tmr_jax.eval.diagnostics import BINS, confidence, ece, reliability, temperature

AXES = np.eye(3, dtype=np.float32)


def test_confidence_is_the_softmax_of_the_best():
    query, candidate = AXES[:1], np.stack([AXES[0], AXES[1], -AXES[0]])  # cosines 1, 0, -1
    parts = np.exp(np.array([1.0, 0.0, -1.0]) / 0.5)
    assert confidence(query, candidate, 0.5) == pytest.approx([parts[0] / parts.sum()])
    assert confidence(query, candidate, 1e-3) == pytest.approx([1.0])
    assert confidence(query, AXES[[0, 0]], 0.5) == pytest.approx([0.5])  # twins share


def test_temperature_makes_the_share_of_hits_the_confidence():
    # Three of four queries are right, and every right margin is 1: 1 / (1 + exp(-1/T)) = 3/4.
    query, candidate = AXES[[0, 0, 0, 0]], AXES[:2]
    found = temperature(query, candidate, np.array([0, 0, 0, 1]))
    assert found == pytest.approx(1 / np.log(3), rel=2e-3)
    assert confidence(query, candidate, found) == pytest.approx([0.75] * 4, abs=1e-3)


def test_temperature_does_not_care_how_far_below_a_missed_target_is():
    query, candidate = AXES[[0, 0, 0, 0]], np.stack([AXES[0], AXES[1], -AXES[0]])
    missed = [temperature(query, candidate, np.array([0, 0, 0, i])) for i in (1, 2)]
    # x = exp(-1/T), 1 / (1 + x + x^2) = 3/4
    assert missed == pytest.approx([-1 / np.log((np.sqrt(7 / 3) - 1) / 2)] * 2, rel=2e-3)


def test_temperature_is_found_again():
    random = np.random.default_rng(0)
    query, candidate = random_rows(3000, 6, 1), random_rows(12, 6, 2)
    chance = np.exp(query @ candidate.T / 0.2)
    chance /= chance.sum(1, keepdims=True)
    target = np.array([random.choice(12, p=row) for row in chance])
    found = temperature(query, candidate, target)
    assert found == pytest.approx(0.2, rel=0.06)
    correct = ((query @ candidate.T).argmax(1) == target).astype(float)
    assert ece(confidence(query, candidate, found), correct) < 0.03
    assert ece(confidence(query, candidate, 1.0), correct) > 0.2


def test_ece_by_hand():
    sure = np.array([0.1, 0.1, 0.95, 0.95, 0.95, 0.95])
    correct = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    # |0.1 - 0.5| of two queries, |0.95 - 0.75| of four
    assert ece(sure, correct, 10) == pytest.approx((2 * 0.4 + 4 * 0.2) / 6)
    found = reliability(sure, correct, 10)
    assert found["count"].tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert found["correct"][[0, 9]] == pytest.approx([0.5, 0.75]) and found["correct"][5] == 0


def test_bins_close_on_the_right_and_none_is_lost():
    ends = np.array([0.0, 1 / 3, 0.34, 2 / 3, 1.0])
    assert reliability(ends, ends, 3)["count"].tolist() == [2, 2, 1]
    assert ece(ends, ends, 3) == pytest.approx(0.0)
    assert len(reliability(ends, ends)["count"]) == BINS == 15


def test_ece_takes_shares_of_twins():
    assert ece(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0.0
