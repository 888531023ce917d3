"""Dropout from 16 bits a number: the share that stays, its mean, and on what it depends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.nn.dropout import Dropout, keep_mask, kept_share
from tmr_jax.training.step import cheap

KEY = jax.random.key(0)


@pytest.mark.parametrize("key", [KEY, cheap(KEY)], ids=["threefry", "rbg"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_that_stays_is_told_and_each_number_is_drawn_by_itself(key, rate):
    kept = np.asarray(keep_mask(key, rate, (101, 3, 333)))  # an odd number of them
    assert kept.shape == (101, 3, 333)
    assert abs(kept_share(rate) - (1 - rate)) < 1e-5
    assert abs(kept.mean() - kept_share(rate)) < 4 * (rate * (1 - rate) / kept.size) ** 0.5
    flat = kept.reshape(-1)[: 2 * (kept.size // 2)].reshape(-1, 2)  # halves of one word of bits
    assert abs((flat[:, 0] & flat[:, 1]).mean() - kept_share(rate) ** 2) < 0.01
    assert not np.array_equal(kept, keep_mask(jax.random.fold_in(key, 1), rate, kept.shape))


def test_what_stays_is_larger_by_what_went_and_nothing_goes_when_it_should_not():
    x = jnp.full((40, 50), 3.0, jnp.bfloat16)
    layer = Dropout(0.25)
    out = np.asarray(layer.apply({}, x, False, rngs={"dropout": KEY}), np.float32)
    assert out.dtype == np.float32 and set(np.unique(out)) == {0.0, 4.0}
    assert 0.2 < (out == 0).mean() < 0.3
    assert layer.apply({}, x, True) is x and Dropout(0.0).apply({}, x, False) is x


def test_its_gradient_is_its_own_mask():
    def total(x):
        return Dropout(0.5).apply({}, x, False, rngs={"dropout": KEY}).sum()

    x = jnp.ones((8, 9))
    slope = np.asarray(jax.grad(total)(x))
    out = np.asarray(Dropout(0.5).apply({}, x, False, rngs={"dropout": KEY}))
    np.testing.assert_array_equal(slope, out)
