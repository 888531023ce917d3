"""The dual encoder: what its embeddings may depend on, and that it can learn."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tmr_jax.config import (
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    OptimConfig,
    TextEncoderConfig,
    TrainConfig,
)
from tmr_jax.data.batching import declare_shapes, make_batch
from tmr_jax.data.features.graph import EDGE_SIZES, ENVIRONMENT_SIZES, NODE_SIZES
from tmr_jax.data.features.text import load_tokenizer
from tmr_jax.data.tables import apply_vocabulary, build_vocabulary, molecule_table, text_table
from tmr_jax.models.checkpoint import new_state
from tmr_jax.models.dual_encoder import MAX_LOGIT_SCALE
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import build_model
from tmr_jax.train.optim import build_optimizer
from tmr_jax.train.step import make_train_step
from tmr_jax.types import Batch

TOKENIZER = Path(__file__).parent.parent / "experiments" / "tiny_bert"
SMILES = ["C", "[Na+].[Cl-]", "c1ccccc1O", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(=O)OCC"]
TEXTS = [f"the molecule is number {i} of a few" for i in range(len(SMILES))]


def built(smiles, texts, kind="ogb", motif="none", dim=16, vocabulary=TOKENIZER, readout="mean"):
    """A small model and one batch of all the pairs."""
    tokenizer = load_tokenizer(vocabulary)
    text = text_table(texts, tokenizer, 64)
    mol, kept, _ = molecule_table(smiles, kind, motif)
    assert len(kept) == len(smiles)
    sizes, edges = NODE_SIZES, EDGE_SIZES
    if kind == "ogb_counts":
        sizes += ENVIRONMENT_SIZES
    if kind == "morgan1":
        atoms = build_vocabulary(mol)
        mol, _ = apply_vocabulary(mol, atoms)
        sizes, edges = (len(atoms.identifiers) + 1,), ()
    graph = GraphEncoderConfig("gcn" if kind == "morgan1" else "residual", 3, 24, readout=readout)
    model = build_model(
        ModelConfig(dim=dim, graph=graph, text=TextEncoderConfig(dropout=0.0)),
        FeatureConfig(kind, motif),
        TrainConfig(),
        BertConfig(tokenizer.vocab_size, 32, 2, 4, 64, pooler=False),
        sizes,
        edges,
    )
    rows = np.arange(len(smiles))
    shapes = declare_shapes(mol, (64,), len(smiles))
    return model, make_batch(rows, text, mol, rows, rows, shapes, tokenizer.pad_token)


def pooled(model, params, batch: Batch, method: str):
    part = batch.text if method == "encode_text" else batch.mol
    return model.apply({"params": params}, part, method=method).pooled


@pytest.mark.costly("morgan1-none-mean", "ogb")
@pytest.mark.parametrize(
    "kind, motif, readout",
    [
        ("ogb", "none", "mean"),
        ("ogb", "none", "mean_mlp"),
        ("ogb_counts", "none", "attention"),
        ("ogb", "brics", "mean"),
        ("morgan1", "none", "mean"),
    ],
)
def test_a_molecule_alone_equals_itself_in_a_batch(kind, motif, readout):
    model, batch = built(SMILES, TEXTS, kind, motif, readout=readout)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    together = pooled(model, params, batch, "encode_molecule")
    assert together.shape == (len(SMILES), 16) and bool(jnp.isfinite(together).all())
    if kind == "morgan1":
        return  # its vocabulary is made from the molecules of the batch
    for i in (0, 1, 3):  # one atom; two without a bond; a stereo centre
        _, alone = built(SMILES[i : i + 1], TEXTS[i : i + 1], kind, motif, readout=readout)
        np.testing.assert_allclose(
            pooled(model, params, alone, "encode_molecule")[0], together[i], atol=1e-5
        )


@pytest.mark.costly
def test_enantiomers_differ_under_ogb_and_tie_under_morgan1():
    for kind, apart in (("ogb", True), ("morgan1", False)):
        model, batch = built(SMILES, TEXTS, kind)
        params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
        rows = np.asarray(pooled(model, params, batch, "encode_molecule"))
        assert (np.abs(rows[3] - rows[4]).max() > 1e-4) == apart


@pytest.mark.costly
def test_brics_pools_motif_means_not_atom_means():
    smiles = ["CCCCCCCCOC(=O)c1ccccc1"] * 2
    outs = []
    for motif in ("none", "brics"):
        model, batch = built(smiles, TEXTS[:2], "ogb", motif)
        params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
        outs.append(model.apply({"params": params}, batch.mol, method="encode_molecule"))
    atoms, motifs = (np.asarray(o.nodes)[np.asarray(o.node_graph) == 0] for o in outs)
    of_atom = np.asarray(batch.mol.motif)[np.asarray(outs[0].node_graph) == 0]
    means = [atoms[of_atom == m].mean(0) for m in np.unique(of_atom)]
    np.testing.assert_allclose(motifs, means, atol=1e-5)  # what a local score reads
    np.testing.assert_allclose(outs[1].pooled[0], np.mean(means, 0), atol=1e-5)
    assert np.abs(outs[0].pooled[0] - outs[1].pooled[0]).max() > 1e-3


def test_similarity_is_the_cosine_and_init_scale_is_that_of_r20():
    model, batch = built(SMILES, TEXTS)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    scores = model.apply({"params": params}, batch)
    t, m = (np.asarray(pooled(model, params, batch, f"encode_{x}")) for x in ("text", "molecule"))
    t, m = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (t, m))
    np.testing.assert_allclose(scores, t @ m.T, atol=1e-5)
    np.testing.assert_allclose(np.exp(params["log_scale"]), 1 / 0.07, rtol=1e-5)


@pytest.mark.costly
def test_every_parameter_but_the_pooler_receives_a_gradient():
    model, batch = built(SMILES, TEXTS)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]

    def loss(p):
        return model.apply({"params": p}, batch, jax.random.key(1), False, method="loss")[0]

    gradient = jax.jit(jax.grad(loss))(params)
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradient)
        if float(jnp.abs(g).max()) == 0.0
    ]
    # A key's bias shifts all scores of a query alike, which softmax ignores; rounding may hide it.
    assert [s for s in silent if "'key']['bias'" not in s] == []


def of_backend(backend, bert=None, **train):
    bert = bert or BertConfig(60, 128, 2, 2, 256, pooler=False)  # heads of 64 numbers
    sizes = (NODE_SIZES, EDGE_SIZES)
    return build_model(
        ModelConfig(), FeatureConfig("ogb"), TrainConfig(**train), bert, *sizes, backend=backend
    )


@pytest.mark.parametrize(
    ("backend", "train", "wanted"),
    [
        ("cpu", {}, ("low_memory", "low_memory", 0)),
        ("gpu", {}, ("low_memory", "low_memory", 1)),
        ("tpu", {}, ("low_memory", "flash", 1)),
        ("gpu", {"backward": "autodiff"}, ("autodiff", "plain", 1)),
        ("tpu", {"backward": "autodiff"}, ("autodiff", "flash", 1)),
        ("tpu", {"attention": "plain"}, ("low_memory", "plain", 1)),
        ("gpu", {"attention": "cudnn"}, ("low_memory", "cudnn", 1)),
    ],
)
def test_forms_of_bert_follow_from_the_backend_unless_one_is_asked_for(backend, train, wanted):
    model = of_backend(backend, **train)
    assert (model.backward, model.attention, model.unroll) == wanted
    assert not model.remat and of_backend(backend, remat=True, **train).remat


def test_heads_that_fill_no_register_have_no_kernel():
    odd = BertConfig(60, 32, 2, 4, 64, pooler=False)
    assert of_backend("tpu", odd).attention == "low_memory"
    with pytest.raises(ValueError, match="4 heads of 8"):
        of_backend("tpu", odd, attention="flash")


@pytest.mark.parametrize(
    ("backend", "form"), [("cpu", "flash"), ("gpu", "flash"), ("tpu", "cudnn")]
)
def test_a_form_that_the_backend_does_not_have_is_refused(backend, form):
    with pytest.raises(ValueError, match=f"--train.attention {form} on a.*{backend}.*pass auto"):
        of_backend(backend, attention=form)


@pytest.mark.slow
@pytest.mark.parametrize("past", [1.0, 0.0])
def test_a_scale_past_its_bound_still_learns_and_comes_back_to_it(past):
    """A clip within the loss would leave it without a gradient, where it stands, for ever."""
    model, batch = built(SMILES, TEXTS)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    params = {**params, "log_scale": jnp.asarray(MAX_LOGIT_SCALE + past, jnp.float32)}

    def loss(p):
        value, parts = model.apply({"params": p}, batch, jax.random.key(1), False, method="loss")
        return value, parts["scale"]

    (_, scale), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(scale, 100 * np.exp(past), rtol=1e-5)
    # Pairs of a model that has not learned stand no higher than others: a lower scale is better.
    assert float(gradient["log_scale"]) > 0.1

    for rate in (0.0, 0.01):
        optimizer = build_optimizer(OptimConfig(0.0, rate, warmup=0), 10**6, params, model.groups)
        step = make_train_step(model, optimizer, 1)
        state = new_state(jax.tree.map(jnp.array, params), optimizer)
        after, _ = step(state, batch, jax.random.key(0))
        found = float(after.params["log_scale"])
        wanted = min(MAX_LOGIT_SCALE, MAX_LOGIT_SCALE + past - rate)
        assert found == pytest.approx(wanted, abs=1e-5)


def test_parameters_without_a_scale_have_no_bound():
    model, _ = built(SMILES, TEXTS)
    low = {"log_scale": jnp.asarray(1.0), "other": jnp.asarray(9.0)}
    assert model.bounded(low) == low
    assert model.bounded({"other": 9.0}) == {"other": 9.0}


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.usefixtures("optimized")  # hundreds of steps
@pytest.mark.parametrize("kind", ["ogb", "morgan1"])
def test_overfits_twenty_real_pairs(kind):
    from tmr_jax.config import DataConfig
    from tmr_jax.data.pools import load_pool

    words = Path(os.environ["TMR_JAX_DATA"]) / "scibert_vocab" / "vocab.txt.gz"
    pool = load_pool("chebi20-molt5/validation", DataConfig("open"))
    rows = np.flatnonzero(pool.text_target >= 0)[:20]
    texts = [pool.texts[i] for i in rows]
    smiles = [pool.smiles[pool.text_target[i]] for i in rows]
    model, batch = built(smiles, texts, kind, dim=32, vocabulary=words)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state, key):
        def loss(p):
            return model.apply(
                {"params": p}, batch, key, True, method="loss", rngs={"dropout": key}
            )[0]

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for i in range(120):
        params, state = step(params, state, jax.random.key(i))
    scores = np.asarray(model.apply({"params": params}, batch))
    own = np.diagonal(scores)
    assert (scores.argmax(1) == np.arange(20)).all() and (scores.argmax(0) == np.arange(20)).all()
    assert ((scores == own[:, None]).sum(1) == 1).all()  # no tie passed for a hit
