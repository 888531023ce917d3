"""A BERT encoder in Flax: token ids in, hidden states out (MODELS.md R2, A1.8; STACK.md 3.3-3.4).

The forward pass is the ordinary post-LayerNorm BERT with exact GELU. The backward pass has two
forms that give the same gradients: `autodiff`, right for GPU and TPU, and `cpu_fast`, in which the
dense layers and the attention spell out their gradients in the operand order that XLA's CPU
matrix kernels are fast in; autodiff writes the transposed order and falls into a naive loop. GELU
and LayerNorm spell theirs out so that what lies in memory between two products is bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tmr_jax.nn.dropout import Dropout, keep_mask, kept_share

Backward = Literal["autodiff", "cpu_fast"]


@dataclass(frozen=True)
class BertConfig:
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int = 512
    type_vocab: int = 2
    eps: float = 1e-12
    dropout: float = 0.1
    pooler: bool = True  # some exported weights come without it


def text_operations(bert: BertConfig, lengths: np.ndarray) -> float:
    """Of one step forward and backward: the matrix products, of texts of `lengths` tokens.

    A text of T tokens costs 2 (4 h^2 + 2 h f) T in the linear maps of a layer and 4 h T^2 in its
    attention, h the width and f the inner one.
    """
    h, total = bert.hidden, lengths.astype(np.float64)
    # Backward costs twice what forward does.
    linear = 2.0 * (4 * h * h + 2 * h * bert.intermediate) * total.sum()
    attention = 4.0 * h * np.square(total).sum()
    return 3.0 * bert.layers * (linear + attention)


def _row(vector: Array, rank: int) -> Array:
    """A [D] vector with leading axes of size one, so that no rank is promoted in silence."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


def plain_dense(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel.astype(x.dtype) + _row(bias.astype(x.dtype), x.ndim)


@jax.custom_vjp
def fast_dense(x: Array, kernel: Array, bias: Array) -> Array:
    """`plain_dense` with a hand-ordered backward: x [..., in], kernel [in, out], bias [out]."""
    return plain_dense(x, kernel, bias)


def _dense_forward(x, kernel, bias):
    return plain_dense(x, kernel, bias), (x, kernel, bias)


def _dense_backward(residuals, g):
    x, kernel, bias = residuals
    batch = tuple(range(x.ndim - 1))
    d_kernel = jax.lax.dot_general(x, g, ((batch, batch), ((), ())))  # (x, g), never (g, x).T
    d_x = jnp.einsum("...o,io->...i", g, kernel.astype(g.dtype))
    d_bias = g.astype(jnp.float32).sum(batch)
    return d_x, d_kernel.astype(kernel.dtype), d_bias.astype(bias.dtype)


fast_dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def fast_gelu(x: Array) -> Array:
    """Exact GELU, worked out in float32 whatever `x` is, of which alone the backward pass keeps."""
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


def _gelu_forward(x):
    return fast_gelu(x), x


def _gelu_backward(x, g):
    y = x.astype(jnp.float32)
    # Not erf, which XLA would take over from the forward pass, in float32 and by way of memory.
    below = 0.5 * jax.lax.erfc(-y * 0.5**0.5)
    slope = below + y * jnp.exp(-0.5 * y * y) * (2 * np.pi) ** -0.5
    return ((g.astype(jnp.float32) * slope).astype(x.dtype),)


fast_gelu.defvjp(_gelu_forward, _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def fast_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """LayerNorm over the last axis: x [..., D], scale [D], bias [D]; statistics in float32."""
    return _norm_forward(x, scale, bias, eps)[0]


def _norm_forward(x, scale, bias, eps):
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = jnp.maximum(jnp.square(y).mean(-1, keepdims=True) - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + eps)
    out = (y - mean) * inverse * _row(scale, x.ndim) + _row(bias, x.ndim)
    return out.astype(x.dtype), (x, mean, inverse, scale)


def _norm_backward(eps, residuals, g):
    x, mean, inverse, scale = residuals
    rows = tuple(range(x.ndim - 1))
    g = g.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    scaled = g * _row(scale, x.ndim)
    along = (scaled * normal).mean(-1, keepdims=True)
    d_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - normal * along)
    return d_x.astype(x.dtype), (g * normal).sum(rows), g.sum(rows)


fast_norm.defvjp(_norm_forward, _norm_backward)


class FastNorm(nn.Module):
    """`fast_norm` with the parameters of `nn.LayerNorm`."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        # What the product before it gives is written down: taken over by the sums of the norm, the
        # product falls out of XLA's fast kernels (half of an MLP's time).
        x = jax.lax.optimization_barrier(x)
        return fast_norm(x, scale, bias, self.eps)


def _probabilities(q, k, mask):
    """Softmax in float32 over the keys of `mask`: q, k [B, T, H, d] -> [B, H, T, T].

    mask [B, T] names the keys that all of a row may read, [B, T, T] those of each query.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    mask = mask if mask.ndim == 3 else mask[:, None, :]
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


class Kept(NamedTuple):
    """Dropout of attention: which probabilities stay, and what all of them are divided by."""

    mask: Array  # bool [B, H, T, T]
    share: Array  # []


def _dropped(p: Array, keep: Kept | None) -> Array:
    return p if keep is None else jnp.where(keep.mask, p / keep.share.astype(p.dtype), 0)


def plain_attention(q: Array, k: Array, v: Array, mask: Array, keep: Kept | None) -> Array:
    """Multi-head attention; `keep` says which probabilities are dropped, None: none.

    q, k, v [B, T, H, d]; mask [B, T] or [B, T, T]; returns [B, T, H, d].
    """
    p = _dropped(_probabilities(q, k, mask), keep)
    return jnp.einsum("bhqk,bkhd->bqhd", p.astype(v.dtype), v)


@jax.custom_vjp
def fast_attention(q: Array, k: Array, v: Array, mask: Array, keep: Kept | None) -> Array:
    """`plain_attention` with a hand-ordered backward."""
    return plain_attention(q, k, v, mask, keep)


def _attention_forward(q, k, v, mask, keep):
    p = _probabilities(q, k, mask).astype(q.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", _dropped(p, keep), v)
    return out, (q, k, v, p, keep)


def _attention_backward(residuals, g):
    q, k, v, p, keep = residuals
    d_v = jnp.einsum("bhqk,bqhd->bkhd", _dropped(p, keep), g)
    d_p = _dropped(jnp.einsum("bqhd,bkhd->bhqk", g, v).astype(jnp.float32), keep)
    p = p.astype(jnp.float32)
    d_s = p * (d_p - jnp.sum(d_p * p, axis=-1, keepdims=True)) * q.shape[-1] ** -0.5
    d_s = d_s.astype(q.dtype)
    d_q = jnp.einsum("bhqk,bkhd->bqhd", d_s, k)
    d_k = jnp.einsum("bhqk,bqhd->bkhd", d_s, q)
    return d_q, d_k, d_v, None, None  # neither the mask nor the dropout noise is learned


fast_attention.defvjp(_attention_forward, _attention_backward)


class Dense(nn.Module):
    """Linear layer with the chosen backward; parameters in float32, work in the input's dtype."""

    features: int
    backward: Backward = "autodiff"
    init: nn.initializers.Initializer = nn.initializers.normal(0.02)  # BERT's own

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        dense = fast_dense if self.backward == "cpu_fast" else plain_dense
        return dense(x, kernel, bias)


class BertLayer(nn.Module):
    config: BertConfig
    backward: Backward = "autodiff"

    def _drop(self, x: Array, deterministic: bool) -> Array:
        return Dropout(self.config.dropout)(x, deterministic)

    def _keep(self, shape: tuple[int, ...], deterministic: bool) -> Kept | None:
        rate = self.config.dropout
        if deterministic or rate == 0.0:
            return None
        mask = keep_mask(self.make_rng("dropout"), rate, shape)
        return Kept(mask, jnp.float32(kept_share(rate)))

    def _norm(self, name: str, x: Array) -> Array:
        if self.backward == "cpu_fast":
            return FastNorm(self.config.eps, name=name)(x)
        return nn.LayerNorm(self.config.eps, x.dtype, name=name)(x)

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool) -> Array:
        c, (b, t, _) = self.config, x.shape
        heads = (b, t, c.heads, c.hidden // c.heads)
        q, k, v = (
            Dense(c.hidden, self.backward, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        attention = fast_attention if self.backward == "cpu_fast" else plain_attention
        read = attention(q, k, v, mask, self._keep((b, c.heads, t, t), deterministic))
        read = Dense(c.hidden, self.backward, name="attention_output")(read.reshape(b, t, -1))
        x = self._norm("attention_norm", x + self._drop(read, deterministic))
        inner = Dense(c.intermediate, self.backward, name="intermediate")(x)
        gelu = fast_gelu if self.backward == "cpu_fast" else partial(jax.nn.gelu, approximate=False)
        outer = Dense(c.hidden, self.backward, name="output")(gelu(inner))
        return self._norm("output_norm", x + self._drop(outer, deterministic))


class Bert(nn.Module):
    """tokens [B, T], mask -> hidden states [B, T, hidden] in `dtype`.

    The mask says which places of a row are real, [B, T], or which each place may read, [B, T, T],
    where a row holds several texts; `positions` then say where in its text a place is.
    """

    config: BertConfig
    dtype: Any = jnp.float32
    backward: Backward = "autodiff"

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal(0.02)
        embed = {"features": c.hidden, "embedding_init": init}
        self.word_embeddings = nn.Embed(c.vocab_size, **embed)
        self.position_embeddings = nn.Embed(c.max_positions, **embed)
        self.token_type_embeddings = nn.Embed(c.type_vocab, **embed)
        self.embeddings_norm = nn.LayerNorm(epsilon=c.eps, dtype=self.dtype)
        self.embeddings_dropout = Dropout(c.dropout)
        self.encoder = [BertLayer(c, self.backward, name=f"layer_{i}") for i in range(c.layers)]
        if c.pooler:
            self.pooler = Dense(c.hidden, self.backward)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"] | Bool[Array, "B T T"],
        positions: Int[Array, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T hidden"]:
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None, :]
        x = self.word_embeddings(tokens) + self.position_embeddings(positions)
        x = x + self.token_type_embeddings(jnp.zeros_like(positions))  # one segment only
        x = self.embeddings_norm(x).astype(self.dtype)
        x = self.embeddings_dropout(x, deterministic)
        for layer in self.encoder:
            x = layer(x, mask, deterministic)
        if self.is_initializing() and self.config.pooler:
            self.pool(x)  # so that init makes the pooler's parameters too
        return x

    def pool(self, hidden: Float[Array, "B T hidden"]) -> Float[Array, "B hidden"]:
        """tanh of a linear map of the first token's state, BERT's `pooler_output`."""
        return jnp.tanh(self.pooler(hidden[:, 0]))
