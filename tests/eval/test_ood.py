"""OOD scores and AUROC on cases that are counted by hand."""

import numpy as np
import pytest

from tests.eval.vectors import on_circle, random_rows
from tmr_jax.eval.ood import auroc, ood_scores


def test_ood_score_is_the_mean_of_the_nearest():
    known = on_circle(0, 60, 90)
    query = on_circle(0, 180)
    assert ood_scores(query, known, 1) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert ood_scores(query, known, 2) == pytest.approx([1 - 0.75, 1 + 0.25], abs=1e-6)
    every = [1 - 1.5 / 3, 1 + 1.5 / 3]
    assert ood_scores(query, known, 3) == pytest.approx(every, abs=1e-6)
    assert ood_scores(query, known, 99) == pytest.approx(every, abs=1e-6)


def test_ood_scores_are_of_each_query_alone():
    query, known = random_rows(600, 8, 0), random_rows(50, 8, 1)
    found = ood_scores(query, known, 5)
    nearest = np.sort(query @ known.T, axis=1)[:, -5:]
    assert found == pytest.approx(1 - nearest.mean(1), abs=1e-6)
    assert ood_scores(query[300:301], known, 5) == pytest.approx(found[300:301], abs=1e-7)


def test_auroc_by_hand():
    # Couples: 2 > 1, 2 = 2, 3 > 1, 3 > 2, and 1.5 > 1, 1.5 < 2.
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0, 1.5])) == pytest.approx(4.5 / 6)
    assert auroc(np.array([0.0, 1.0]), np.array([2.0])) == 1.0
    assert auroc(np.array([2.0]), np.array([0.0, 1.0])) == 0.0
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_auroc_is_the_share_of_couples():
    random = np.random.default_rng(0)
    low, high = random.integers(0, 9, 40), random.integers(3, 12, 70)
    couples = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    assert auroc(low.astype(float), high.astype(float)) == pytest.approx(couples.mean())
