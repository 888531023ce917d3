"""Graph encoders on padded `jraph.GraphsTuple`s: atom features in, atom states out; pooling.

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
from jax.experimental import pallas as pl
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Int

from tmr_jax.models.layers.attention import Dropout
from tmr_jax.models.layers.bert import Backward, Dense

Graphs = jraph.GraphsTuple

NORM_FLOOR = 1e-8


def l2_normalize(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Rows of length one; a zero row stays zero.

    Its gradient is finite there too, where that of a norm is not: padding may be all zeros, and a
    mask that comes later turns no NaN to zero.
    """
    square = jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), NORM_FLOOR**2)
    return x / jnp.sqrt(square)


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    weight = mask.astype(x.dtype)[:, :, None]
    return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def segment_mean(
    x: Float[Array, "N D"], segment: Int[Array, " N"], segments: int, ordered: bool = False
) -> Float[Array, "G D"]:
    """Mean of the rows of each segment; an empty segment gives zeros. `ordered`: segments are in
    the order of their numbers, and nobody has to sort them."""
    total = jax.ops.segment_sum(x, segment, segments, ordered)
    count = jax.ops.segment_sum(jnp.ones((x.shape[0], 1), x.dtype), segment, segments, ordered)
    return total / jnp.maximum(count, 1)


ATOMS_IN_A_SUM = 32  # a molecule of the usual size then has sums as large as its means


class Readout(nn.Module):
    """What two dense layers make of mean, sum and maximum over each segment: [N, D] -> [G, D].

    A mean cannot tell a chain of 16 carbons from one of 18, a sum can. With `heads` learned queries
    read the rows, too, each a part of their width. An empty segment is read as zeros.
    """

    heads: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N D"],
        segment: Int[Array, " N"],
        segments: int,
        ordered: bool = False,
    ) -> Float[Array, "G D"]:
        mean = segment_mean(x, segment, segments, ordered)
        total = jax.ops.segment_sum(x, segment, segments, ordered) / ATOMS_IN_A_SUM
        top = jax.ops.segment_max(x, segment, segments, ordered)
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        read = [mean, total, top]
        if self.heads:
            read.append(Attended(self.heads, name="attended")(x, segment, segments, ordered))
        inner = nn.relu(nn.Dense(2 * x.shape[1], name="inner")(jnp.concatenate(read, axis=1)))
        return nn.Dense(x.shape[1], name="outer")(inner)


class Attended(nn.Module):
    """Softmax over the rows of a segment, by each learned query for its part of the values."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "N D"], segment: Int[Array, " N"], segments: int, ordered: bool
    ) -> Float[Array, "G D"]:
        size, width = x.shape
        scores = nn.Dense(self.heads, name="scores")(nn.tanh(nn.Dense(width, name="keys")(x)))
        top = jax.ops.segment_max(scores, segment, segments, ordered)
        weight = jnp.exp(scores - jax.lax.stop_gradient(top)[segment])
        values = nn.Dense(width, name="values")(x).reshape(size, self.heads, -1)
        total = jax.ops.segment_sum(
            (weight[:, :, None] * values).reshape(x.shape), segment, segments, ordered
        )
        over = jax.ops.segment_sum(weight, segment, segments, ordered)
        return total / jnp.repeat(jnp.maximum(over, NORM_FLOOR), width // self.heads, axis=1)


# Products with the adjacency of a batch of molecules in blocks, for TPUs. A gather of the states of
# neighbours and a scatter of their sums move every state several times over and leave the matrix
# units idle. The atoms of a molecule lie together, so nearly every bond ties two atoms that are
# near each other in the batch, too: for a block of 128 atoms the adjacency with the 256 around them
# is a small matrix, and what sums them is a product with it. Bonds that reach further are added one
# by one, in a loop that has no turn where there are none.

BLOCK = 128  # atoms that a matrix has rows for
WINDOW = 2 * BLOCK  # and columns
STEP = (WINDOW - BLOCK) // 2  # windows begin at multiples of it
TURN = 4  # blocks whose windows are read at once


class Band(NamedTuple):
    """A square matrix with a row for each of R atoms, a multiple of BLOCK."""

    near: Float[Array, "blocks 2 BLOCK BLOCK"]  # of each block the left and the right half
    rows: Int[Array, " E"]  # of what does not lie in `near`, first of all
    columns: Int[Array, " E"]
    weight: Float[Array, " E"]
    count: Int[Array, ""]  # of them


def padded(count: int) -> int:
    """R for so many atoms: a window has to fit in."""
    return max(-(-count // BLOCK) * BLOCK, WINDOW)


def _start(block: Any, size: int) -> Any:
    """Where the window of a block begins, in STEPs: around it, and within all `size` rows."""
    return jnp.clip(block * (BLOCK // STEP) - 1, 0, (size - WINDOW) // STEP)


def band(
    rows: Int[Array, " E"], columns: Int[Array, " E"], scale: Float[Array, " R"], dtype: Any
) -> Band:
    """S (A + I) S: A counts the bonds from `columns` to `rows`, S is diagonal."""
    size = len(scale)
    atoms = jnp.arange(size)
    rows, columns = jnp.concatenate([rows, atoms]), jnp.concatenate([columns, atoms])
    weight = scale[rows] * scale[columns]
    place = columns - _start(rows // BLOCK, size) * STEP
    inside = (place >= 0) & (place < WINDOW)
    # By one number, of halves of 128 columns: XLA then moves neither indices nor the result.
    half = rows // BLOCK * 2 + place // BLOCK
    place = (half * BLOCK + rows % BLOCK) * BLOCK + place % BLOCK
    place = jnp.where(inside, place, size * WINDOW)
    near = jnp.zeros(size * WINDOW, dtype).at[place].add(weight.astype(dtype), mode="drop")
    far = jnp.flatnonzero(~inside, size=len(weight) - size, fill_value=0)
    near = near.reshape(-1, 2, BLOCK, BLOCK)
    return Band(near, rows[far], columns[far], weight[far], (~inside).sum())


@jax.custom_vjp
def times(x: Float[Array, "R D"], matrix: Band, turned: Band) -> Float[Array, "R D"]:
    """`matrix` times x, in the type of x; `turned` is its transpose, which slopes go through."""
    return _times(x, matrix)


times.defvjp(
    lambda x, matrix, turned: (_times(x, matrix), turned),
    lambda turned, slope: (_times(slope, turned), None, None),
)


def _times(x: Float[Array, "R D"], matrix: Band) -> Float[Array, "R D"]:
    def more(i: Array, total: Array) -> Array:
        # One row at a time: of a scatter of many a TPU would sort the places first.
        row = jax.lax.dynamic_slice_in_dim(total, matrix.rows[i], 1)
        added = matrix.weight[i] * jax.lax.dynamic_slice_in_dim(x, matrix.columns[i], 1)
        row += added.astype(x.dtype)
        return jax.lax.dynamic_update_slice_in_dim(total, row, matrix.rows[i], 0)

    return jax.lax.fori_loop(0, matrix.count, more, product(matrix.near, x))


def product(
    near: Float[Array, "blocks 2 BLOCK BLOCK"], x: Float[Array, "R D"], interpret: bool = False
) -> Float[Array, "R D"]:
    """The product of each block's matrix with the rows of x in its window; sums are float32.

    A Pallas kernel: windows overlap, and XLA would write them out side by side.
    """
    size, width = x.shape
    read = min(TURN * BLOCK + 2 * STEP, size)  # rows, which hold the windows of all its blocks

    def first(turn: Any) -> Any:
        return jnp.clip(turn * (TURN * BLOCK // STEP) - 1, 0, (size - read) // STEP)

    def kernel(near: Any, x: Any, out: Any) -> None:
        turn = pl.program_id(0)
        exact = Precision.HIGHEST if x.dtype == jnp.float32 else None
        dot = partial(jnp.dot, precision=exact, preferred_element_type=jnp.float32)
        for i in range(TURN):
            begin = (_start(turn * TURN + i, size) - first(turn)) * STEP
            window = x[pl.ds(pl.multiple_of(begin, STEP), WINDOW), :]
            total = dot(near[i, 0], window[:BLOCK]) + dot(near[i, 1], window[BLOCK:])
            out[i * BLOCK : (i + 1) * BLOCK, :] = total.astype(out.dtype)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(size, TURN * BLOCK),),
        in_specs=[
            pl.BlockSpec((TURN, 2, BLOCK, BLOCK), lambda i: (i, 0, 0, 0)),
            pl.BlockSpec((pl.Element(read), pl.Element(width)), lambda i: (first(i) * STEP, 0)),
        ],
        out_specs=pl.BlockSpec((TURN * BLOCK, width), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=interpret,
        name="band_product",
    )(near, x)


lecun = nn.initializers.lecun_normal()


def node_graph(graph: Graphs) -> Int[Array, " N"]:
    """The number of the graph that each atom belongs to; the last graph is the padding."""
    return jnp.repeat(
        jnp.arange(graph.n_node.shape[0]),
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
    (`Band`); elsewhere all is float32.
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
            h = h + jax.ops.segment_sum(message, receivers, x.shape[0])
            h = Dense(self.width, self.backward, lecun, name=f"inner_{i}")(h.astype(self.dtype))
            h = Dense(self.dim, self.backward, lecun, name=f"outer_{i}")(nn.relu(h))
            h = Dropout(self.dropout)(h.astype(jnp.float32), deterministic)
            x = x + h
        return x
