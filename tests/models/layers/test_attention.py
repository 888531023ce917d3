"""Attention: its forms are one function, texts that share a row read themselves alone, and masks of
dropout are the same in all forms and look like noise."""

from __future__ import annotations

from functools import partial
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.models.layers.attention import (
    HIDDEN,
    Drop,
    Dropout,
    Segments,
    attend,
    attention,
    block_width,
    drop_of,
    dropped,
    fits_flash,
    keep_heads,
    keep_mask,
    kept_share,
    wrapped,
)

pytestmark = pytest.mark.usefixtures("optimized")

# Forms that run on any machine, and how they are told to.
FORMS = {"plain": {}, "low_memory": {}, "flash": {"interpret": True}}
SIZES = [(128, 2), (128, 4), (256, 4), (384, 3)]  # the last: one head fills a register
SEED = jnp.array([0x9E3779B9, 0x85EBCA6B], jnp.uint32)
# A row of three texts and padding, one of a single text, one of padding alone.
LENGTHS = ((9, 17, 11), (40,), ())
T = 40


def packed(q, k, v, heads, form):
    """qkv as `form` takes it, of queries, keys and values [B, T, D]."""
    width = block_width(q.shape[-1], heads, form)
    blocks = [x.reshape(*x.shape[:2], -1, width) for x in (q, k, v)]
    return jnp.stack(blocks, 3).reshape(*q.shape[:2], -1)


def drawn(hidden):
    """Queries, keys, values and the slope of what is read, [B, T, D]."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (len(LENGTHS), T, hidden)) for key in keys]


def segments_of(lengths, length=T, hidden=()):
    """Of texts side by side from the left, padding as the text after the last.

    Places of `hidden` are read by nobody.
    """
    query = np.zeros((len(lengths), length), np.int32)
    for row, texts in zip(query, lengths, strict=True):
        ends = np.cumsum(texts)
        row[:] = (np.arange(length)[:, None] >= ends[None].astype(int)).sum(1)
    key = query.copy()
    for row, place in hidden:
        key[row, place] = HIDDEN
    return Segments(jnp.asarray(query), jnp.asarray(key))


@partial(jax.jit, static_argnums=(4, 5, 6))
def read(q, k, v, segments, heads, form, rate=0.0, g=None, seed=SEED):
    """What is read, and the slopes by q, k and v at `g`."""

    def run(q, k, v):
        qkv = packed(q, k, v, heads, form)
        return attention(qkv, segments, seed, heads, form, rate, **FORMS[form])

    if g is None:
        return run(q, k, v)
    out, pull = jax.vjp(run, q, k, v)
    return out, *pull(g)


def close(found, wanted, atol=2e-6):
    """To `atol` of the largest of all numbers, array by array."""
    for one, other in zip(found, wanted, strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=atol * scale)


def by_hand(q, k, v, segments, heads, seed=SEED, rate=0.0):
    """A loop over rows, heads and places, in float64: every text by itself."""
    q, k, v = (np.asarray(x, np.float64).reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    rows, length, _, size = q.shape
    keep = np.ones((rows, heads, length, length), bool)
    share = 1.0
    if rate:
        drop = Drop(seed, rate)
        keep, share = np.asarray(keep_heads(drop, keep.shape)), drop.share
    out = np.zeros_like(q)
    for b in range(rows):
        for i in range(length):
            own = np.flatnonzero(np.asarray(segments.key[b]) == int(segments.query[b, i]))
            for h in range(heads):
                weights = np.exp(k[b, own, h] @ q[b, i, h] / size**0.5)
                weights = weights / weights.sum() * keep[b, h, i, own] / share
                out[b, i, h] = weights @ v[b, own, h]
    return out.reshape(rows, length, -1)


# One function


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_is_what_a_loop_over_texts_and_heads_reads(form, rate):
    hidden, heads = 128, 4
    q, k, v, _ = drawn(hidden)
    segments = segments_of(LENGTHS, hidden=[(0, 3), (0, 12), (1, 7)])
    found = read(q, k, v, segments, heads, form, rate)
    np.testing.assert_allclose(found, by_hand(q, k, v, segments, heads, rate=rate), atol=3e-6)


@pytest.mark.costly("256", "384")
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(("hidden", "heads"), SIZES)
@pytest.mark.parametrize("form", ["low_memory", "flash"])
def test_forms_are_plain_attention_in_value_and_gradient(form, hidden, heads, rate):
    q, k, v, g = drawn(hidden)
    segments = segments_of(LENGTHS, hidden=[(0, 3), (0, 12), (1, 7)])
    plain = read(q, k, v, segments, heads, "plain", rate, g)
    close(read(q, k, v, segments, heads, form, rate, g), plain)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_hand_written_gradient_is_jax_s_own(rate):
    q, k, v, g = drawn(64)
    segments, drop = segments_of(LENGTHS), Drop(SEED, rate) if rate else None

    @jax.jit
    def own(q, k, v, g):
        def run(q, k, v):
            return attend(packed(q, k, v, 4, "plain"), segments, 4, "plain", drop)[0]

        out, pull = jax.vjp(run, q, k, v)
        return out, *pull(g)

    for form in ("plain", "low_memory"):
        close(read(q, k, v, segments, 4, form, rate, g), own(q, k, v, g))


@pytest.mark.costly
@pytest.mark.parametrize("form", ["low_memory", "flash"])
def test_in_bfloat16_they_are_as_good_as_plain_attention(form):
    wide = drawn(128)
    segments = segments_of(LENGTHS)
    exact = read(*wide[:3], segments, 4, "plain", 0.1, wide[3])

    def errors(form):
        rough = [x.astype(jnp.bfloat16) for x in wide]
        found = read(*rough[:3], segments, 4, form, 0.1, rough[3])
        assert {x.dtype for x in found} == {jnp.dtype("bfloat16")}
        return [
            np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b)
            for a, b in zip(found, exact, strict=True)
        ]

    for ours, plain in zip(errors(form), errors("plain"), strict=True):
        assert 0 < ours < 1.2 * plain < 0.02


def test_which_heads_fill_registers():
    assert fits_flash(768, 12) and fits_flash(384, 12) and fits_flash(128, 1)
    assert not fits_flash(312, 12) and not fits_flash(64, 2) and not fits_flash(384, 2)
    assert block_width(768, 12, "flash") == 128 and block_width(768, 12, "plain") == 64


# Packed equals alone


@pytest.mark.costly("flash-all")
@pytest.mark.parametrize("hidden", [(), ((0, 3), (0, 10), (0, 11), (0, 36))], ids=["all", "some"])
@pytest.mark.parametrize("form", FORMS)
def test_a_text_in_a_row_of_three_is_what_it_is_alone(form, hidden):
    """In value and gradient, whichever words are hidden from all; padding reads padding."""
    heads = 4
    q, k, v, g = drawn(128)
    segments = segments_of(LENGTHS, hidden=hidden)
    together = read(q, k, v, segments, heads, form, 0.0, g)
    starts = np.concatenate([[0], np.cumsum(LENGTHS[0]), [T]])
    assert len(starts) == 5 and starts[3] < T  # three texts, then padding
    for begin, end in pairwise(starts):
        places = np.arange(begin, end)
        own = [(0, int(p) - begin) for _, p in hidden if begin <= p < end]
        single = segments_of([(len(places),)], len(places), own)
        parts = [x[:1, begin:end] for x in (q, k, v)]
        alone = read(*parts, single, heads, form, 0.0, g[:1, begin:end])
        close([x[:1, begin:end] for x in together], alone)
    for _, place in hidden:  # who is read by nobody has no slope as key or value
        assert not np.asarray(together[2])[0, place].any()
        assert not np.asarray(together[3])[0, place].any()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_neighbour_is_read(form):
    """Bit for bit, whatever stands beside it and in the padding."""
    q, k, v, g = drawn(128)
    segments = segments_of(LENGTHS)
    second = slice(LENGTHS[0][0], sum(LENGTHS[0][:2]))

    def other(x):
        return (100 * x).at[0, second].set(x[0, second])

    for one, two in zip(
        read(q, k, v, segments, 4, form, 0.1, g),
        read(other(q), other(k), other(v), segments, 4, form, 0.1, other(g)),
        strict=True,
    ):
        assert np.isfinite(two).all()
        np.testing.assert_array_equal(one[0, second], two[0, second])
        assert np.abs(np.asarray(one - two)[0, : second.start]).max() > 1e-3


@pytest.mark.costly("flash")
@pytest.mark.parametrize("form", FORMS)
def test_a_mask_is_one_text_in_a_row_and_a_row_of_padding_is_finite(form):
    q, k, v, g = drawn(128)
    mask = jnp.arange(T)[None, :] < jnp.array([T, 5, 0])[:, None]
    segments = Segments.of_mask(mask)
    assert np.array_equal(segments.visible, np.broadcast_to(mask[:, None, :], (3, T, T)))
    found = read(q, k, v, segments, 4, form, 0.1, g)
    assert all(np.isfinite(x).all() for x in found)
    short = read(q[1:2, :5], k[1:2, :5], v[1:2, :5], Segments.of_mask(mask[1:2, :5]), 4, form)
    still = read(q, k, v, segments, 4, form)
    np.testing.assert_allclose(still[1:2, :5], short, atol=2e-6)


# Dropout of probabilities


@pytest.mark.costly("384", "256-8")
@pytest.mark.parametrize(("hidden", "heads", "length"), [(256, 4, 40), (256, 8, 32), (384, 3, 40)])
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_drop_the_same_probabilities_forward_and_backward(form, hidden, heads, length):
    """Uniform probabilities onto values of one number each: what is read is the mask."""
    rows, rate = 2, 0.25
    size = hidden // heads
    one_hot = jnp.tile(jnp.eye(length, size), (rows, 1, heads))
    zero = jnp.zeros_like(one_hot)
    assert length <= size
    segments = segments_of([(length,)] * rows, length)
    drop = Drop(SEED, rate)
    keep = np.asarray(keep_heads(drop, (rows, heads, length, length)))
    out, _, _, d_v = read(zero, zero, one_hot, segments, heads, form, rate, one_hot)
    # [B, T, H, d]: of the place at T the number d says whether key d was read
    found = np.asarray(out).reshape(rows, length, heads, size)[..., :length]
    np.testing.assert_array_equal(found > 0, keep.transpose(0, 2, 1, 3))
    back = np.asarray(d_v).reshape(rows, length, heads, size)[..., :length]  # [B, key, H, query]
    np.testing.assert_array_equal(back > 0, keep.transpose(0, 3, 1, 2))
    for numbers in (found, back):
        np.testing.assert_allclose(numbers[numbers > 0], 1 / length / drop.share, rtol=1e-5)


def correlation(one, other):
    """Of two arrays of coins with the same share, in standard deviations of independent ones."""
    one, other = (np.asarray(x, np.float64).reshape(-1) for x in (one, other))
    p = (one.mean() + other.mean()) / 2
    return float(((one - p) * (other - p)).sum() / (p * (1 - p)) / one.size**0.5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_masks_of_heads_look_like_noise(rate, seed):
    """Share, and no correlation of neighbours: places, heads (two share 32 bits), rows, seeds."""
    words = jax.random.bits(jax.random.key(seed), (2, 2), jnp.uint32)
    shape = (6, 5, 72, 72)  # an odd number of heads
    keep = np.asarray(keep_heads(Drop(words[0], rate), shape))
    share = Drop(words[0], rate).share
    assert abs(share - (1 - rate)) < 1e-5
    spread = (share * (1 - share) / keep.size) ** 0.5
    assert abs(keep.mean() - share) < 4 * spread
    for axis in range(4):  # and of no row, head, query or key by itself
        means = keep.mean(tuple(i for i in range(4) if i != axis))
        assert np.abs(means - share).max() < 5 * spread * shape[axis] ** 0.5
    for axis in range(4):
        for step in (1, 2):
            near = np.moveaxis(keep, axis, 0)
            assert abs(correlation(near[step:], near[:-step])) < 4, (axis, step)
    for one, other in combinations(range(shape[1]), 2):
        assert abs(correlation(keep[:, one], keep[:, other])) < 4, (one, other)
        assert not np.array_equal(keep[:, one], keep[:, other])
    assert abs(correlation(keep, keep_heads(Drop(words[1], rate), shape))) < 4
    one_word = jnp.stack([words[0, 0], words[1, 1]])  # seeds that share a word are two seeds
    assert abs(correlation(keep, keep_heads(Drop(one_word, rate), shape))) < 4
    np.testing.assert_array_equal(keep, keep_heads(Drop(words[0], rate), shape))


def test_cudnn_is_told_what_plain_attention_reads(monkeypatch):
    """It runs on NVIDIA's cards alone: here the reference of JAX stands in for the kernel."""
    called = jax.nn.dot_product_attention

    def stand_in(*words, implementation, **named):
        assert implementation == "cudnn"
        return called(*words, implementation="xla", **named)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v, g = drawn(128)
    segments = segments_of(LENGTHS, hidden=[(0, 3), (0, 12), (1, 7)])
    monkeypatch.setitem(FORMS, "cudnn", {})
    found = read(q, k, v, segments, 4, "cudnn", 0.0, g)
    close(found, read(q, k, v, segments, 4, "plain", 0.0, g))


KEY = jax.random.key(0)


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
