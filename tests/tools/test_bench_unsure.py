"""How well a warning tells failures, by hand."""

import numpy as np

from tmr_jax.index.schema import Hit
from tmr_jax.search.retriever import Answer, Query
from tools.bench.unsure import best, interval

NITRILE = Hit(1, 0.2, "CC#N", "a", 0.1, 0, {"groups": 0, "classes": 0})


def test_failures_that_score_lower_are_told_and_others_are_not():
    failed = np.array([True, False] * 20)
    scores = np.where(failed, 0.1, 0.9)
    assert interval(scores, failed) == (1.0, 1.0, 1.0)
    assert interval(-scores, failed) == (0.0, 0.0, 0.0)
    value, low, high = interval(np.zeros(40), failed)
    assert value == low == high == 0.5


def test_the_best_score_is_of_the_last_stage():
    second = Hit(2, 0.4, "CCC", "b", None, 1)
    assert best(Answer(Query("a liquid"), [NITRILE])) == 0.1
    assert best(Answer(Query("a liquid"), [NITRILE, second])) == 0.4
    assert best(Answer(Query("a liquid"), [])) == -np.inf
