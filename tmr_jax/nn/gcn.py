"""Graph encoders on padded `jraph.GraphsTuple`s: atom features in, atom states out (MODELS.md R3).

`GCN` is the paper's: three graph convolutions, no bond features. `ResidualGCN` reads bond types and
stereo marks in every layer, the structural gain of MODELS.md 1.1 over the published encoders.
Both take and give float32; padding atoms receive values that no pooling reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int

from tmr_jax.nn.bert import Backward, Dense
from tmr_jax.nn.dropout import Dropout
from tmr_jax.types import Graphs

lecun = nn.initializers.lecun_normal()


def node_graph(graph: Graphs) -> Int[Array, " N"]:
    """The number of the graph that each atom belongs to; the last graph is the padding."""
    return jnp.repeat(
        jnp.arange(len(graph.n_node)),
        graph.n_node,
        total_repeat_length=graph.nodes.shape[0],  # type: ignore[union-attr]
    )


class ColumnEmbedding(nn.Module):
    """Sum of one learned table per integer column: [N, F] -> [N, D], float32."""

    sizes: Sequence[int]
    features: int
    stddev: float = 0.168  # the spread of the mol2vec vectors that the family starts from (1.1)

    @nn.compact
    def __call__(self, columns: Int[Array, "N F"]) -> Float[Array, "N D"]:
        init = nn.initializers.normal(self.stddev / len(self.sizes) ** 0.5)
        table = self.param("embedding", init, (sum(self.sizes), self.features))
        starts = np.cumsum([0, *self.sizes[:-1]])  # the tables lie one under another
        # Column by column: one gather [N, F, D] and its sum would hold F times the memory.
        looked_up = [table[columns[:, i] + start] for i, start in enumerate(starts)]
        return sum(looked_up[1:], start=looked_up[0])


class GCN(nn.Module):
    """Three `jraph.GraphConvolution`s, D -> width -> width -> dim, ReLU between (R3)."""

    layers: int
    width: int
    dim: int

    @nn.compact
    def __call__(self, graph: Graphs, nodes: Float[Array, "N F"]) -> Float[Array, "N D"]:
        for i in range(self.layers):
            last = i == self.layers - 1
            dense = nn.Dense(self.dim if last else self.width, use_bias=False, name=f"dense_{i}")
            bias = self.param(
                f"bias_{i}", nn.initializers.zeros, (1, self.dim if last else self.width)
            )
            # Ahat X W with Ahat = D^-1/2 (A + I) D^-1/2; the bias comes after the aggregation.
            convolve = jraph.GraphConvolution(
                dense, add_self_edges=True, symmetric_normalization=True
            )
            convolved: Any = convolve(graph._replace(nodes=nodes)).nodes
            nodes = convolved + bias
            nodes = nodes if last else nn.relu(nodes)
        return nodes


class ResidualGCN(nn.Module):
    """Pre-norm residual layers; a message is relu(neighbour + bond), summed over neighbours.

    The linear maps run in `dtype`; the residual stream and the sums over neighbours stay float32.
    """

    layers: int
    width: int
    dim: int
    edge_sizes: Sequence[int]
    dropout: float = 0.0
    dtype: Any = jnp.float32
    backward: Backward = "autodiff"

    @nn.compact
    def __call__(
        self, graph: Graphs, nodes: Float[Array, "N D"], deterministic: bool = True
    ) -> Float[Array, "N D"]:
        x = nodes.astype(jnp.float32)
        bonds: Any = graph.edges  # jraph types every field as optional
        receivers: Any = graph.receivers
        for i in range(self.layers):
            h = nn.LayerNorm(name=f"norm_{i}")(x)
            bond = ColumnEmbedding(self.edge_sizes, self.dim, name=f"bond_{i}")(bonds)
            message = nn.relu(h[graph.senders] + bond)
            h = h + jax.ops.segment_sum(message, receivers, len(x))
            h = Dense(self.width, self.backward, lecun, name=f"inner_{i}")(h.astype(self.dtype))
            h = Dense(self.dim, self.backward, lecun, name=f"outer_{i}")(nn.relu(h))
            h = Dropout(self.dropout)(h.astype(jnp.float32), deterministic)
            x = x + h
        return x
