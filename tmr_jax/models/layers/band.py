"""Products with the adjacency of a batch of molecules in blocks, for TPUs.

A gather of the states of neighbours and a scatter of their sums move every state several times over
and leave the matrix units idle. The atoms of a molecule lie together, so nearly every bond ties two
atoms that are near each other in the batch, too: for a block of 128 atoms the adjacency with the
256 around them is a small matrix, and what sums them is a product with it. Bonds that reach further
are added one by one, in a loop that has no turn where there are none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.lax import Precision
from jaxtyping import Array, Float, Int

BLOCK = 128  # atoms that a matrix has rows for
WINDOW = 2 * BLOCK  # and columns
STEP = (WINDOW - BLOCK) // 2  # windows begin at multiples of it
TURN = 4  # blocks whose windows are read at once


class Band(NamedTuple):
    """A square matrix with a row for each of R atoms, a multiple of BLOCK."""

    near: Float[Array, "blocks 2 BLOCK BLOCK"]  # of each block the left and the right half
    rows: Int[Array, " E"]  # of what does not lie in `near`, first of all
    columns: Int[Array, " E"]
    weight: Float[Array, " E"]
    count: Int[Array, ""]  # of them


def padded(count: int) -> int:
    """R for so many atoms: a window has to fit in."""
    return max(-(-count // BLOCK) * BLOCK, WINDOW)


def _start(block: Any, size: int) -> Any:
    """Where the window of a block begins, in STEPs: around it, and within all `size` rows."""
    return jnp.clip(block * (BLOCK // STEP) - 1, 0, (size - WINDOW) // STEP)


def band(
    rows: Int[Array, " E"], columns: Int[Array, " E"], scale: Float[Array, " R"], dtype: Any
) -> Band:
    """S (A + I) S: A counts the bonds from `columns` to `rows`, S is diagonal."""
    size = len(scale)
    atoms = jnp.arange(size)
    rows, columns = jnp.concatenate([rows, atoms]), jnp.concatenate([columns, atoms])
    weight = scale[rows] * scale[columns]
    place = columns - _start(rows // BLOCK, size) * STEP
    inside = (place >= 0) & (place < WINDOW)
    # By one number, of halves of 128 columns: XLA then moves neither indices nor the result.
    half = rows // BLOCK * 2 + place // BLOCK
    place = (half * BLOCK + rows % BLOCK) * BLOCK + place % BLOCK
    place = jnp.where(inside, place, size * WINDOW)
    near = jnp.zeros(size * WINDOW, dtype).at[place].add(weight.astype(dtype), mode="drop")
    far = jnp.flatnonzero(~inside, size=len(weight) - size, fill_value=0)
    near = near.reshape(-1, 2, BLOCK, BLOCK)
    return Band(near, rows[far], columns[far], weight[far], (~inside).sum())


@jax.custom_vjp
def times(x: Float[Array, "R D"], matrix: Band, turned: Band) -> Float[Array, "R D"]:
    """`matrix` times x, in the type of x; `turned` is its transpose, which slopes go through."""
    return _times(x, matrix)


times.defvjp(
    lambda x, matrix, turned: (_times(x, matrix), turned),
    lambda turned, slope: (_times(slope, turned), None, None),
)


def _times(x: Float[Array, "R D"], matrix: Band) -> Float[Array, "R D"]:
    def more(i: Array, total: Array) -> Array:
        # One row at a time: of a scatter of many a TPU would sort the places first.
        row = jax.lax.dynamic_slice_in_dim(total, matrix.rows[i], 1)
        added = matrix.weight[i] * jax.lax.dynamic_slice_in_dim(x, matrix.columns[i], 1)
        row += added.astype(x.dtype)
        return jax.lax.dynamic_update_slice_in_dim(total, row, matrix.rows[i], 0)

    return jax.lax.fori_loop(0, matrix.count, more, product(matrix.near, x))


def product(
    near: Float[Array, "blocks 2 BLOCK BLOCK"], x: Float[Array, "R D"], interpret: bool = False
) -> Float[Array, "R D"]:
    """The product of each block's matrix with the rows of x in its window; sums are float32.

    A Pallas kernel: windows overlap, and XLA would write them out side by side.
    """
    size, width = x.shape
    read = min(TURN * BLOCK + 2 * STEP, size)  # rows, which hold the windows of all its blocks

    def first(turn: Any) -> Any:
        return jnp.clip(turn * (TURN * BLOCK // STEP) - 1, 0, (size - read) // STEP)

    def kernel(near: Any, x: Any, out: Any) -> None:
        turn = pl.program_id(0)
        exact = Precision.HIGHEST if x.dtype == jnp.float32 else None
        dot = partial(jnp.dot, precision=exact, preferred_element_type=jnp.float32)
        for i in range(TURN):
            begin = (_start(turn * TURN + i, size) - first(turn)) * STEP
            window = x[pl.ds(pl.multiple_of(begin, STEP), WINDOW), :]
            total = dot(near[i, 0], window[:BLOCK]) + dot(near[i, 1], window[BLOCK:])
            out[i * BLOCK : (i + 1) * BLOCK, :] = total.astype(out.dtype)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(size, TURN * BLOCK),),
        in_specs=[
            pl.BlockSpec((TURN, 2, BLOCK, BLOCK), lambda i: (i, 0, 0, 0)),
            pl.BlockSpec((pl.Element(read), pl.Element(width)), lambda i: (first(i) * STEP, 0)),
        ],
        out_specs=pl.BlockSpec((TURN * BLOCK, width), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=interpret,
        name="band_product",
    )(near, x)
