"""Euclidean distances between embeddings, with gradients that stay finite where rows coincide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-12  # of a squared distance
BLOCK = 2**24  # numbers that `in_blocks` has at a time


def in_blocks(of_rows: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """`of_rows`, which takes and gives arrays with a leading axis of rows, a block at a time.

    Inputs: arrays [R, ...]; `size`: of what is made of one row on the way.
    A block has every k-th row, so that rows which are spread over devices stay spread. What a block
    computes on the way is computed again in the backward pass, and not kept.
    """
    count = len(jax.tree.leaves(rows)[0])
    least = min(count, -(-count * size // BLOCK))
    blocks = next(n for n in range(least, count + 1) if count % n == 0)
    if blocks == 1:
        return of_rows(rows)
    cut = jax.tree.map(lambda x: x.reshape(-1, blocks, *x.shape[1:]).swapaxes(0, 1), rows)
    found = jax.lax.map(jax.checkpoint(of_rows), cut)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(count, *x.shape[2:]), found)


def apart(rows: Float[Array, "#R D"], others: Float[Array, "#R D"]) -> Float[Array, " R"]:
    """How far each row is from its other one: sqrt(max(||row - other||^2, 1e-12))."""
    return jnp.sqrt(jnp.maximum(jnp.square(rows - others).sum(-1), FLOOR))


@jax.custom_vjp
def distances(rows: Float[Array, "R D"], columns: Float[Array, "C D"]) -> Float[Array, "R C"]:
    """`apart` of every row and every column.

    From the differences themselves: by way of the scalar products rounding turns the zero between
    equal rows into 3e-4. At the floor the gradient is zero and not 0 x infinity. Memory is that of
    the inputs, of the result, and of a block of differences. There is a first derivative and no
    second.
    """
    between = jax.vmap(lambda row: apart(row[None], columns))
    return in_blocks(between, rows, columns.size)


def _forward(rows: Array, columns: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    found = distances(rows, columns)
    return found, (rows, columns, found)


def _backward(kept: tuple[Array, Array, Array], slope: Float[Array, "R C"]) -> tuple[Array, Array]:
    """d distance / d row = (row - column) / distance, and its negative for the column."""
    rows, columns, found = kept
    floor = jnp.sqrt(jnp.asarray(FLOOR, found.dtype))
    pull = jnp.where(found <= floor, 0.0, slope / found)
    return _pulled(pull, rows, columns), _pulled(pull.T, columns, rows)


def _pulled(
    pull: Float[Array, "R C"], rows: Float[Array, "R D"], columns: Float[Array, "C D"]
) -> Float[Array, "R D"]:
    """Sum over columns of pull x (row - column).

    From the differences too: as the products sum(pull) row - pull @ columns float32 loses a
    share 1e-7 / distance of it, all of it between embeddings that differ by rounding alone.
    """
    across = columns.T

    def of_row(both: tuple[Float[Array, " C"], Float[Array, " D"]]) -> Float[Array, " D"]:
        pull, row = both
        return (pull[None] * (row[:, None] - across)).sum(1)

    return in_blocks(jax.vmap(of_row), (pull, rows), columns.size)


distances.defvjp(_forward, _backward)
