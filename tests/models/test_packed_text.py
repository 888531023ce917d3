"""Texts side by side in rows are read as texts in rows of their own: states, losses, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.config import (
    BankConfig,
    FeatureConfig,
    GraphEncoderConfig,
    ModelConfig,
    SecondOrderConfig,
    TextEncoderConfig,
    TrainConfig,
)
from tmr_jax.data.batching import declare_shapes, make_batch
from tmr_jax.data.features.graph import EDGE_SIZES, NODE_SIZES
from tmr_jax.data.tables import TextTable, molecule_table
from tmr_jax.models.checkpoint import STATISTICS
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import build_model

SMILES = ("CCO", "C", "c1ccccc1", "CC(=O)NC", "[Na+].[Cl-]", "CCN")
LENGTHS = (3, 16, 5, 1, 9, 7)
BERT = BertConfig(60, 16, 2, 4, 32, max_positions=16, dropout=0.0, pooler=False)
MODELS = {
    "dual cls": ModelConfig(second_order=SecondOrderConfig(u2u=1.0, u2c=1.0)),
    "dual mean": ModelConfig(text=TextEncoderConfig(pooling="mean")),
    "difftmr": ModelConfig("difftmr"),
    "mbank": ModelConfig("mbank", bank=BankConfig(slots=4)),
}


def model_of(name, **train):
    config = MODELS[name]
    small = {"dim": 8, "graph": GraphEncoderConfig("gcn", 1, 8)}
    text = TextEncoderConfig(pooling=config.text.pooling, dropout=0.0)
    config = ModelConfig(**{**vars(config), **small, "text": text})
    features = FeatureConfig("ogb", "none", max_tokens=16)
    return build_model(config, features, TrainConfig(**train), BERT, NODE_SIZES, EDGE_SIZES)


@pytest.fixture(scope="module")
def batches():
    """The same six pairs padded, [6, 16], and packed, [3, 16]."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    tokens = np.random.default_rng(0).integers(1, 60, offsets[-1]).astype(np.int32)
    text = TextTable(tokens, offsets, np.zeros(len(LENGTHS), bool))
    mol = molecule_table(SMILES, "ogb", "none")[0]
    padded = declare_shapes(mol, (16,), len(SMILES))
    rows, shapes = np.arange(len(SMILES)), (padded, padded._replace(rows=(3, 6)))
    return [make_batch(rows, text, mol, rows, rows, s, 0) for s in shapes]


def test_three_rows_hold_what_six_did(batches):
    padded, packed = batches
    assert isinstance(packed.text.tokens, np.ndarray)
    assert padded.text.tokens.shape == (6, 16) and packed.text.tokens.shape == (3, 16)


@pytest.mark.slow("autodiff")
@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "backward"), [*((name, "autodiff") for name in MODELS), ("dual cls", "low_memory")]
)
def test_loss_and_gradients_are_those_of_padded_texts(name, backward, batches):
    model = model_of(name, backward=backward)
    params = jax.jit(model.init)(jax.random.key(0), batches[0])

    @jax.jit
    def loss(params, batch):
        def value(params):
            rngs = {"dropout": jax.random.key(2)}
            keys = jax.random.key(1), True
            found, _ = model.apply(
                params, batch, *keys, method="loss", rngs=rngs, mutable=[STATISTICS]
            )
            return found[0]

        return jax.value_and_grad(value)(params)

    (padded, by_padded), (packed, by_packed) = (loss(params, batch) for batch in batches)
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(by_packed), jax.tree.leaves(by_padded), strict=True
    ):
        scale = max(float(np.abs(theirs).max()), 1.0)  # some are zero but for rounding
        np.testing.assert_allclose(
            ours, theirs, atol=1e-5 * scale, rtol=0, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.costly
def test_words_are_where_padded_texts_have_them(batches):
    model = model_of("difftmr")
    params = jax.jit(model.init)(jax.random.key(0), batches[0])
    padded, packed = (model.apply(params, b.text, method="encode_text") for b in batches)
    assert np.array_equal(padded.mask, packed.mask)
    np.testing.assert_allclose(packed.tokens[packed.mask], padded.tokens[padded.mask], atol=1e-5)
    assert packed.tokens.shape == (6, 16, 8)


def test_a_text_reads_nothing_of_its_neighbours(batches):
    """Seen to fail with a mask of real places alone."""
    model, packed = model_of("dual mean"), batches[1].text
    params = jax.jit(model.init)(jax.random.key(0), batches[0])
    other = np.where(packed.text == 1, packed.tokens, (packed.tokens + 7) % 60)
    rows = [
        model.apply(params, packed._replace(tokens=jnp.asarray(t)), method="encode_text").pooled
        for t in (packed.tokens, other)
    ]
    np.testing.assert_array_equal(rows[0][1], rows[1][1])
    assert (np.abs(rows[0] - rows[1]).max(1) > 1e-3).sum() == 5


@pytest.mark.costly
def test_words_that_are_not_read_are_read_by_nobody(batches):
    """Of every text the first word alone is left: its state is that of a text of one word."""
    model = model_of("dual mean").clone(word_dropout=1.0)
    params = jax.jit(model.init)(jax.random.key(0), batches[0])
    rngs = {"dropout": jax.random.key(0)}
    found = [model.apply(params, b.text, True, method="encode_text", rngs=rngs) for b in batches]
    np.testing.assert_allclose(found[0].pooled, found[1].pooled, atol=1e-5)
    assert found[1].mask.sum(1).tolist() == [1] * 6
