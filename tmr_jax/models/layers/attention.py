"""Dropout without stored masks, and multi-head attention in four forms of one function.

Every form of attention takes queries, keys and values in one array, `qkv` [B, T, 3 D], and gives
[B, T, D]. The 3 D numbers are blocks of `block_width`, q k v of the first, then of the next: a
block is one head, or as many as fill a register, so that a kernel reads whole registers and the
projections are one product. `plain` is the reference. `low_memory` keeps the probabilities in the
precision of the run. `flash` is a Pallas kernel for TPU that keeps none at all. `cudnn` calls
NVIDIA's, and drops none.

A place reads those whose key segment is its own query segment, and nothing else: texts that share a
row read only themselves. `test_attention.py` holds each form to "packed equals alone".

Dropout: whether element i of an array stays is a function of i and of two 32-bit numbers drawn from
the layer's random key, whose bits a mixing function makes uniform. XLA computes it inside the
operation that applies the mask, in the forward and again in the backward pass, so that no mask is
drawn, written or read: on a TPU two fifths of a step went into unpacking them, and on CPU half of
it into hashing them (experiments/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
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


Form = Literal["plain", "low_memory", "flash", "cudnn"]
LANES = 128  # numbers that a vector register of a TPU holds side by side
HIDDEN = -1  # key segment of a place that nobody reads


class Segments(NamedTuple):
    """Which places read each other: those with query segment == key segment."""

    query: Int[Array, "B T"]
    key: Int[Array, "B T"]
    bias: Array | None = None  # [H, T, T], added to the scores; the form `plain` alone reads it

    @classmethod
    def of_mask(cls, mask: Bool[Array, "B T"]) -> Segments:
        """One text in a row: all read the places of the mask."""
        return cls(jnp.zeros(mask.shape, jnp.int32), jnp.where(mask, 0, HIDDEN))

    @property
    def visible(self) -> Bool[Array, "B T T"]:
        return self.query[:, :, None] == self.key[:, None, :]


def block_width(hidden: int, heads: int, form: Form) -> int:
    """Numbers of a block of heads: a register's for `flash`, one head for the others."""
    return LANES if form == "flash" else hidden // heads


def fits_flash(hidden: int, heads: int) -> bool:
    """Whether whole heads fill whole registers."""
    return hidden % LANES == 0 and LANES % (hidden // heads) == 0


def attend(
    qkv: Float[Array, "B T D3"],
    segments: Segments,
    heads: int,
    form: Form,
    drop: Drop | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B T D"], Any]:
    """softmax(q k' / sqrt(d)) v of each head, and what `attend_backward` wants kept of it.

    `drop` says which probabilities are dropped: the same ones in all forms, save `cudnn`, which
    drops none. `interpret` runs the TPU's kernel anywhere, slowly.
    """
    if form == "flash":
        out = flash_forward(qkv[None], 0, segments, heads, drop, interpret=interpret)
        return out[0], ()
    q, k, v = _split(qkv, heads)
    if form == "cudnn":
        return _joined(_cudnn(q, k, v, segments)), ()
    p = _probabilities(q, k, segments)
    p = p.astype(qkv.dtype) if form == "low_memory" else p
    out = jnp.einsum("bhqk,bkhd->bqhd", _kept(p, drop).astype(v.dtype), v)
    return _joined(out), p


def attend_backward(
    qkv: Float[Array, "B T D3"],
    out: Float[Array, "B T D"],
    kept: Any,
    segments: Segments,
    heads: int,
    form: Form,
    drop: Drop | None,
    g: Float[Array, "B T D"],
    interpret: bool = False,
) -> Float[Array, "B T D3"]:
    """The slope by qkv, from `out` and what `attend` kept."""
    if form == "flash":
        call = (qkv[None], 0, out[None], segments, heads, drop, g, interpret)
        return flash_backward(*call)[0]
    q, k, v = _split(qkv, heads)
    g = g.reshape(q.shape)
    if form == "cudnn":
        pull = jax.vjp(lambda q, k, v: _cudnn(q, k, v, segments), q, k, v)[1]
        d_q, d_k, d_v = pull(g)
    else:
        d_q, d_k, d_v = _slopes(q, k, v, kept, drop, g)
    return jnp.stack([d_q, d_k, d_v], axis=3).reshape(qkv.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def attention(
    qkv: Float[Array, "B T D3"],
    segments: Segments,
    seed: UInt32[Array, " W"],
    heads: int,
    form: Form,
    rate: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "B T D"]:
    """`attend` by itself, with its gradient; of the form `plain` JAX's own would be the same."""
    return attend(qkv, segments, heads, form, _drop(seed, rate), interpret)[0]


def _attention_forward(qkv, segments, seed, heads, form, rate, interpret):
    out, kept = attend(qkv, segments, heads, form, _drop(seed, rate), interpret)
    return out, (qkv, out, kept, segments, seed)


def _attention_backward(heads, form, rate, interpret, residuals, g):
    qkv, out, kept, segments, seed = residuals
    drop = _drop(seed, rate)
    d_qkv = attend_backward(qkv, out, kept, segments, heads, form, drop, g, interpret)
    return d_qkv, None, None  # neither segments nor noise are learned


attention.defvjp(_attention_forward, _attention_backward)


def _drop(seed: Array, rate: float) -> Drop | None:
    return Drop(seed, rate) if rate else None


def _split(qkv: Array, heads: int) -> tuple[Array, Array, Array]:
    """Queries, keys and values [B, T, H, d] of blocks of one head each."""
    parts = qkv.reshape(*qkv.shape[:2], heads, 3, -1)
    return parts[:, :, :, 0], parts[:, :, :, 1], parts[:, :, :, 2]


def _joined(out: Float[Array, "B T H d"]) -> Float[Array, "B T D"]:
    return out.reshape(*out.shape[:2], -1)


def _cudnn(q: Array, k: Array, v: Array, segments: Segments) -> Array:
    visible = segments.visible[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=visible, implementation="cudnn")


# The reference


def keep_heads(drop: Drop, shape: tuple[int, ...]) -> Bool[Array, "B H T T"]:
    """Which probabilities stay. Two heads share 32 random bits, 16 each."""
    _, h, t, _ = shape
    axes = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(4)]
    pair = axes[0] * (-(-h // 2)) + (axes[1] >> 1)
    bits = mixed(pair * jnp.int32(t * t) + axes[2] * t + axes[3], *drop.words)
    return kept_high(jnp.where((axes[1] & 1) == 0, bits << 16, bits), drop.rate)


def _probabilities(q: Array, k: Array, segments: Segments) -> Array:
    """Softmax in float32: q, k [B, T, H, d] -> [B, H, T, T]."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    if segments.bias is not None:
        scores = scores + segments.bias[None]
    scores = jnp.where(segments.visible[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def _kept(p: Array, drop: Drop | None) -> Array:
    if drop is None:
        return p
    return jnp.where(keep_heads(drop, p.shape), p / jnp.asarray(drop.share, p.dtype), 0)


def _slopes(q: Array, k: Array, v: Array, p: Array, drop: Drop | None, g: Array) -> tuple:
    """By q, k and v, in the order of operands that XLA's CPU kernels are fast in."""
    d_v = jnp.einsum("bhqk,bqhd->bkhd", _kept(p, drop).astype(v.dtype), g)
    d_p = _kept(jnp.einsum("bqhd,bkhd->bhqk", g, v).astype(jnp.float32), drop)
    p = p.astype(jnp.float32)
    d_s = p * (d_p - jnp.sum(d_p * p, axis=-1, keepdims=True)) * q.shape[-1] ** -0.5
    d_s = d_s.astype(q.dtype)
    d_q = jnp.einsum("bhqk,bkhd->bqhd", d_s, k)
    d_k = jnp.einsum("bhqk,bqhd->bkhd", d_s, q)
    return d_q, d_k, d_v


# TPU: a kernel for a row and a block of heads. Scores and probabilities stay in registers and
# vector memory; the gradient makes them again.


class _Layout(NamedTuple):
    """What a kernel knows when it is compiled."""

    heads: int  # of a block
    pairs: int  # of all heads of a row: two share their random bits
    rate: float

    @property
    def size(self) -> int:
        """Numbers of a head."""
        return LANES // self.heads

    @property
    def share(self) -> float:
        return threshold(self.rate) / LEVELS


def flash_forward(
    qkv: Float[Array, "L B T D3"],
    at: Int[Array, ""] | int,
    segments: Segments,
    heads: int,
    drop: Drop | None,
    out: Float[Array, "L B T D"] | None = None,
    interpret: bool = False,
) -> Float[Array, "L B T D"]:
    """Attention of layer `at`, written into its place of `out`, which is taken over; without `out`
    the only layer's."""
    _, rows, t, width = qkv.shape
    features = width // 3
    arrays, alias = (qkv,), {}
    if out is not None:
        arrays, alias = (qkv, out), {5: 0}  # the number of `out` among all inputs
    layers = 1 if out is None else len(out)
    return _call(
        _forward_kernel, heads, drop, interpret, at, segments, arrays,
        [(features, True)],
        [jax.ShapeDtypeStruct((layers, rows, t, features), qkv.dtype)],
        alias,
    )[0]  # fmt: skip


def flash_backward(
    qkv: Float[Array, "L B T D3"],
    at: Int[Array, ""] | int,
    out: Float[Array, "L B T D"],
    segments: Segments,
    heads: int,
    drop: Drop | None,
    g: Float[Array, "B T D"],
    interpret: bool = False,
) -> tuple[Float[Array, "B T D3"], Float[Array, " D3"]]:
    """The slope by layer `at` of `qkv`, and its sums over all places."""
    _, rows, t, width = qkv.shape
    slope, sums = _call(
        _backward_kernel, heads, drop, interpret, at, segments, (qkv, out, g),
        [(width, False), pl.BlockSpec((1, 3 * LANES), lambda j, i, at: (0, j))],
        [
            jax.ShapeDtypeStruct((rows, t, width), qkv.dtype),
            jax.ShapeDtypeStruct((1, width), jnp.float32),
        ],
    )  # fmt: skip
    return slope, sums[0]


def _call(
    kernel: Any,
    heads: int,
    drop: Drop | None,
    interpret: bool,
    at: Any,
    segments: Segments,
    arrays: tuple,
    outs: list,
    shapes: list,
    alias: dict[int, int] = {},  # noqa: B006 - never written
) -> Sequence[Array]:
    """Runs `kernel` for each block of heads and row of places; `arrays` are [L, B, T, features], of
    which layer `at` is read, or [B, T, features]."""
    seed = jnp.zeros(2, jnp.int32) if drop is None else jnp.stack(drop.words)
    _, rows, t, width = arrays[0].shape
    blocks = width // (3 * LANES)
    layout = _Layout(heads // blocks, -(-heads // 2), 0.0 if drop is None else drop.rate)

    def block(features: int, layers: bool) -> pl.BlockSpec:
        size = features // blocks
        if layers:
            return pl.BlockSpec((None, None, t, size), lambda j, i, at: (at[0], i, 0, j))
        return pl.BlockSpec((None, t, size), lambda j, i, at: (i, 0, j))

    inputs = [block(x.shape[-1], x.ndim == 4) for x in arrays]
    if alias:  # written into, never read
        inputs[-1] = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        partial(kernel, layout=layout),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(blocks, rows),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                *[pl.BlockSpec((None, 1, t), lambda j, i, at: (i, 0, 0))] * 2,
                *inputs,
            ],
            out_specs=[block(*x) if isinstance(x, tuple) else x for x in outs],
        ),
        out_shape=shapes,
        input_output_aliases=alias,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(
        jnp.asarray(at, jnp.int32).reshape(1), seed,
        segments.query[:, None, :], segments.key[:, None, :], *arrays,
    )  # fmt: skip


class _Head(NamedTuple):
    """What both kernels need of one head: its numbers of queries, keys and values [T, d]."""

    query: Array  # scaled
    key: Array
    value: Array
    weight: Array  # float32 [T, T]: exp of score - largest
    total: Array  # float32 [T, 1]: its sum over the keys
    keep: Array | None  # bool [T, T]


def _heads_of(
    seed: Any, query_segment: Any, key_segment: Any, qkv: Any, layout: _Layout
) -> Iterator[_Head]:
    """Every head of a block, one after another."""
    row, first = pl.program_id(1), pl.program_id(0) * layout.heads
    t, bits = qkv.shape[0], None
    # Both segments come as rows: XLA's own column of them is a twentieth of a step's code.
    visible = key_segment[...] == jnp.broadcast_to(query_segment[...], (t, t)).T
    place = jax.lax.broadcasted_iota(jnp.int32, (t, t), 0) * t
    place += jax.lax.broadcasted_iota(jnp.int32, (t, t), 1)
    for i in range(layout.heads):
        start = i * layout.size
        q, k, v = (qkv[:, part * LANES + start :][:, : layout.size] for part in range(3))
        query = q * jnp.asarray(layout.size**-0.5, q.dtype)
        scores = _product(query, k, (1, 1))
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        weight = jnp.exp(scores - scores.max(1, keepdims=True))
        keep = None
        if layout.rate:
            head = first + i
            if bits is None or layout.heads == 1 or i % 2 == 0:
                # 32 random bits for each query and key of a pair of heads: as `keep_heads`.
                pair = row * layout.pairs + (head >> 1)
                bits = mixed(place + pair * (t * t), seed[0], seed[1])
            if layout.heads == 1:
                keep = kept_high(jnp.where((head & 1) == 0, bits << 16, bits), layout.rate)
            else:
                keep = (kept_high if i % 2 else kept_low)(bits, layout.rate)
        yield _Head(query, k, v, weight, weight.sum(1, keepdims=True), keep)


def _product(a: Array, b: Array, over: tuple[int, int]) -> Array:
    dims = (((over[0],), (over[1],)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dims, precision, preferred_element_type=jnp.float32)


def _forward_kernel(at, seed, query_segment, key_segment, qkv, *out, layout: _Layout):
    found = []
    for head in _heads_of(seed, query_segment, key_segment, qkv, layout):
        weight = head.weight if head.keep is None else jnp.where(head.keep, head.weight, 0)
        read = _product(weight.astype(head.value.dtype), head.value, (1, 0))
        found.append(read * (1 / (head.total * layout.share)))  # a division for a row, not for each
    out[-1][...] = jnp.concatenate(found, axis=1).astype(out[-1].dtype)


def _backward_kernel(
    at, seed, query_segment, key_segment, qkv, out, g, gradient, sums, *, layout: _Layout
):
    slopes: tuple[list, list, list] = ([], [], [])
    for i, head in enumerate(_heads_of(seed, query_segment, key_segment, qkv, layout)):
        place = slice(i * layout.size, (i + 1) * layout.size)
        own, dtype = g[:, place].astype(jnp.float32), head.value.dtype
        # What all entries of a row are multiplied with goes onto [T, d], not onto [T, T].
        delta = (own * out[:, place].astype(jnp.float32)).sum(1, keepdims=True)
        inverse = 1 / head.total
        d_p = _product((own / layout.share).astype(dtype), head.value, (1, 1))
        weight = head.weight
        if head.keep is not None:
            d_p, weight = (jnp.where(head.keep, x, 0) for x in (d_p, weight))
        d_s = (head.weight * (d_p - delta)).astype(dtype)
        scaled = (own * (inverse / layout.share)).astype(dtype)
        query = (head.query.astype(jnp.float32) * inverse).astype(dtype)
        slopes[0].append(_product(d_s, head.key, (1, 0)) * (inverse * layout.size**-0.5))
        slopes[1].append(_product(d_s, query, (0, 0)))
        slopes[2].append(_product(weight.astype(dtype), scaled, (0, 0)))
    slope = jnp.concatenate([x for part in slopes for x in part], axis=1)
    gradient[...] = slope.astype(gradient.dtype)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)

    sums[...] += slope.sum(0, keepdims=True)
