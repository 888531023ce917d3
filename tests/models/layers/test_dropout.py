"""Dropout from a hash of the place: the share that stays, its mean, and on what it depends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.models.layers.dropout import (
    Drop,
    Dropout,
    drop_of,
    dropped,
    keep_mask,
    kept_share,
    wrapped,
)

KEY = jax.random.key(0)


def correlation(one, other):
    """Of two arrays of coins with the same share, in standard deviations of independent ones."""
    one, other = (np.asarray(x, np.float64).reshape(-1) for x in (one, other))
    p = (one.mean() + other.mean()) / 2
    return float(((one - p) * (other - p)).sum() / (p * (1 - p)) / one.size**0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_that_stays_is_told_and_each_number_is_drawn_by_itself(seed, rate):
    key = jax.random.key(seed)
    shape = (101, 3, 333)  # an odd number of them
    kept = np.asarray(keep_mask(drop_of(key, rate), shape))
    assert kept.shape == shape
    assert abs(kept_share(rate) - (1 - rate)) < 1e-5
    assert abs(kept.mean() - kept_share(rate)) < 4 * (rate * (1 - rate) / kept.size) ** 0.5
    flat = kept.reshape(-1)[: 2 * (kept.size // 2)].reshape(-1, 2)  # neighbours
    assert abs((flat[:, 0] & flat[:, 1]).mean() - kept_share(rate) ** 2) < 0.01
    for axis in range(3):
        near = np.moveaxis(kept, axis, 0)
        assert abs(correlation(near[1:], near[:-1])) < 4, axis
    half = -(-shape[-1] // 2)  # halves of one word of bits
    assert abs(correlation(kept[..., :-half], kept[..., half:])) < 4
    assert not np.array_equal(kept[..., :-half], kept[..., half:])
    again = np.asarray(keep_mask(drop_of(jax.random.fold_in(key, 1), rate), shape))
    assert not np.array_equal(kept, again) and abs(correlation(kept, again)) < 4
    np.testing.assert_array_equal(kept, keep_mask(drop_of(key, rate), shape))


def test_seeds_do_not_resemble_one_another():
    """Of 66 pairs of seeds: their correlations spread as those of independent masks do."""
    seeds = [drop_of(jax.random.key(i), 0.1) for i in range(12)]
    masks = [np.asarray(keep_mask(drop, (40, 384))) for drop in seeds]
    found = [correlation(masks[i], masks[j]) for i in range(12) for j in range(i)]
    assert max(map(abs, found)) < 4
    assert 0.7 < float(np.std(found)) < 1.3  # 66 of them: 1 +- 0.09


def test_a_mask_follows_from_its_place_alone_wherever_it_is_computed():
    """A row of it is what the whole has there, and `jit` changes nothing."""
    drop = drop_of(KEY, 0.3)
    whole = np.asarray(keep_mask(drop, (7, 5, 6)))
    np.testing.assert_array_equal(keep_mask(drop, (35, 6)), whole.reshape(35, 6))
    np.testing.assert_array_equal(keep_mask(drop, (2, 5, 6)), whole[:2])
    seed = jax.jit(lambda seed: keep_mask(Drop(seed, 0.3), (7, 5, 6)))(drop.seed)
    np.testing.assert_array_equal(seed, whole)


def test_places_of_large_arrays_are_counted_modulo_two_to_the_32():
    for number in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 5 * 2**32 + 7):
        assert wrapped(number) == np.uint32(number % 2**32).view(np.int32)


def test_what_stays_is_larger_by_what_went_and_nothing_goes_when_it_should_not():
    x = jnp.full((40, 50), 3.0, jnp.bfloat16)
    layer = Dropout(0.25)
    out = np.asarray(layer.apply({}, x, False, rngs={"dropout": KEY}), np.float32)
    assert out.dtype == np.float32 and set(np.unique(out)) == {0.0, 4.0}
    assert 0.2 < (out == 0).mean() < 0.3
    assert layer.apply({}, x, True) is x and Dropout(0.0).apply({}, x, False) is x
    assert dropped(x, None) is x and dropped(x, drop_of(KEY, 0.0)) is x


def test_its_gradient_is_its_own_mask():
    def total(x):
        return Dropout(0.5).apply({}, x, False, rngs={"dropout": KEY}).sum()

    x = jnp.ones((8, 9))
    slope = np.asarray(jax.grad(total)(x))
    out = np.asarray(Dropout(0.5).apply({}, x, False, rngs={"dropout": KEY}))
    np.testing.assert_array_equal(slope, out)
