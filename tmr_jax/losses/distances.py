"""Euclidean distances between embeddings, with gradients that stay finite where rows coincide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-12  # of a squared distance (MODELS.md 6.2)


def distances(rows: Float[Array, "R D"], columns: Float[Array, "C D"]) -> Float[Array, "R C"]:
    """sqrt(max(||row - column||^2, 1e-12)).

    From the differences themselves: by way of the scalar products rounding turns the zero between
    equal rows into 3e-4. Below the floor the gradient is zero and not 0 x infinity.
    """

    def from_row(row: Float[Array, " D"]) -> Float[Array, " C"]:
        return jnp.sqrt(jnp.maximum(jnp.square(row[None] - columns).sum(-1), FLOOR))

    return jax.vmap(from_row)(rows)
