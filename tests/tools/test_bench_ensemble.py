"""The mean of the cosines of several runs, by hand and of a run twice."""

from __future__ import annotations

import importlib

import numpy as np

from tmr_jax.eval.pools import EncodedPool
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool

TOOL = importlib.import_module("tools.bench.ensemble")


def test_products_are_the_mean_and_items_are_equal_where_all_say_so() -> None:
    random = np.random.default_rng(0)
    pool = Pool("p", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    groups = (np.array([0, 0]), np.array([0, 1]))
    each = [
        EncodedPool(pool, *(Encoded(random.normal(size=(2, 3)), group) for _ in range(2)))
        for group in groups
    ]
    found = TOOL.mean(each)
    wanted = np.mean([side.text.rows @ side.mol.rows.T for side in each], 0)
    np.testing.assert_allclose(found.text.rows @ found.mol.rows.T, wanted, rtol=1e-6)
    assert len(set(found.mol.group.tolist())) == 2


def test_a_run_with_itself_ranks_as_it_does_alone(tiny_run, capsys) -> None:
    words = ["--runs", str(tiny_run), str(tiny_run), "--protocol", "table/test"]
    assert TOOL.main(words) == 0
    said = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 6 and said[0] == said[2] == said[4] and said[1] == said[3] == said[5]
