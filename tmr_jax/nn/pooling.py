"""Means over the real tokens of a text and over the atoms of each molecule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    weight = mask.astype(x.dtype)[:, :, None]
    return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def segment_mean(
    x: Float[Array, "N D"], segment: Int[Array, " N"], segments: int
) -> Float[Array, "G D"]:
    """Mean of the rows of each segment; an empty segment gives zeros."""
    total = jax.ops.segment_sum(x, segment, segments)
    count = jax.ops.segment_sum(jnp.ones((len(x), 1), x.dtype), segment, segments)
    return total / jnp.maximum(count, 1)
