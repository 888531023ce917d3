"""Multi-head attention over rows that hold several texts, in four forms of one function.

Every form takes queries, keys and values in one array, `qkv` [B, T, 3 D], and gives [B, T, D]. The
3 D numbers are blocks of `block_width`, q k v of the first, then of the next: a block is one head,
or as many as fill a register, so that a kernel reads whole registers and the projections are one
product. `plain` is the reference. `low_memory` keeps the probabilities in the precision of the run.
`flash` is a Pallas kernel for TPU that keeps none at all. `cudnn` calls NVIDIA's, and drops none.

A place reads those whose key segment is its own query segment, and nothing else: texts that share a
row read only themselves. `tests/nn/test_attention.py` holds each form to "packed equals alone".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int, UInt32

from tmr_jax.nn.dropout import LEVELS, Drop, mixed, threshold

Form = Literal["plain", "low_memory", "flash", "cudnn"]
LANES = 128  # numbers that a vector register of a TPU holds side by side
HIDDEN = -1  # key segment of a place that nobody reads


class Segments(NamedTuple):
    """Which places read each other: those with query segment == key segment."""

    query: Int[Array, "B T"]
    key: Int[Array, "B T"]

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
        call = (heads, drop, interpret, segments)
        return _call(_forward_kernel, *call, (qkv,), qkv.shape[2] // 3), ()
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
        return _call(
            _backward_kernel, heads, drop, interpret, segments, (qkv, out, g), qkv.shape[2]
        )
    q, k, v = _split(qkv, heads)
    g = g.reshape(q.shape)
    if form == "cudnn":
        d_q, d_k, d_v = jax.vjp(lambda *x: _cudnn(*x, segments), q, k, v)[1](g)
    else:
        d_q, d_k, d_v = _slopes(q, k, v, kept, drop, g)
    return jnp.stack([d_q, d_k, d_v], axis=3).reshape(qkv.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def attention(
    qkv: Float[Array, "B T D3"],
    segments: Segments,
    seed: UInt32[Array, two],
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


def keep_heads(drop: Drop, shape: tuple[int, int, int, int]) -> Bool[Array, "B H T T"]:
    """Which probabilities stay. Two heads share 32 random bits, 16 each."""
    _b, h, t, _ = shape
    axes = [jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(4)]
    base = (axes[0] * jnp.uint32(-(-h // 2)) + (axes[1] >> 1)) * jnp.uint32(t * t)
    bits = mixed(base + axes[2] * jnp.uint32(t) + axes[3], drop.seed[0], drop.seed[1])
    return ((bits >> ((axes[1] & 1) * 16)) & 0xFFFF) < jnp.uint32(threshold(drop.rate))


def _probabilities(q: Array, k: Array, segments: Segments) -> Array:
    """Softmax in float32: q, k [B, T, H, d] -> [B, H, T, T]."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
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


def _call(
    kernel: Any,
    heads: int,
    drop: Drop | None,
    interpret: bool,
    segments: Segments,
    arrays: tuple,
    features: int,
) -> Array:
    """Runs `kernel` for each row and block of heads; arrays and result are [B, T, features]."""
    seed = jnp.zeros(2, jnp.uint32) if drop is None else drop.seed
    rows, t, width = arrays[0].shape
    blocks = width // (3 * LANES)

    def block(x: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, t, x // blocks), lambda i, j: (i, 0, j))

    layout = _Layout(heads // blocks, -(-heads // 2), 0.0 if drop is None else drop.rate)
    return pl.pallas_call(
        partial(kernel, layout=layout),
        grid=(rows, blocks),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((1, t, 1), lambda i, j: (i, 0, 0)),
            pl.BlockSpec((1, 1, t), lambda i, j: (i, 0, 0)),
            *(block(x.shape[2]) for x in arrays),
        ],
        out_specs=block(features),
        out_shape=jax.ShapeDtypeStruct((rows, t, features), arrays[0].dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(seed, segments.query[:, :, None], segments.key[:, None, :], *arrays)


class _Head(NamedTuple):
    """What both kernels need of one head."""

    lanes: Array  # bool [1, LANES]: numbers of this head
    query: Array  # [T, LANES], scaled, zero outside of the head
    weight: Array  # float32 [T, T]: exp of score - largest
    total: Array  # float32 [T, 1]: its sum over the keys
    keep: Array | None  # bool [T, T]


def _heads_of(
    seed: Any, query_segment: Any, key_segment: Any, qkv: Any, layout: _Layout
) -> Iterator[_Head]:
    """Every head of a block, one after another."""
    row, first = pl.program_id(0), pl.program_id(1) * layout.heads
    visible = query_segment[0] == key_segment[0]
    q, k = qkv[0, :, :LANES], qkv[0, :, LANES : 2 * LANES]
    place = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    bits = None
    for i in range(layout.heads):
        lanes = (place >= i * layout.size) & (place < (i + 1) * layout.size)
        query = jnp.where(lanes, q * jnp.asarray(layout.size**-0.5, q.dtype), 0)
        scores = _product(query, k, (1, 1))
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        weight = jnp.exp(scores - scores.max(1, keepdims=True))
        keep = None
        if layout.rate:
            head = first + i
            if bits is None or layout.heads == 1 or i % 2 == 0:
                bits = _bits(seed, row * layout.pairs + (head >> 1), qkv.shape[1])
            half = bits >> ((head & 1) * 16).astype(jnp.uint32)
            keep = (half & jnp.uint32(0xFFFF)).astype(jnp.int32) < threshold(layout.rate)
        yield _Head(lanes, query, weight, weight.sum(1, keepdims=True), keep)


def _bits(seed: Any, pair: Array, t: int) -> Array:
    """32 random bits for each query and key of a pair of heads: those of `keep_heads`."""
    place = jax.lax.broadcasted_iota(jnp.uint32, (t, t), 0) * jnp.uint32(t)
    place += jax.lax.broadcasted_iota(jnp.uint32, (t, t), 1)
    return mixed(place + pair.astype(jnp.uint32) * jnp.uint32(t * t), seed[0], seed[1])


def _product(a: Array, b: Array, over: tuple[int, int]) -> Array:
    dims = (((over[0],), (over[1],)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dims, precision, preferred_element_type=jnp.float32)


def _forward_kernel(seed, query_segment, key_segment, qkv, out, *, layout: _Layout):
    v = qkv[0, :, 2 * LANES :]
    found = jnp.zeros(v.shape, jnp.float32)
    for head in _heads_of(seed, query_segment, key_segment, qkv, layout):
        weight = head.weight if head.keep is None else jnp.where(head.keep, head.weight, 0)
        read = _product(weight.astype(v.dtype), v, (1, 0))
        found = jnp.where(head.lanes, read / (head.total * layout.share), found)
    out[0] = found.astype(out.dtype)


def _backward_kernel(seed, query_segment, key_segment, qkv, out, g, gradient, *, layout: _Layout):
    k, v = qkv[0, :, LANES : 2 * LANES], qkv[0, :, 2 * LANES :]
    d_q, d_k, d_v = (jnp.zeros(v.shape, jnp.float32) for _ in range(3))
    for head in _heads_of(seed, query_segment, key_segment, qkv, layout):
        # What all entries of a row are multiplied with goes onto [T, LANES], not onto [T, T].
        own = jnp.where(head.lanes, g[0], 0).astype(jnp.float32)
        delta = (own * out[0].astype(jnp.float32)).sum(1, keepdims=True)
        inverse = 1 / head.total
        d_p = _product((own / layout.share).astype(v.dtype), v, (1, 1))
        weight = head.weight
        if head.keep is not None:
            d_p, weight = (jnp.where(head.keep, x, 0) for x in (d_p, weight))
        d_s = (head.weight * (d_p - delta)).astype(v.dtype)
        scaled = (own * (inverse / layout.share)).astype(v.dtype)
        d_v += _product(weight.astype(v.dtype), scaled, (0, 0))
        query = (head.query.astype(jnp.float32) * inverse).astype(v.dtype)
        d_k += _product(d_s, query, (0, 0))
        read = _product(d_s, k, (1, 0)) * (inverse * layout.size**-0.5)
        d_q = jnp.where(head.lanes, read, d_q)
    gradient[0] = jnp.concatenate([d_q, d_k, d_v], axis=1).astype(gradient.dtype)
