"""From the tokens of a text, and from the atoms of each molecule, to one row each."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NORM_FLOOR = 1e-8


def l2_normalize(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Rows of length one; a zero row stays zero.

    Its gradient is finite there too, where that of a norm is not: padding may be all zeros, and a
    mask that comes later turns no NaN to zero.
    """
    square = jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), NORM_FLOOR**2)
    return x / jnp.sqrt(square)


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    weight = mask.astype(x.dtype)[:, :, None]
    return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def segment_mean(
    x: Float[Array, "N D"], segment: Int[Array, " N"], segments: int, ordered: bool = False
) -> Float[Array, "G D"]:
    """Mean of the rows of each segment; an empty segment gives zeros. `ordered`: segments are in
    the order of their numbers, and nobody has to sort them."""
    total = jax.ops.segment_sum(x, segment, segments, ordered)
    count = jax.ops.segment_sum(jnp.ones((len(x), 1), x.dtype), segment, segments, ordered)
    return total / jnp.maximum(count, 1)


ATOMS_IN_A_SUM = 32  # a molecule of the usual size then has sums as large as its means


class Readout(nn.Module):
    """What two dense layers make of mean, sum and maximum over each segment: [N, D] -> [G, D].

    A mean cannot tell a chain of 16 carbons from one of 18, a sum can. An empty segment is read as
    zeros.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N D"],
        segment: Int[Array, " N"],
        segments: int,
        ordered: bool = False,
    ) -> Float[Array, "G D"]:
        mean = segment_mean(x, segment, segments, ordered)
        total = jax.ops.segment_sum(x, segment, segments, ordered) / ATOMS_IN_A_SUM
        top = jax.ops.segment_max(x, segment, segments, ordered)
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        read = jnp.concatenate([mean, total, top], axis=1)
        read = nn.relu(nn.Dense(2 * x.shape[1], name="inner")(read))
        return nn.Dense(x.shape[1], name="outer")(read)
