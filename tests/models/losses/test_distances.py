"""Distances by hand, and their slopes where rows coincide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.losses import plain
from tmr_jax.models import losses
from tmr_jax.models.losses import distances


def test_three_four_five():
    rows, columns = jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[3.0, 4.0]])
    np.testing.assert_allclose(distances(rows, columns), [[5.0], [4.0]], rtol=1e-6)


def test_equal_rows_are_at_the_floor_and_have_no_slope():
    row = jax.random.normal(jax.random.key(0), (1, 300))
    np.testing.assert_allclose(distances(row, row), [[1e-6]], rtol=1e-3)
    slope = jax.grad(lambda x: distances(x, row).sum())(row)
    np.testing.assert_array_equal(slope, np.zeros((1, 300)))


@pytest.mark.parametrize("block", [2**24, 7 * 300 * 24])
def test_slopes_are_those_of_autodiff_in_float64(block, monkeypatch):
    """Equal rows and nearly equal ones included; seen to fail with slopes by matrix products."""
    monkeypatch.setattr(losses, "BLOCK", block)
    weight = np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32)

    def ours(rows, columns):
        return (distances(rows, columns) * weight).sum()

    def theirs(rows, columns):
        return (plain.distances(rows, columns) * weight).sum()

    plain.same_slopes(ours, theirs, plain.repeated())
    plain.same_slopes(lambda x: ours(x, x), lambda x: theirs(x, x), plain.repeated()[:1])


def test_blocks_of_rows_give_what_all_rows_give(monkeypatch):
    rows, columns = plain.repeated(rows=12)
    whole = distances(rows, columns)
    monkeypatch.setattr(losses, "BLOCK", 5 * columns.size)
    np.testing.assert_allclose(distances(rows, columns), whole, rtol=1e-6)
    lowered = jax.jit(distances).lower(rows, columns).as_text()
    assert "stablehlo.while" in lowered and "4x3x300" in lowered.replace("tensor<", "")
    np.testing.assert_array_equal(losses.in_blocks(lambda x: 2 * x, rows, 10**9), 2 * rows)
