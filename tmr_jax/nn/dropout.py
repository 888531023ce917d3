"""Dropout whose masks are computed where they are used and never stored.

Whether element i of an array stays is a function of i and of two 32-bit numbers drawn from the
layer's random key: a mixing function of 32-bit integers (two multiplications, three shifts) gives
uniform bits. XLA computes it inside the operation that applies the mask, in the forward and again
in the backward pass, so that no mask is drawn, written or read: on a TPU two fifths of a step went
into unpacking them, and on CPU half of it into hashing them (experiments/LOG.md).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32

LEVELS = 1 << 16


class Drop(NamedTuple):
    """What a dropout draws from: two words of a random key, and the rate."""

    seed: UInt32[Array, two]
    rate: float

    @property
    def share(self) -> float:
        """1 - rate, to the nearest of 65,536 levels: what stays is divided by it."""
        return kept_share(self.rate)


def kept_share(rate: float) -> float:
    return threshold(rate) / LEVELS


def threshold(rate: float) -> int:
    """A number stays where its 16 random bits are below this."""
    return round((1 - rate) * LEVELS)


def drop_of(key: Key[Array, ""], rate: float) -> Drop:
    return Drop(jax.random.bits(key, (2,), jnp.uint32), rate)


def mixed(index: UInt32[Array, "*shape"], first: Array, second: Array) -> UInt32[Array, "*shape"]:
    """32 random bits for each index: the finaliser "lowbias32" of C. Wellons, keyed by two words.

    `first` decides where the sequence starts, `second` enters between the two multiplications, so
    that sequences of two keys are not shifts of one another.
    """
    x = index ^ first
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ second
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def flat_index(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """The place of every element, the last axis fastest, modulo 2^32."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index += along * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def keep_mask(drop: Drop, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """True where a number stays, each by itself with the probability `drop.share`."""
    bits = mixed(flat_index(shape), drop.seed[0], drop.seed[1])
    return (bits >> 16) < jnp.uint32(threshold(drop.rate))


def dropped(x: Float[Array, "*shape"], drop: Drop | None) -> Float[Array, "*shape"]:
    """x with numbers set to zero and the others divided by the share that stays; None: x."""
    if drop is None or drop.rate == 0.0:
        return x
    return jnp.where(keep_mask(drop, x.shape), x * jnp.asarray(1 / drop.share, x.dtype), 0)


class Dropout(nn.Module):
    """`nn.Dropout` by `keep_mask`: the same mean, zeros at the rate, and nothing else."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], deterministic: bool) -> Float[Array, "*shape"]:
        if deterministic or self.rate == 0.0:
            return x
        return dropped(x, drop_of(self.make_rng("dropout"), self.rate))
