"""Graph encoders against dense algebra; what padding and renumbering must not change."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from tmr_jax.models.layers import gcn as module
from tmr_jax.models.layers.gcn import (
    BLOCK,
    GCN,
    Attended,
    ColumnEmbedding,
    Form,
    Readout,
    ResidualGCN,
    _by_band,
    _by_list,
    _convolved,
    band,
    l2_normalize,
    masked_mean,
    node_graph,
    padded,
    product,
    segment_mean,
    times,
)

DIM, WIDTH = 6, 10


def path_graph(atoms: int, nodes: np.ndarray, extra_nodes: int = 4, extra_edges: int = 3):
    """A chain of `atoms` atoms padded with one extra graph that holds all the padding."""
    forward = np.stack([np.arange(atoms - 1), np.arange(1, atoms)], 1)
    both = np.concatenate([forward, forward[:, ::-1]]).astype(np.int32)
    edges = np.zeros((len(both), 2), np.int32)
    graph = jraph.GraphsTuple(
        nodes,
        edges,
        both[:, 1],
        both[:, 0],
        None,
        np.array([atoms], np.int32),
        np.array([len(both)], np.int32),
    )
    return jraph.pad_with_graphs(graph, atoms + extra_nodes, len(both) + extra_edges, 2)


def dense_gcn(params, atoms: int, x: np.ndarray) -> np.ndarray:
    """Ahat X W + b, three times, with a dense Ahat = D^-1/2 (A + I) D^-1/2."""
    a = np.eye(atoms)
    for i in range(atoms - 1):
        a[i, i + 1] = a[i + 1, i] = 1
    scale = np.diag(a.sum(1) ** -0.5)
    hat = scale @ a @ scale
    for i in range(3):
        x = hat @ x @ np.asarray(params[f"dense_{i}"]["kernel"]) + np.asarray(params[f"bias_{i}"])
        x = np.maximum(x, 0) if i < 2 else x
    return x


@pytest.mark.parametrize("atoms", [1, 2, 7])
def test_gcn_equals_dense_matrix_product(atoms):
    x = np.random.default_rng(0).normal(size=(atoms, 5)).astype(np.float32)
    graph = path_graph(atoms, x)
    model = GCN(3, WIDTH, DIM)
    params = model.init(jax.random.key(0), graph, graph.nodes)["params"]
    biased = jax.tree.map(lambda p: p + 0.1, params)  # zero biases would hide a missing one
    got = model.apply({"params": biased}, graph, graph.nodes)
    np.testing.assert_allclose(got[:atoms], dense_gcn(biased, atoms, x), atol=2e-5)


@pytest.mark.parametrize("kind", ["gcn", "residual"])
def test_padding_does_not_reach_real_atoms(kind):
    x = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    model = GCN(3, WIDTH, DIM) if kind == "gcn" else ResidualGCN(3, WIDTH, DIM, (4, 3))
    small, large = path_graph(5, x), path_graph(5, x, extra_nodes=40, extra_edges=30)
    poisoned = large._replace(nodes=np.where(np.arange(45)[:, None] < 5, large.nodes, 1e3))
    variables = model.init(jax.random.key(0), small, small.nodes)
    a = model.apply(variables, small, small.nodes)[:5]
    b = model.apply(variables, poisoned, poisoned.nodes)[:5]
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_residual_gcn_reads_bonds():
    x = np.ones((4, DIM), np.float32)
    graph = path_graph(4, x)
    model = ResidualGCN(2, WIDTH, DIM, (4, 3))
    variables = model.init(jax.random.key(0), graph, graph.nodes)
    other = graph._replace(edges=np.concatenate([[[2, 1]], graph.edges[1:]]))
    before, after = (model.apply(variables, g, g.nodes) for g in (graph, other))
    assert float(jnp.abs(before - after)[:4].max()) > 1e-3


def test_renumbering_atoms_renumbers_states():
    x = np.random.default_rng(2).normal(size=(6, DIM)).astype(np.float32)
    graph = path_graph(6, x)
    order = np.array([3, 0, 5, 1, 4, 2, *range(6, graph.nodes.shape[0])])
    place = np.argsort(order)
    shuffled = graph._replace(
        nodes=graph.nodes[order], senders=place[graph.senders], receivers=place[graph.receivers]
    )
    model = ResidualGCN(3, WIDTH, DIM, (4, 3))
    variables = model.init(jax.random.key(0), graph, graph.nodes)
    a = model.apply(variables, graph, graph.nodes)
    b = model.apply(variables, shuffled, shuffled.nodes)
    np.testing.assert_allclose(a[order][:6], b[:6], atol=1e-5)


def test_column_embedding_is_the_sum_of_its_tables_rows():
    columns = np.array([[0, 2, 7], [3, 1, 1999], [1, 0, 0]])
    model = ColumnEmbedding((4, 3, 2000), DIM)
    variables = model.init(jax.random.key(0), columns)
    table = np.asarray(variables["params"]["embedding"])
    expected = table[columns[:, 0]] + table[4 + columns[:, 1]] + table[7 + columns[:, 2]]
    np.testing.assert_allclose(model.apply(variables, columns), expected, atol=1e-6)


def test_node_graph_numbers_the_padding_last():
    graph = path_graph(3, np.ones((3, DIM), np.float32), extra_nodes=2)
    assert node_graph(graph).tolist() == [0, 0, 0, 1, 1]


def scattered(atoms: int, seed: int = 0):
    """Bonds, both ways, between atoms near and far, one of them twice; and a scale for each."""
    random = np.random.default_rng(seed)
    ends = random.integers(0, atoms, (2, atoms))
    ends = np.concatenate([ends, [[1, 1], [2, 2]]], 1)
    both = np.int32(np.concatenate([ends, ends[::-1]], 1))
    return jnp.asarray(both), jnp.float32(random.uniform(0.5, 1, padded(atoms)))


def interpreted(monkeypatch):
    """The kernel, where there is no TPU."""
    monkeypatch.setattr(module, "product", partial(product, interpret=True))


@pytest.mark.slow("633")
@pytest.mark.costly
@pytest.mark.parametrize("atoms", [3, 2 * BLOCK, 5 * BLOCK - 7])
def test_a_band_times_states_is_the_dense_product(atoms, monkeypatch):
    interpreted(monkeypatch)
    (rows, columns), scale = scattered(atoms)
    dense = np.eye(padded(atoms))
    np.add.at(dense, (rows, columns), 1)
    dense *= np.float64(scale)[:, None] * np.float64(scale)
    matrix, turned = (
        band(*ends, scale, jnp.float32) for ends in ((rows, columns), (columns, rows))
    )
    reaching = int(matrix.count)
    assert reaching == 0 if atoms <= 2 * BLOCK else reaching > 100
    x = jnp.float32(np.random.default_rng(1).normal(size=(padded(atoms), 5)))
    np.testing.assert_allclose(times(x, matrix, turned), dense @ x, atol=1e-5)
    slope = jax.grad(lambda x: (times(x, matrix, turned) ** 2).sum())(x)
    np.testing.assert_allclose(slope, 2 * dense.T @ (dense @ x), atol=1e-3)


def test_slopes_of_a_band_go_the_other_way_along_bonds(monkeypatch):
    interpreted(monkeypatch)
    rows, columns = jnp.array([1]), jnp.array([0])  # atom 1 hears atom 0, which hears itself alone
    scale = jnp.ones(padded(2))
    matrix, turned = (
        band(rows, columns, scale, jnp.float32),
        band(columns, rows, scale, jnp.float32),
    )
    x = jnp.zeros((padded(2), 1)).at[0].set(3.0)
    assert times(x, matrix, turned)[:3, 0].tolist() == [3, 3, 0]
    slope = jax.grad(lambda x: times(x, matrix, turned)[1, 0])(x)
    assert slope[:3, 0].tolist() == [1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_tpu_s_form_of_the_layers_agrees_with_the_other_one(dtype, monkeypatch):
    interpreted(monkeypatch)
    atoms = 3 * BLOCK + 5
    x = np.random.default_rng(0).normal(size=(atoms, 5)).astype(np.float32)
    (senders, receivers), _ = scattered(atoms)
    graph = path_graph(atoms, x)
    graph = graph._replace(
        senders=np.concatenate([graph.senders, senders]),
        receivers=np.concatenate([graph.receivers, receivers]),
    )
    model = GCN(3, WIDTH, DIM, dtype)
    params = model.init(jax.random.key(0), graph, graph.nodes)["params"]
    weights = [(params[f"dense_{i}"]["kernel"], params[f"bias_{i}"] + 0.1) for i in range(3)]

    def energy(weights, form):
        found = _convolved(form, graph._replace(edges=None), weights)[:atoms]
        return (found**2).mean(), found

    slopes, states = zip(
        *(
            jax.grad(energy, has_aux=True)(weights, form)
            for form in (Form(_by_list, jnp.float32), Form(_by_band, dtype, padded))
        ),
        strict=True,
    )
    near = {"atol": 1e-5} if dtype == jnp.float32 else {"atol": 0.03}
    assert states[1].dtype == jnp.float32
    np.testing.assert_allclose(*states, **near)
    for ours, theirs in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(ours, theirs, **near)


@pytest.mark.costly
def test_only_a_tpu_is_given_the_band():
    graph = path_graph(3, np.ones((3, 5), np.float32))
    model = GCN(3, WIDTH, DIM)
    params = model.init(jax.random.key(0), graph, graph.nodes)
    step = jax.jit(jax.value_and_grad(lambda p: model.apply(p, graph, graph.nodes).sum()))
    texts = {
        platform: step.trace(params).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    found = {platform: text.count("tpu_custom_call") for platform, text in texts.items()}
    assert found == {"cpu": 0, "tpu": 5, "cuda": 0}  # three layers, and back through two of them


def test_masked_mean_ignores_padding():
    x = jnp.array([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(masked_mean(x, mask), [[2.0], [7.0]])


def test_segment_mean_gives_zero_for_an_empty_segment():
    x = jnp.array([[2.0], [4.0], [9.0]])
    got = segment_mean(x, jnp.array([0, 0, 2]), 4)
    np.testing.assert_allclose(got, [[3.0], [0.0], [9.0], [0.0]])


def test_readout_tells_two_equal_atoms_from_one_and_reads_an_empty_segment_as_zeros():
    x = jnp.array([[2.0, -1.0], [2.0, -1.0], [2.0, -1.0]])
    segment = jnp.array([0, 0, 1])
    model = Readout()
    variables = model.init(jax.random.key(0), x, segment, 3)
    two, one, none = model.apply(variables, x, segment, 3)
    np.testing.assert_allclose(segment_mean(x, segment, 2)[0], segment_mean(x, segment, 2)[1])
    assert float(jnp.abs(two - one).max()) > 1e-3
    np.testing.assert_allclose(none, [0.0, 0.0])  # its biases are zero at the start


def test_rows_of_length_one_have_a_gradient_at_zero_too():
    """A padded token may be all zeros; its cosines are masked afterwards."""
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    slope = jax.grad(
        lambda x: jnp.where(jnp.array([True, False]), l2_normalize(x)[:, 0], 0.0).sum()
    )(x)
    # d (x / |x|) / dx = (1 - x x' / |x|^2) / |x|
    np.testing.assert_allclose(slope, [[0.128, -0.096], [0.0, 0.0]], atol=1e-6)


def test_readout_by_attention_is_the_softmax_of_each_segment():
    x = np.random.default_rng(3).normal(size=(5, DIM)).astype(np.float32)
    segment = np.array([0, 0, 0, 2, 2])  # segment 1 is empty
    attended = Attended(heads=2)
    params = attended.init(jax.random.key(0), x, segment, 3, True)["params"]
    got = attended.apply({"params": params}, x, segment, 3, True)

    def dense(name, rows):
        return rows @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    for s, rows in ((0, x[:3]), (2, x[3:])):
        weight = np.exp(dense("scores", np.tanh(dense("keys", rows))))
        weight = np.repeat(weight / weight.sum(0), DIM // 2, axis=1)
        np.testing.assert_allclose(got[s], (weight * dense("values", rows)).sum(0), atol=1e-5)
    np.testing.assert_array_equal(got[1], 0)
