"""Graph encoders on padded `jraph.GraphsTuple`s: atom features in, atom states out (MODELS.md R3).

`GCN` is the paper's: three graph convolutions, no bond features. `ResidualGCN` reads bond types and
stereo marks in every layer, the structural gain of MODELS.md 1.1 over the published encoders.
Both take and give float32; padding atoms receive values that no pooling reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

from tmr_jax.types import Graphs


def node_graph(graph: Graphs) -> Int[Array, " N"]:
    """The number of the graph that each atom belongs to; the last graph is the padding."""
    return jnp.repeat(
        jnp.arange(len(graph.n_node)),
        graph.n_node,
        total_repeat_length=graph.nodes.shape[0],  # type: ignore[union-attr]
    )


class ColumnEmbedding(nn.Module):
    """Sum of one learned table per integer column: [N, F] -> [N, D]."""

    sizes: Sequence[int]
    features: int
    stddev: float = 0.168  # the spread of the mol2vec vectors that the family starts from (1.1)

    @nn.compact
    def __call__(self, columns: Int[Array, "N F"]) -> Float[Array, "N D"]:
        # One table for all columns: one gather forward, one scatter backward.
        starts = jnp.cumsum(jnp.array([0, *self.sizes[:-1]]))
        scale = self.stddev / len(self.sizes) ** 0.5
        table = self.param(
            "embedding", nn.initializers.normal(scale), (sum(self.sizes), self.features)
        )
        return table[columns + starts[None, :]].sum(1)


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
            nodes = convolve(graph._replace(nodes=nodes)).nodes + bias
            nodes = nodes if last else nn.relu(nodes)
        return nodes


class ResidualGCN(nn.Module):
    """Pre-norm residual layers; a message is relu(neighbour + bond), summed over neighbours."""

    layers: int
    width: int
    dim: int
    edge_sizes: Sequence[int]
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, graph: Graphs, nodes: Float[Array, "N F"], deterministic: bool = True
    ) -> Float[Array, "N D"]:
        x = nn.Dense(self.dim, name="embed")(nodes)
        count = x.shape[0]
        for i in range(self.layers):
            h = nn.LayerNorm(name=f"norm_{i}")(x)
            bond = ColumnEmbedding(self.edge_sizes, self.dim, name=f"bond_{i}")(graph.edges)
            message = nn.relu(h[graph.senders] + bond)
            gathered = jax.ops.segment_sum(message, graph.receivers, count)
            h = nn.Dense(self.width, name=f"inner_{i}")(h + gathered)
            h = nn.Dense(self.dim, name=f"outer_{i}")(nn.relu(h))
            x = x + nn.Dropout(self.dropout)(h, deterministic=deterministic)
        return x
