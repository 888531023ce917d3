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
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

LEVELS = 1 << 16


class Drop(NamedTuple):
    """What a dropout draws from: two words of a random key, and the rate."""

    seed: UInt32[Array, " W"]
    rate: float

    @property
    def words(self) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The seed as two int32."""
        signed = jax.lax.bitcast_convert_type(self.seed, jnp.int32)
        return signed[0], signed[1]

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


def mixed(index: Int[Array, "*shape"], first: Array, second: Array) -> Int[Array, "*shape"]:
    """32 random bits for each index: the finaliser "lowbias32" of C. Wellons, keyed by two words.

    `first` decides where the sequence starts, `second` enters between the two multiplications, so
    that sequences of two keys are not shifts of one another. All are int32, whose products and
    logical shifts have the bits of uint32.
    """
    x = index ^ first
    x = (x ^ jax.lax.shift_right_logical(x, _like(x, 16))) * _like(x, 0x7FEB352D)
    x = x ^ second
    x = (x ^ jax.lax.shift_right_logical(x, _like(x, 15))) * _like(x, 0x846CA68B - 2**32)
    return x ^ jax.lax.shift_right_logical(x, _like(x, 16))


def _like(x: Array, value: int) -> Array:
    return jnp.full_like(x, value)


def kept_high(bits: Int[Array, "*shape"], rate: float) -> Bool[Array, "*shape"]:
    """Whether the upper 16 of 32 random bits, int32, are below the threshold as a number of their
    own: half of all numbers are negative, so the threshold is moved by as much."""
    return bits < jnp.int32((threshold(rate) - LEVELS // 2) * LEVELS)


def kept_low(bits: Int[Array, "*shape"], rate: float) -> Bool[Array, "*shape"]:
    """The same of the lower 16."""
    return kept_high(bits << 16, rate)


def keep_mask(drop: Drop, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """True where a number stays, each by itself with the probability `drop.share`.

    A row's number i and the one half a row further on share 32 random bits, 16 each.
    """
    half = -(-shape[-1] // 2)
    place, stride = jnp.zeros(shape, jnp.int32), half
    for axis in reversed(range(len(shape) - 1)):
        along = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        place += along * jnp.int32(wrapped(stride))
        stride *= shape[axis]
    column = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    upper = column < half
    bits = mixed(place + jnp.where(upper, column, column - half), *drop.words)
    return kept_high(jnp.where(upper, bits, bits << 16), drop.rate)


def wrapped(number: int) -> int:
    """Modulo 2^32, as an int32."""
    return (number + 2**31) % 2**32 - 2**31


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
