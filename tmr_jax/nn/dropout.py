"""Dropout that costs little: which numbers are kept is read from random bits, 16 for each.

A draw of `jax.random.bernoulli` hashes 64 bits for every number; with one for each pair of tokens
and head that was half of a training step on CPU (experiments/LOG.md).
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

LEVELS = 1 << 16


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """True where a number stays, each by itself with the probability `kept_share(rate)`."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count].reshape(shape)
    return bits < jnp.uint16(round((1 - rate) * LEVELS))


def kept_share(rate: float) -> float:
    """1 - rate, to the nearest of 65,536 levels: what stays is divided by it."""
    return round((1 - rate) * LEVELS) / LEVELS


class Dropout(nn.Module):
    """`nn.Dropout` by `keep_mask`: the same mean, zeros at the rate, and nothing else."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], deterministic: bool) -> Float[Array, "*shape"]:
        if deterministic or self.rate == 0.0:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x * jnp.asarray(1 / kept_share(self.rate), x.dtype), 0)
