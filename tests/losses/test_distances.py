"""Distances by hand, and their slopes where rows coincide (MODELS.md 6.2)."""

import jax
import jax.numpy as jnp
import numpy as np

from tmr_jax.losses.distances import distances


def test_three_four_five():
    rows, columns = jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[3.0, 4.0]])
    np.testing.assert_allclose(distances(rows, columns), [[5.0], [4.0]], rtol=1e-6)


def test_equal_rows_are_at_the_floor_and_have_no_slope():
    row = jax.random.normal(jax.random.key(0), (1, 300))
    np.testing.assert_allclose(distances(row, row), [[1e-6]], rtol=1e-3)
    slope = jax.grad(lambda x: distances(x, row).sum())(row)
    np.testing.assert_array_equal(slope, np.zeros((1, 300)))
