"""The twin ceiling of MODELS.md A5.14, and twins made by RDKit that morgan1 cannot tell apart."""

import numpy as np
import pytest

from tmr_jax.eval.twins import ceiling, twin_counts


def test_ceiling_by_hand():
    group = np.array([0, 1, 0, 2, 0])
    target = np.array([0, 1, 3, 4])
    assert twin_counts(group, target).tolist() == [2, 0, 0, 2]
    found = ceiling(group, target)
    assert found.twins == 1.0
    assert found.queries_with_twin == 0.5
    assert found.hits1 == pytest.approx((1 / 3 + 1 + 1 + 1 / 3) / 4)


def test_without_twins_the_ceiling_is_one():
    assert ceiling(np.arange(4), np.arange(4)).hits1 == 1.0
