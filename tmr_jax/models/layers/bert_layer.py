"""One layer of BERT and its gradient, written out (Devlin et al. 2019; post-LayerNorm).

    s1 = x + drop(attention(x) W_o + b_o)        x1 = LayerNorm(s1)
    s2 = x1 + drop(gelu(x1 W_1 + b_1) W_2 + b_2)   y = LayerNorm(s2)

The gradient keeps, in the precision of the run, what products read and what they cannot make again
cheaply: x, queries, keys and values, what attention gives, the normalised sums and the MLP's inner
rows. Dropout masks, GELU and the LayerNorms' outputs are computed where they are used. Rows of all
texts are one axis, R = B x T, so that a TPU has one layout for them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tmr_jax.models.layers.attention import (
    Form,
    Segments,
    attend,
    attend_backward,
    attention,
    block_width,
)
from tmr_jax.models.layers.dropout import Drop, dropped

Gelu = Literal["exact", "tanh"]
SITES = 3  # dropouts of a layer: probabilities, what attention gives, what the MLP gives
SHAPES = ("query", "key", "value", "attention_output", "intermediate", "output")
NORMS = ("attention_norm", "output_norm")


class Kind(NamedTuple):
    """What a layer is compiled for."""

    heads: int
    eps: float
    dropout: float  # 0 where nothing is dropped
    form: Form
    gelu: Gelu = "exact"


class Kept(NamedTuple):
    """What the forward pass leaves to the backward pass; rows in the precision of the run."""

    x: Float[Array, "R D"]
    qkv: Float[Array, "R D3"]
    read: Float[Array, "R D"]
    probabilities: Any  # of forms of attention that keep them
    first: Normal
    inner: Float[Array, "R F"]
    second: Normal


class Normal(NamedTuple):
    """Rows of mean 0 and variance 1, and what they were multiplied with."""

    rows: Float[Array, "R D"]
    inverse: Float[Array, "R 1"]  # float32


def layer(kind: Kind, weights: Any, x: Array, seeds: Array, segments: Segments) -> Array:
    """Rows [R, D] to rows [R, D]; weights as SHAPES and NORMS name them; seeds uint32 [3, 2]."""
    return _forward(kind, weights, x, seeds, segments)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def low_memory_layer(kind: Kind, weights: Any, x: Array, seeds: Array, segments: Segments) -> Array:
    """`layer` with the gradient of this file."""
    return _forward(kind, weights, x, seeds, segments)[0]


def _layer_forward(kind, weights, x, seeds, segments):
    y, kept = _forward(kind, weights, x, seeds, segments)
    return y, (weights, kept, seeds, segments)


def _forward(kind: Kind, w: Any, x: Array, seeds: Array, segments: Segments) -> tuple[Array, Kept]:
    drops = drops_of(kind, seeds)
    rows = segments.query.shape
    qkv = affine(x, packed(kind, w, x))
    read, probabilities = _attended(kind, qkv.reshape(*rows, -1), segments, seeds[0])
    read = read.reshape(x.shape)
    first = _normal(x + dropped(affine(read, w["attention_output"]), drops[1]), kind.eps)
    x1 = _scaled(first, w["attention_norm"])
    inner = affine(x1, w["intermediate"])
    outer = affine(gelu(inner, kind.gelu), w["output"])
    second = _normal(x1 + dropped(outer, drops[2]), kind.eps)
    kept = Kept(x, qkv, read, probabilities, first, inner, second)
    return _scaled(second, w["output_norm"]), kept


def _layer_backward(kind, residuals, g):
    w, kept, seeds, segments = residuals
    drops = drops_of(kind, seeds)
    found: dict[str, Any] = {}
    d_s2, found["output_norm"] = _normal_backward(kept.second, w["output_norm"], g)
    d_outer = dropped(d_s2, drops[2])
    active, pull = gelu_pulled(kept.inner, kind.gelu)
    d_active, found["output"] = affine_backward(active, w["output"], d_outer)
    x1 = _scaled(kept.first, w["attention_norm"])
    d_x1, found["intermediate"] = affine_backward(x1, w["intermediate"], pull(d_active))
    d_s1, found["attention_norm"] = _normal_backward(kept.first, w["attention_norm"], d_s2 + d_x1)
    d_out = dropped(d_s1, drops[1])
    d_read, found["attention_output"] = affine_backward(kept.read, w["attention_output"], d_out)
    rows = segments.query.shape
    qkv, read, d_read = (a.reshape(*rows, -1) for a in (kept.qkv, kept.read, d_read))
    d_qkv = attend_backward(
        qkv, read, kept.probabilities, segments, kind.heads, kind.form, drops[0], d_read
    ).reshape(kept.qkv.shape)
    d_x, own = affine_backward(kept.x, packed(kind, w, kept.x), d_qkv)
    return found | unpacked(kind, own), d_s1 + d_x, None, None


low_memory_layer.defvjp(_layer_forward, _layer_backward)


def _attended(kind: Kind, qkv: Array, segments: Segments, seed: Array) -> tuple[Array, Any]:
    if kind.form == "flash":  # JAX finds no gradient of a kernel: `layer` too has the one written
        return attention(qkv, segments, seed, kind.heads, kind.form, kind.dropout), ()
    drop = Drop(seed, kind.dropout) if kind.dropout else None
    return attend(qkv, segments, kind.heads, kind.form, drop)


def drops_of(kind: Kind, seeds: Array) -> list[Drop | None]:
    return [Drop(seeds[i], kind.dropout) if kind.dropout else None for i in range(SITES)]


# Linear maps


def affine(x: Array, w: Any) -> Array:
    return x @ w["kernel"].astype(x.dtype) + w["bias"].astype(x.dtype)[None]


def affine_backward(
    x: Array, w: Any, g: Array, sums: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """The slope by x, and those of kernel and bias; `sums` over g's rows where they are known."""
    # (x, g), never (g, x) transposed: XLA's CPU kernels are fast in this order alone.
    d_kernel = jax.lax.dot_general(x, g, (((0,), (0,)), ((), ())))
    d_x = jax.lax.dot_general(g, w["kernel"].astype(g.dtype), (((1,), (1,)), ((), ())))
    d_bias = g.astype(jnp.float32).sum(0) if sums is None else sums
    return d_x, {"kernel": d_kernel.astype(jnp.float32), "bias": d_bias}


def packed(kind: Kind, w: Any, x: Array) -> dict[str, Array]:
    """Kernel [D, 3 D] and bias of queries, keys and values: block by block of heads, q k v each."""
    d = x.shape[-1]
    width = block_width(d, kind.heads, kind.form)
    kernels = [w[n]["kernel"].astype(x.dtype).reshape(d, -1, width) for n in SHAPES[:3]]
    biases = [w[n]["bias"].reshape(-1, width) for n in SHAPES[:3]]
    bias = jnp.stack(biases, 1).reshape(-1)
    return {"kernel": jnp.stack(kernels, 2).reshape(d, -1), "bias": bias}


def unpacked(kind: Kind, packed: dict[str, Array]) -> dict[str, Any]:
    d = packed["kernel"].shape[0]
    width = block_width(d, kind.heads, kind.form)
    kernel = packed["kernel"].reshape(d, -1, 3, width)
    bias = packed["bias"].reshape(-1, 3, width)
    return {
        name: {"kernel": kernel[:, :, i].reshape(d, d), "bias": bias[:, i].reshape(d)}
        for i, name in enumerate(SHAPES[:3])
    }


# LayerNorm over the last axis; statistics in float32


def _normal(s: Array, eps: float) -> Normal:
    # On CPU what the product before it gives is written down: taken over by the sums of the norm,
    # the product falls out of XLA's fast kernels (half of an MLP's time).
    s = jax.lax.platform_dependent(s, cpu=jax.lax.optimization_barrier, default=lambda s: s)
    y = s.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = jnp.maximum(jnp.square(y).mean(-1, keepdims=True) - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + eps)
    return Normal(((y - mean) * inverse).astype(s.dtype), inverse)


def _scaled(normal: Normal, w: Any) -> Array:
    rows = normal.rows.astype(jnp.float32) * w["scale"][None] + w["bias"][None]
    return rows.astype(normal.rows.dtype)


def _normal_backward(normal: Normal, w: Any, g: Array) -> tuple[Array, dict[str, Array]]:
    rows, wide = normal.rows.astype(jnp.float32), g.astype(jnp.float32)
    scaled = wide * w["scale"][None]
    along = (scaled * rows).mean(-1, keepdims=True)
    d_s = normal.inverse * (scaled - scaled.mean(-1, keepdims=True) - rows * along)
    return d_s.astype(g.dtype), {"scale": (wide * rows).sum(0), "bias": wide.sum(0)}


# GELU, in float32 whatever the rows are


def gelu(x: Array, kind: Gelu = "exact") -> Array:
    """x Phi(x), by erf; or its approximation by tanh, off by up to 5e-4."""
    y = x.astype(jnp.float32)
    if kind == "tanh":
        return jax.nn.gelu(y, approximate=True).astype(x.dtype)
    return (y * 0.5 * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


def gelu_pulled(x: Array, kind: Gelu) -> tuple[Array, Any]:
    """GELU of x again, and the map from its slope to that of x."""
    y = x.astype(jnp.float32)
    if kind == "tanh":
        active, pull = jax.vjp(lambda y: jax.nn.gelu(y, approximate=True), y)
        return active.astype(x.dtype), lambda g: pull(g.astype(jnp.float32))[0].astype(x.dtype)
    # On CPU, where layers are no loop, XLA would take erf over from the forward pass, in float32
    # and by way of memory; erfc is another function to it.
    below = jax.lax.platform_dependent(
        y,
        cpu=lambda y: 0.5 * jax.lax.erfc(-y * 0.5**0.5),
        default=lambda y: 0.5 * (1 + jax.lax.erf(y * 0.5**0.5)),
    )
    slope = below + y * jnp.exp(-0.5 * y * y) * (2 * np.pi) ** -0.5
    return (y * below).astype(x.dtype), lambda g: (g.astype(jnp.float32) * slope).astype(x.dtype)
