"""A BERT encoder in Flax: token ids in, hidden states out (MODELS.md R2, A1.8; STACK.md 3.3-3.4).

The forward pass is the ordinary post-LayerNorm BERT with exact GELU. The backward pass has two
forms that give the same gradients: `autodiff`, right for GPU and TPU, and `cpu_fast`, in which the
dense layers and the attention spell out their gradients in the operand order that XLA's CPU
matrix kernels are fast in; autodiff writes the transposed order and falls into a naive loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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


def _probabilities(q, k, mask):
    """Softmax in float32 over the keys of `mask`: q, k [B, T, H, d] -> [B, H, T, T].

    mask [B, T] names the keys that all of a row may read, [B, T, T] those of each query.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    mask = mask if mask.ndim == 3 else mask[:, None, :]
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def plain_attention(q: Array, k: Array, v: Array, mask: Array, keep: Array | None) -> Array:
    """Multi-head attention; `keep` [B, H, T, T] multiplies the probabilities (dropout) or is None.

    q, k, v [B, T, H, d]; mask [B, T] or [B, T, T]; returns [B, T, H, d].
    """
    p = _probabilities(q, k, mask)
    p = p if keep is None else p * keep
    return jnp.einsum("bhqk,bkhd->bqhd", p.astype(v.dtype), v)


@jax.custom_vjp
def fast_attention(q: Array, k: Array, v: Array, mask: Array, keep: Array | None) -> Array:
    """`plain_attention` with a hand-ordered backward."""
    return plain_attention(q, k, v, mask, keep)


def _attention_forward(q, k, v, mask, keep):
    p = _probabilities(q, k, mask).astype(q.dtype)
    kept = p if keep is None else (p * keep).astype(q.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", kept, v)
    return out, (q, k, v, p, keep)


def _attention_backward(residuals, g):
    q, k, v, p, keep = residuals
    kept = p if keep is None else (p * keep).astype(p.dtype)
    d_v = jnp.einsum("bhqk,bqhd->bkhd", kept, g)
    d_p = jnp.einsum("bqhd,bkhd->bhqk", g, v).astype(jnp.float32)
    d_p = d_p if keep is None else d_p * keep
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
        return nn.Dropout(self.config.dropout)(x, deterministic=deterministic)

    def _keep(self, shape: tuple[int, ...], deterministic: bool) -> Array | None:
        rate = self.config.dropout
        if deterministic or rate == 0.0:
            return None
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, shape)
        return kept.astype(jnp.float32) / (1.0 - rate)

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool) -> Array:
        c, (b, t, _) = self.config, x.shape
        norm = {"epsilon": c.eps, "dtype": x.dtype}
        heads = (b, t, c.heads, c.hidden // c.heads)
        q, k, v = (
            Dense(c.hidden, self.backward, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        attention = fast_attention if self.backward == "cpu_fast" else plain_attention
        read = attention(q, k, v, mask, self._keep((b, c.heads, t, t), deterministic))
        read = Dense(c.hidden, self.backward, name="attention_output")(read.reshape(b, t, -1))
        x = nn.LayerNorm(name="attention_norm", **norm)(x + self._drop(read, deterministic))
        inner = jax.nn.gelu(
            Dense(c.intermediate, self.backward, name="intermediate")(x), approximate=False
        )
        outer = Dense(c.hidden, self.backward, name="output")(inner)
        return nn.LayerNorm(name="output_norm", **norm)(x + self._drop(outer, deterministic))


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
        self.embeddings_dropout = nn.Dropout(c.dropout)
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
        x = self.embeddings_dropout(x, deterministic=deterministic)
        for layer in self.encoder:
            x = layer(x, mask, deterministic)
        if self.is_initializing() and self.config.pooler:
            self.pool(x)  # so that init makes the pooler's parameters too
        return x

    def pool(self, hidden: Float[Array, "B T hidden"]) -> Float[Array, "B hidden"]:
        """tanh of a linear map of the first token's state, BERT's `pooler_output`."""
        return jnp.tanh(self.pooler(hidden[:, 0]))
