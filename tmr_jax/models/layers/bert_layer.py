"""One layer of BERT and its gradient, written out (Devlin et al. 2019; post-LayerNorm).

    s1 = x + drop(attention(x) W_o + b_o)        x1 = LayerNorm(s1)
    s2 = x1 + drop(gelu(x1 W_1 + b_1) W_2 + b_2)   y = LayerNorm(s2)

The gradient keeps, in the precision of the run, what products read and what they cannot make again
cheaply: x, queries, keys and values, what attention gives, the normalised sums and the MLP's inner
rows. Dropout masks, GELU and the LayerNorms' outputs are computed where they are used. Rows of all
texts are one axis, R = B x T, so that a TPU has one layout for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from tmr_jax.models.layers.attention import (
    LANES,
    LEVELS,
    Drop,
    Form,
    Segments,
    attend,
    attend_backward,
    attention,
    block_width,
    dropped,
    flash_backward,
    flash_forward,
    kept_high,
    mixed,
    threshold,
)

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


# All layers on a TPU: what the gradient needs lies in one array for each kind of row. A loop over
# layers whose body is differentiated by JAX copies every row that it keeps, once into an array
# [layers, ...] and once out of it: a fifth of a step. Here a layer's rows are written where they
# stay, by the product that makes them or by a kernel, and read from there. Kernels (Pallas) do what
# XLA is slow at, sums along rows: attention (attention.py), and the sum of two rows with its
# LayerNorm. A row is kept as LayerNorm leaves it, of mean 0 and variance 1; scale and bias are
# applied where it is read.


class Rows(NamedTuple):
    """What the layers leave to the gradient; R places, L layers."""

    normal: Float[Array, "L1 R D"]  # what each layer reads, and the last one's result
    inverse: Float[Array, "L1 R LANES"]  # float32: 1 / deviation, the same number LANES times
    qkv: Float[Array, "L R D3"]
    read: Float[Array, "L R D"]
    between: Float[Array, "L R D"]  # normal, after attention
    between_inverse: Float[Array, "L R LANES"]
    inner: Float[Array, "L R F"]


class Affine(NamedTuple):
    """Scale and bias of LayerNorms, [n, 1, D]."""

    scale: Array
    bias: Array

    def of(self, rows: Array, at: Any) -> Array:
        """Scaled row `at` of [n, R, D], in the rows' precision."""
        own = jax.lax.dynamic_index_in_dim(rows, at, keepdims=False)
        scale, bias = (jax.lax.dynamic_index_in_dim(x, at, keepdims=False) for x in self)
        return (own.astype(jnp.float32) * scale + bias).astype(rows.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run_layers(
    kind: Kind, interpret: bool, weights: Any, x: Array, seeds: Array, segments: Segments
) -> Float[Array, "R D"]:
    """All layers on rows [R, D]; weights as of bert.py with a leading axis [L], seeds
    uint32 [L, 3, 2]. `interpret` runs the kernels anywhere, slowly."""

    def layer(x: Array, inputs: tuple) -> tuple[Array, None]:
        """Without a gradient nothing outlives its layer."""
        w, seeds = inputs
        drops = drops_of(kind, seeds)
        qkv = _qkv(kind, w, x).reshape(*segments.query.shape, -1)
        read, _ = attend(qkv, segments, kind.heads, "flash", drops[0], interpret)
        branch = affine(read.reshape(x.shape), w["attention_output"])
        x = _normed_alone(kind, interpret, branch, drops[1], x, w["attention_norm"])
        branch = affine(gelu(affine(x, w["intermediate"]), kind.gelu), w["output"])
        return _normed_alone(kind, interpret, branch, drops[2], x, w["output_norm"]), None

    return jax.lax.scan(layer, x, (weights, seeds))[0]


def _qkv(kind: Kind, w: Any, x: Array) -> Float[Array, "R D3"]:
    """Its layout is said, since for v6e XLA turns this product over, and then back: 20 ms of a step
    of 512."""
    return with_layout_constraint(affine(x, packed(kind, w, x)), Layout((0, 1)))


def _stack_forward(kind, interpret, weights, x, seeds, segments):
    y, rows = _forward_layers(kind, interpret, weights, x, seeds, segments)
    return y, (weights, rows, seeds, segments)


def _norms(weights: Any) -> tuple[Affine, Affine]:
    """Of what each layer reads (the first reads rows that are normed already), and between."""
    outer, first = weights["output_norm"], weights["attention_norm"]
    one, none = (jnp.full_like(outer["scale"][:1], x) for x in (1, 0))
    reads = (jnp.concatenate([one, outer["scale"]]), jnp.concatenate([none, outer["bias"]]))
    betweens = (first["scale"], first["bias"])
    return Affine(*(x[:, None] for x in reads)), Affine(*(x[:, None] for x in betweens))


def _forward_layers(
    kind: Kind, interpret: bool, weights: Any, x: Array, seeds: Array, segments: Segments
) -> tuple[Array, Rows]:
    layers, (r, d) = len(seeds), x.shape
    places = segments.query.shape
    reads, betweens = _norms(weights)

    def rows_of(count: int, features: int, dtype: Any = x.dtype) -> Any:
        return jax.ShapeDtypeStruct((count, r, features), dtype)

    inner = weights["intermediate"]["kernel"].shape[-1]
    rows = _made(
        Rows(
            rows_of(layers + 1, d),
            rows_of(layers + 1, LANES, jnp.float32),
            rows_of(layers, 3 * d),
            rows_of(layers, d),
            rows_of(layers, d),
            rows_of(layers, LANES, jnp.float32),
            rows_of(layers, inner),
        ),
        x,
        interpret,
    )
    rows = rows._replace(normal=_put(rows.normal, x, 0))

    def layer(carry: tuple[Rows, Array], inputs: tuple) -> tuple[tuple[Rows, Array], None]:
        (rows, x), (i, w, seeds) = carry, inputs
        drops = drops_of(kind, seeds)
        qkv = _put(rows.qkv, _qkv(kind, w, x), i)
        to, read = (a.reshape(layers, *places, -1) for a in (qkv, rows.read))
        read = flash_forward(to, i, segments, kind.heads, drops[0], read, interpret)
        read = read.reshape(rows.read.shape)
        branch = affine(_at(read, i), w["attention_output"])
        *between, x = _normed(
            kind, interpret, branch, drops[1], x,
            rows.between, rows.between_inverse, betweens, i,
        )  # fmt: skip
        inner = _put(rows.inner, affine(x, w["intermediate"]), i)
        branch = affine(gelu(_at(inner, i), kind.gelu), w["output"])
        *normal, x = _normed(
            kind, interpret, branch, drops[2], x,
            rows.normal, rows.inverse, reads, i + 1,
        )  # fmt: skip
        rows = Rows(normal[0], normal[1], qkv, read, between[0], between[1], inner)
        return (rows, x), None

    (rows, x), _ = jax.lax.scan(layer, (rows, x), (jnp.arange(layers), weights, seeds))
    return x, rows


def _stack_backward(kind, interpret, residuals, g):
    weights, rows, seeds, segments = residuals
    layers = len(seeds)
    places = segments.query.shape
    reads, betweens = _norms(weights)

    def layer(carry: tuple[Array, Any], inputs: tuple) -> tuple[tuple[Array, Any], None]:
        (g, slopes), (i, w, seeds) = carry, inputs
        drops, found = drops_of(kind, seeds), {}
        d_s2, d_outer, sums, found["output_norm"] = _normed_backward(
            interpret, g, drops[2], rows.normal, rows.inverse, reads, i + 1
        )
        active, pull = gelu_pulled(_at(rows.inner, i), kind.gelu)
        d_active, found["output"] = affine_backward(active, w["output"], d_outer, sums)
        x1 = betweens.of(rows.between, i)
        d_x1, found["intermediate"] = affine_backward(x1, w["intermediate"], pull(d_active))
        d_s1, d_out, sums, found["attention_norm"] = _normed_backward(
            interpret, d_s2 + d_x1, drops[1], rows.between, rows.between_inverse, betweens, i
        )
        d_read, found["attention_output"] = affine_backward(
            _at(rows.read, i), w["attention_output"], d_out, sums
        )
        qkv, read = (a.reshape(layers, *places, -1) for a in (rows.qkv, rows.read))
        d_read = d_read.reshape(*places, -1)
        call = (segments, kind.heads, drops[0], d_read, interpret)
        d_qkv, sums = flash_backward(qkv, i, read, *call)
        x = reads.of(rows.normal, i)
        d_x, own = affine_backward(x, packed(kind, w, x), d_qkv.reshape(len(x), -1), sums)
        found |= unpacked(kind, own)
        slopes = jax.tree.map(
            lambda rows, own: jax.lax.dynamic_update_index_in_dim(rows, own, i, 0), slopes, found
        )
        return (d_s1 + d_x, slopes), None

    # Arrays that the loop stacks by itself are filled with zeros first.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    empty = _made(shapes, g, interpret)
    inputs = (jnp.arange(layers), weights, seeds)
    (d_x, slopes), _ = jax.lax.scan(layer, (g, empty), inputs, reverse=True)
    return slopes, d_x, None, None


run_layers.defvjp(_stack_forward, _stack_backward)


def _at(rows: Array, i: Any) -> Array:
    return jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)


def _made(shapes: Any, after: Array, interpret: bool) -> Any:
    """Arrays that nothing is written to yet. They wait for `after`: of chunks encoded in a loop
    each has its own; those of `jax.lax.empty` would be a constant of the loop, copied each time.
    """
    leaves, structure = jax.tree.flatten(shapes)
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    found = pl.pallas_call(
        lambda *_: None,
        in_specs=[anywhere],
        out_specs=[anywhere] * len(leaves),
        out_shape=leaves,
        interpret=interpret,
        name="made",
    )(after)
    return jax.tree.unflatten(structure, found)


def _put(rows: Array, own: Array, i: Any) -> Array:
    """`own` as row i. Later reads use this row: without the barrier XLA would write it a second
    time for them."""
    found = jax.lax.dynamic_update_index_in_dim(rows, own, i, 0)
    return jax.lax.optimization_barrier(found)


def _staying(interpret: bool, *stacks: Array) -> Sequence[Array]:
    """Rows of all layers, for a kernel that reads one layer's: where they are. XLA would copy all
    of them to vector memory, at each layer."""
    if interpret:
        return stacks
    return [pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in stacks]


# The sum of two rows and its LayerNorm


def _block(rows: int) -> int:
    """Rows of a block: as many as divide all, up to 256."""
    return next(n for n in (256, 128, 64, 32, 16, 8, rows) if rows % n == 0)


def _kept(seed: Any, rate: float, shape: tuple[int, ...]) -> Array:
    """`keep_mask` of this block's rows."""
    rows, half = shape[0], shape[1] // 2
    place = jax.lax.broadcasted_iota(jnp.int32, (rows, half), 0) + pl.program_id(0) * rows
    place = place * half + jax.lax.broadcasted_iota(jnp.int32, (rows, half), 1)
    bits = mixed(place, seed[0], seed[1])
    # Bits are joined, not masks: of masks of half a row Mosaic joins whole registers alone, and a
    # row of MiniLM's 384 has halves of one and a half.
    return kept_high(jnp.concatenate([bits, bits << 16], axis=1), rate)


def _dropped(x: Array, seed: Any, rate: float) -> Array:
    if not rate:
        return x
    return jnp.where(_kept(seed, rate, x.shape), x * (LEVELS / threshold(rate)), 0)


def _call(
    kernel: Any, interpret: bool, at: Any, seed: Array, arrays: tuple, ins, outs, alias, grid
):
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(grid,),
            in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *ins],
            out_specs=[spec for spec, _ in outs],
        ),
        out_shape=[shape for _, shape in outs],
        input_output_aliases=alias,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name=kernel.func.__name__.strip("_"),
    )(jnp.asarray(at, jnp.int32), seed, *arrays)


def _seed(drop: Drop | None) -> tuple[Array, float]:
    return (jnp.zeros(2, jnp.int32), 0.0) if drop is None else (jnp.stack(drop.words), drop.rate)


def _normed(
    kind: Kind,
    interpret: bool,
    branch: Float[Array, "R D"],
    drop: Drop | None,
    base: Float[Array, "R D"],
    out: Float[Array, "n R D"],
    inverse: Float[Array, "n R LANES"],
    scales: Affine,
    at: Any,
) -> tuple[Array, Array, Array]:
    """LayerNorm of base + drop(branch): without scale as number `at` of `out`, and with it."""
    r, d = branch.shape
    size = _block(r)
    seed, rate = _seed(drop)

    def of(features: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, size, features), lambda i, at: (at[0], i, 0))

    rows = pl.BlockSpec((size, d), lambda i, at: (i, 0))
    scale = pl.BlockSpec((None, 1, d), lambda i, at: (at[0], 0, 0))
    untouched = pl.BlockSpec(memory_space=pl.ANY)
    out, inverse = _staying(interpret, out, inverse)
    return _call(
        partial(_norm_kernel, eps=kind.eps, rate=rate), interpret, jnp.asarray(at).reshape(1), seed,
        (branch, base, *scales, out, inverse),
        [rows, rows, scale, scale, untouched, untouched],
        [
            (of(d), jax.ShapeDtypeStruct(out.shape, out.dtype)),
            (of(LANES), jax.ShapeDtypeStruct(inverse.shape, inverse.dtype)),
            (rows, jax.ShapeDtypeStruct((r, d), out.dtype)),
        ],
        {6: 0, 7: 1}, r // size,
    )  # fmt: skip


def _normed_alone(
    kind: Kind, interpret: bool, branch: Array, drop: Drop | None, base: Array, w: dict[str, Array]
) -> Float[Array, "R D"]:
    """`_normed` of which only the scaled rows are written."""
    r, d = branch.shape
    size = _block(r)
    seed, rate = _seed(drop)
    rows = pl.BlockSpec((size, d), lambda i, at: (i, 0))
    scale = pl.BlockSpec((1, d), lambda i, at: (0, 0))
    return _call(
        partial(_norm_kernel, eps=kind.eps, rate=rate), interpret, jnp.zeros(1), seed,
        (branch, base, w["scale"][None], w["bias"][None]), [rows, rows, scale, scale],
        [(rows, jax.ShapeDtypeStruct((r, d), branch.dtype))], {}, r // size,
    )[0]  # fmt: skip


def _norm_kernel(at, seed, branch, base, scale, bias, *others, eps, rate):
    """`others`: where rows and 1 / deviation are kept, if they are, and the scaled rows."""
    *_, scaled = others
    s = base[...].astype(jnp.float32) + _dropped(branch[...].astype(jnp.float32), seed, rate)
    away = s - s.mean(1, keepdims=True)
    own = jax.lax.rsqrt((away * away).mean(1, keepdims=True) + eps)
    normal = (away * own).astype(scaled.dtype)
    if len(others) > 1:
        _, _, out, inverse, _ = others
        out[...] = normal
        inverse[...] = jnp.broadcast_to(own, inverse.shape)
    # Of the row as it is kept, so that the gradient is that of what was read.
    scaled[...] = (normal.astype(jnp.float32) * scale[...] + bias[...]).astype(scaled.dtype)


def _normed_backward(
    interpret: bool,
    g: Float[Array, "R D"],
    drop: Drop | None,
    normal: Float[Array, "n R D"],
    inverse: Float[Array, "n R LANES"],
    scales: Affine,
    at: Any,
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """From the slope by the scaled rows: those by base, by branch, the sums of the latter over all
    rows, and those by scale and bias."""
    r, d = g.shape
    size = _block(r)
    seed, rate = _seed(drop)
    normal, inverse = _staying(interpret, normal, inverse)
    rows = pl.BlockSpec((size, d), lambda i, at: (i, 0))
    whole = jax.ShapeDtypeStruct((r, d), g.dtype)
    sums = jax.ShapeDtypeStruct((3, d), jnp.float32)
    by_base, by_branch, sums = _call(
        partial(_norm_backward_kernel, rate=rate), interpret, jnp.asarray(at).reshape(1), seed,
        (g, normal, inverse, scales.scale),
        [
            rows,
            pl.BlockSpec((None, size, d), lambda i, at: (at[0], i, 0)),
            pl.BlockSpec((None, size, LANES), lambda i, at: (at[0], i, 0)),
            pl.BlockSpec((None, 1, d), lambda i, at: (at[0], 0, 0)),
        ],
        [(rows, whole), (rows, whole), (pl.BlockSpec((3, d), lambda i, at: (0, 0)), sums)],
        {}, r // size,
    )  # fmt: skip
    return by_base, by_branch, sums[2], {"scale": sums[0], "bias": sums[1]}


def _norm_backward_kernel(at, seed, g, normal, inverse, scale, by_base, by_branch, sums, *, rate):
    rows, wide = normal[...].astype(jnp.float32), g[...].astype(jnp.float32)
    scaled = wide * scale[...]
    along = (scaled * rows).mean(1, keepdims=True)
    d_s = inverse[:, :1] * (scaled - scaled.mean(1, keepdims=True) - rows * along)
    d_branch = _dropped(d_s, seed, rate)
    by_base[...] = d_s.astype(by_base.dtype)
    by_branch[...] = d_branch.astype(by_branch.dtype)

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)

    for i, x in enumerate((wide * rows, wide, d_branch)):
        sums[i : i + 1] += x.sum(0, keepdims=True)
