"""The validation pool loses refused molecules with their texts, and targets stay theirs."""

import numpy as np

from tmr_jax.train.validation import _without_refused
from tmr_jax.types import Pool


def test_targets_follow_what_stays():
    pool = Pool(
        "x",
        ("a", "b", "c", "d"),
        ("A", "bad", "C"),
        np.array([0, 1, 2, -1]),
        np.array([0, 1, 2]),
    )
    stays, text_target, mol_target = _without_refused(pool, np.array([0, 2]))
    assert stays.tolist() == [0, 2, 3]
    assert text_target.tolist() == [0, 1, -1]
    assert mol_target.tolist() == [0, 1]


def test_a_pool_without_refusals_stays_as_it_is():
    target = np.arange(3)
    pool = Pool("x", ("a", "b", "c"), ("A", "B", "C"), target, np.full(3, -1))
    stays, text_target, mol_target = _without_refused(pool, target)
    assert stays.tolist() == text_target.tolist() == [0, 1, 2]
    assert mol_target.tolist() == [-1, -1, -1]
