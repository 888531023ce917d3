"""A small Memory Bank trained on a frozen text encoder, and what its report says of the slots."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tmr_jax.eval.analysis import bank_record, first_params, slot_sharpness
from tmr_jax.models.checkpoint import restore_params
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_model
from tmr_jax.train.__main__ import main
from tmr_jax.types import EncodedCorpus

pytestmark = pytest.mark.slow  # all want the run

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")
SLOTS = 4
WORDS = (
    f"--exp {TINY} --train.epochs 2 --model.name mbank --model.bank.slots {SLOTS} "
    "--train.freeze text --model.second-order.u2u 1 --model.second-order.u2c 1"
)
TEXTS, SMILES = ["an alcohol", "a ring of six carbons"], ["CCO", "c1ccccc1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mbank") / "run"
    assert main([*WORDS.split(), "--run", str(folder)]) == 0
    return folder


def test_a_frozen_text_encoder_stays_and_all_else_learns(run):
    """Its weights are those that the seed gives; critic, bank and head moved."""
    trained, params = load_model(run), restore_params(run, "newest")[0]
    before = first_params(trained)
    jax.tree.map(np.testing.assert_array_equal, before["text_encoder"], params["text_encoder"])
    for name in ("critic", "memory", "head", "graph_encoder", "text_projection", "batch_stats"):
        pairs = zip(*(jax.tree.leaves(p[name]) for p in (before, params)), strict=True)
        assert max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs) > 0, name


def test_the_record_of_the_slots(run):
    trained, params = load_model(run), restore_params(run, "newest")[0]
    assert trained.model.memory_slots == SLOTS
    encoder = Encoder(trained, params, parts=True)
    text, mol = encoder.texts(TEXTS).side, encoder.molecules(SMILES)[0].side
    assert text is not None and mol is not None
    record = bank_record(trained, params, text, mol)
    assert len(record["moved"]) == SLOTS and max(record["moved"]) > 0
    start = np.linalg.norm(first_params(trained)["memory"]["bank"], axis=1)
    np.testing.assert_allclose(record["norm_start"], start, rtol=1e-6)
    assert start[0] == 0  # a side effect of the released code
    both = np.mean([record["sharpness_text"], record["sharpness_mol"]], 0)
    np.testing.assert_allclose(record["sharpness"], both, rtol=1e-6)
    assert (both > 0).all() and (both < 1).all()


def test_an_item_with_equal_parts_is_read_evenly(run):
    trained, params = load_model(run), restore_params(run, "newest")[0]
    parts = np.ones((6, trained.config.model.dim), np.float32)
    side = EncodedCorpus(parts[:2], parts, np.array([0, 2, 6]), np.arange(2))
    np.testing.assert_allclose(slot_sharpness(trained, params, side), np.zeros(SLOTS), atol=1e-5)


def test_states_in_the_place_of_ids_change_no_embedding(run, monkeypatch, tmp_path):
    """Few texts are read by BERT, many through its kept states: the same rows either way."""
    trained, params = load_model(run), restore_params(run, "newest")[0]
    plain = Encoder(trained, params).texts(TEXTS).rows
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr("tmr_jax.models.encode.CACHE_FROM", 1)
    np.testing.assert_allclose(Encoder(trained, params).texts(TEXTS).rows, plain, atol=1e-5)
    assert len(list(tmp_path.glob("states-*.npy"))) == 1
