"""A BERT encoder in Flax: token ids in, hidden states out (Devlin et al. 2019).

The forward pass is the ordinary post-LayerNorm BERT with exact GELU. All layers are one: `nn.scan`
runs it over parameters [layers, ...], so a compiler sees a single layer and each kind of parameter
is one array to the optimiser. Weights come and go layer by layer (`by_layer`, `stacked`).

The backward pass has two forms with the same gradients. `autodiff` is JAX's own; `low_memory` is
written out in bert_layer.py: what lies in memory between two products is in the precision of the
run, everything elementwise is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from tmr_jax.models.layers.attention import Dropout, Form, Segments
from tmr_jax.models.layers.bert_layer import (
    NORMS,
    SHAPES,
    SITES,
    Gelu,
    Kind,
    layer,
    low_memory_layer,
    run_layers,
)

Backward = Literal["autodiff", "low_memory"]
LAYERS = "layers"  # where the parameters of all layers lie, [layers, ...] each


@dataclass(frozen=True)
class BertConfig:
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int = 512
    type_vocab: int = 2  # 0: no token types, as in DistilBERT and MPNet
    eps: float = 1e-12
    dropout: float = 0.1
    pooler: bool = True  # some exported weights come without it
    relative_buckets: int = 0  # of MPNet's bias by relative position, shared by all layers; 0: none


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


def relative_buckets(length: int, buckets: int, longest: int = 128) -> Int[np.ndarray, "T T"]:
    """T5's buckets of key position - query position, as MPNet has them.

    Half of the buckets is for later keys. Of each half one half is exact, and the other grows with
    the logarithm up to a distance of `longest`.
    """
    place = np.arange(length)
    distance = place[:, None] - place[None, :]  # positive: the key is earlier
    half = buckets // 2
    exact = half // 2
    far = np.abs(distance)
    growth = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    large = exact + (growth / np.float32(np.log(longest / exact)) * (half - exact)).astype(np.int32)
    bucket = np.where(far < exact, far, np.minimum(large, half - 1))
    return (bucket + half * (distance < 0)).astype(np.int32)


def _row(vector: Array, rank: int) -> Array:
    """A [D] vector with leading axes of size one, so that no rank is promoted in silence."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


def plain_dense(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel.astype(x.dtype) + _row(bias.astype(x.dtype), x.ndim)


@jax.custom_vjp
def low_memory_dense(x: Array, kernel: Array, bias: Array) -> Array:
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


low_memory_dense.defvjp(_dense_forward, _dense_backward)


class Affine(nn.Module):
    """Kernel [in, out] and bias [out] of a linear layer, float32."""

    features: int
    init: nn.initializers.Initializer = nn.initializers.normal(0.02)  # BERT's own

    @nn.compact
    def __call__(self, inputs: int) -> dict[str, Array]:
        kernel = self.param("kernel", self.init, (inputs, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return {"kernel": kernel, "bias": bias}


class Dense(nn.Module):
    """Linear layer with the chosen backward; parameters in float32, work in the input's dtype."""

    features: int
    backward: Backward = "autodiff"
    init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        dense = low_memory_dense if self.backward == "low_memory" else plain_dense
        return dense(x, kernel, bias)


class Norm(nn.Module):
    """Scale and bias of a LayerNorm, float32."""

    @nn.compact
    def __call__(self, features: int) -> dict[str, Array]:
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        return {
            "scale": scale,
            "bias": self.param("bias", nn.initializers.zeros, (features,), jnp.float32),
        }


class BertLayer(nn.Module):
    """One layer as the body of a scan: rows [R, hidden] in and out, seeds of its dropouts."""

    config: BertConfig
    backward: Backward = "autodiff"
    form: Form = "plain"
    gelu: Gelu = "exact"

    @nn.compact
    def __call__(self, x: Array, seeds: Array, segments: Segments, drop: bool) -> tuple:
        c = self.config
        inputs = dict.fromkeys(SHAPES, c.hidden) | {"output": c.intermediate}
        outputs = dict.fromkeys(SHAPES, c.hidden) | {"intermediate": c.intermediate}
        weights = {name: Affine(outputs[name], name=name)(inputs[name]) for name in SHAPES}
        weights |= {name: Norm(name=name)(c.hidden) for name in NORMS}
        kind = Kind(c.heads, c.eps, c.dropout if drop else 0.0, self.form, self.gelu)
        run = low_memory_layer if self.backward == "low_memory" else layer
        return run(kind, weights, x, seeds, segments), None


class Bert(nn.Module):
    """tokens [B, T], mask -> hidden states [B, T, hidden] in `dtype`.

    The mask says which places of a row are real, [B, T]; where a row holds several texts,
    `Segments` say who reads whom, and `positions` where in its text a place is. With `remat` only
    the hidden states between layers are kept for the gradient, and each layer runs again.
    `unroll` layers are compiled side by side; 0: all of them.
    """

    config: BertConfig
    dtype: Any = jnp.float32
    backward: Backward = "autodiff"
    form: Form = "plain"
    gelu: Gelu = "exact"
    remat: bool = False
    unroll: int = 1
    interpret: bool = False  # of kernels: runs them anywhere, for tests

    def setup(self) -> None:
        c = self.config
        plain = self.backward == "autodiff" and self.form == "plain"
        assert plain or not c.relative_buckets, "other forms know no bias by relative position"
        init = nn.initializers.normal(0.02)
        embed = {"features": c.hidden, "embedding_init": init}
        self.word_embeddings = nn.Embed(c.vocab_size, **embed)
        self.position_embeddings = nn.Embed(c.max_positions, **embed)
        if c.type_vocab:
            self.token_type_embeddings = nn.Embed(c.type_vocab, **embed)
        if c.relative_buckets:
            self.relative_attention_bias = nn.Embed(
                c.relative_buckets, c.heads, embedding_init=init
            )
        self.embeddings_norm = nn.LayerNorm(epsilon=c.eps, dtype=self.dtype)
        self.embeddings_dropout = Dropout(c.dropout)
        body = BertLayer
        if self.remat:
            body = nn.remat(BertLayer, prevent_cse=False, static_argnums=(4,))
        self.layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=c.layers,
            unroll=self.unroll or c.layers,
        )(c, self.backward, self.form, self.gelu)
        if c.pooler:
            self.pooler = Dense(c.hidden, self.backward)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"] | Segments,
        positions: Int[Array, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T hidden"]:
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None, :]
        c = self.config
        segments = mask if isinstance(mask, Segments) else Segments.of_mask(mask)
        x = self.word_embeddings(tokens) + self.position_embeddings(positions)
        # One segment only, looked up once: the gradient of a row for each place is a scatter.
        if c.type_vocab:
            x = x + self.token_type_embeddings(jnp.zeros((1, 1), jnp.int32))
        if c.relative_buckets:
            # Texts that share a row are contiguous, so places in the row differ as positions do.
            buckets = relative_buckets(tokens.shape[1], c.relative_buckets)
            bias = self.relative_attention_bias(buckets).transpose(2, 0, 1)
            segments = segments._replace(bias=bias.astype(jnp.float32))
        x = self.embeddings_norm(x).astype(self.dtype)
        x = self.embeddings_dropout(x, deterministic)
        drop = not deterministic and c.dropout > 0
        rows, seeds = x.reshape(-1, c.hidden), self._seeds(drop)
        fused = self.form == "flash" and self.backward == "low_memory" and not self.remat
        if fused and not self.is_initializing():
            kind = Kind(c.heads, c.eps, c.dropout if drop else 0.0, self.form, self.gelu)
            weights = self.layers.variables["params"]
            rows = run_layers(kind, self.interpret, weights, rows, seeds, segments)
        else:
            rows = self.layers(rows, seeds, segments, drop)[0]
        x = rows.reshape(x.shape)
        if self.is_initializing() and self.config.pooler:
            self.pool(x)  # so that init makes the pooler's parameters too
        return x

    def _seeds(self, drop: bool) -> UInt32[Array, "layers 3 2"]:
        shape = (self.config.layers, SITES, 2)
        if not drop:
            return jnp.zeros(shape, jnp.uint32)
        return jax.random.bits(self.make_rng("dropout"), shape, jnp.uint32)

    def pool(self, hidden: Float[Array, "B T hidden"]) -> Float[Array, "B hidden"]:
        """tanh of a linear map of the first token's state, BERT's `pooler_output`."""
        return jnp.tanh(self.pooler(hidden[:, 0]))


# Parameters by layer: as Hugging Face has them, and as checkpoints keep them


def stacked(encoder: dict[str, Any]) -> dict[str, Any]:
    """`layer_0`, `layer_1`, ... of a text encoder's parameters as one tree of [layers, ...]."""
    names = sorted((n for n in encoder if n.startswith("layer_")), key=lambda n: int(n[6:]))
    if not names:
        return encoder
    rest = {name: tree for name, tree in encoder.items() if name not in names}
    of = np if isinstance(jax.tree.leaves(encoder[names[0]])[0], np.ndarray) else jnp
    return rest | {LAYERS: jax.tree.map(lambda *x: of.stack(x), *(encoder[n] for n in names))}


def by_layer(encoder: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `stacked`."""
    if LAYERS not in encoder:
        return encoder
    rest = {name: tree for name, tree in encoder.items() if name != LAYERS}
    count = len(jax.tree.leaves(encoder[LAYERS])[0])
    own = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], encoder[LAYERS]) for i in range(count)}
    return rest | own
