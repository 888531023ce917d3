"""Graph encoders on padded `jraph.GraphsTuple`s: atom features in, atom states out.

`GCN` is the paper's: three graph convolutions, no bond features. `ResidualGCN` reads bond types and
stereo marks in every layer, which the published encoders cannot see (docs/papers.md#atom-features).
Both take and give float32; padding atoms receive values that no pooling reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int

from tmr_jax.models.layers.band import band, padded, times
from tmr_jax.models.layers.bert import Backward, Dense
from tmr_jax.models.layers.dropout import Dropout

Graphs = jraph.GraphsTuple
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
    stddev: float = 0.168  # the spread of the mol2vec vectors that published models start from

    @nn.compact
    def __call__(self, columns: Int[Array, "N F"]) -> Float[Array, "N D"]:
        init = nn.initializers.normal(self.stddev / len(self.sizes) ** 0.5)
        table = self.param("embedding", init, (sum(self.sizes), self.features))
        starts = np.cumsum([0, *self.sizes[:-1]])  # the tables lie one under another
        # Column by column: one gather [N, F, D] and its sum would hold F times the memory.
        looked_up = [table[columns[:, i] + start] for i, start in enumerate(starts)]
        return sum(looked_up[1:], start=looked_up[0])


class GCN(nn.Module):
    """Three `jraph.GraphConvolution`s, D -> width -> width -> dim, ReLU between.

    On a TPU the states between the layers are of `dtype`, and sums over neighbours are products
    (`models/layers/band.py`); elsewhere all is float32.
    """

    layers: int
    width: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, graph: Graphs, nodes: Float[Array, "N F"]) -> Float[Array, "N D"]:
        weights, inputs = [], nodes.shape[1]
        for i in range(self.layers):
            size = self.dim if i == self.layers - 1 else self.width
            kernel = Kernel(size, name=f"dense_{i}")(inputs)
            weights.append((kernel, self.param(f"bias_{i}", nn.initializers.zeros, (1, size))))
            inputs = size
        given: Any = graph._replace(nodes=nodes, edges=None)
        forms = Form(_by_band, self.dtype, padded), Form(_by_list, jnp.float32)
        tpu, default = (partial(_convolved, form) for form in forms)
        return jax.lax.platform_dependent(given, weights, tpu=tpu, default=default)


class Kernel(nn.Module):
    """The weights of a `nn.Dense` by themselves."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> Float[Array, "inputs features"]:
        return self.param("kernel", lecun, (inputs, self.features))


def _by_list(graph: Graphs, scale: Float[Array, " N"], dtype: Any) -> Callable[[Array], Array]:
    """x -> Ahat x [N, D], bond by bond."""
    wide = scale[:, None]
    convolve = _convolution(jax.ops.segment_sum)

    def hat(x: Array) -> Array:
        x = (wide * x).astype(dtype)
        return wide * (convolve(graph._replace(nodes=x)).nodes + x)

    return hat


def _by_band(graph: Graphs, scale: Float[Array, " R"], dtype: Any) -> Callable[[Array], Array]:
    """x -> Ahat x [R, D], by blocks of 128 atoms."""
    senders: Any = graph.senders
    receivers: Any = graph.receivers
    matrices = band(receivers, senders, scale, dtype), band(senders, receivers, scale, dtype)
    # The product reads states where they lie, so as senders it is given all of them.
    everything: Any = slice(None)
    own: Any = graph._replace(senders=everything, receivers=matrices)
    convolve = _convolution(lambda x, matrices, _: times(x, *matrices))
    return lambda x: convolve(own._replace(nodes=x.astype(dtype))).nodes


def _convolution(sums: Any) -> Any:
    """Sums over neighbours; normalising is left to who calls it, and so is the state itself."""
    unchanged: Any = lambda x: x  # noqa: E731
    return jraph.GraphConvolution(unchanged, sums, False, False)


class Form(NamedTuple):
    """How Ahat x is worked out, and what that asks for."""

    hat: Callable[[Graphs, Array, Any], Callable[[Array], Array]]
    dtype: Any  # of the states that are summed
    rows: Callable[[int], int] = lambda count: count  # with padding


def _convolved(
    form: Form, graph: Graphs, weights: list[tuple[Array, Array]]
) -> Float[Array, "N D"]:
    """Ahat X W + b in each layer, Ahat = D^-1/2 (A + I) D^-1/2; D is the same in all of them.

    Of (Ahat X) W and Ahat (X W), the same, the one that sums narrower states is taken. `weights`
    are kernels [inputs, features] and biases [1, features].
    """
    nodes: Any = graph.nodes
    receivers: Any = graph.receivers
    rows = form.rows(len(nodes))
    bonds = jax.ops.segment_sum(jnp.ones(receivers.shape), receivers, rows)
    hat = form.hat(graph, jax.lax.rsqrt(bonds + 1), form.dtype)
    x = jnp.pad(nodes.astype(form.dtype), ((0, rows - len(nodes)), (0, 0)))
    for i, (kernel, bias) in enumerate(weights):
        narrows, kernel = kernel.shape[0] > kernel.shape[1], kernel.astype(form.dtype)
        x = (hat(_dense(x, kernel)) if narrows else _dense(hat(x), kernel)) + bias
        x = nn.relu(x).astype(form.dtype) if i < len(weights) - 1 else x
    return x[: len(nodes)]


def _dense(x: Float[Array, "R I"], kernel: Float[Array, "I O"]) -> Float[Array, "R O"]:
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


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
