"""What teachers say of the training pairs: their own cosines, their mean, and of which pairs."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tiny_pairs import PAIRS, TINY, with_section
from tmr_jax.data import load_pairs
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import init_params, load_run
from tmr_jax.train.dataset import model_and_dataset
from tmr_jax.train.directory import _check
from tmr_jax.train.teachers import joined, taught_by


def test_products_of_joined_rows_are_the_mean_of_all_cosines():
    random = np.random.default_rng(0)
    sides = [{n: random.normal(size=(5, d)) / 3 for n in ("text", "mol")} for d in (3, 7)]
    found = joined(sides)
    wanted = np.mean([side["text"] @ side["mol"].T for side in sides], 0)
    np.testing.assert_allclose(found.text @ found.mol.T, wanted, atol=5e-3)


def test_a_teacher_is_a_run_as_it_encodes(tiny_run):
    texts, smiles = [p.text for p in PAIRS[:3]], [p.smiles for p in PAIRS[:3]]
    taught, record = taught_by([tiny_run], TINY.data, texts, smiles)
    model, params, checkpoint = load_run(tiny_run)
    encoder = Encoder(model, params)
    np.testing.assert_allclose(taught.text, encoder.texts(texts).rows, atol=1e-3)
    np.testing.assert_allclose(taught.mol, encoder.molecules(smiles)[0].rows, atol=1e-3)
    assert record == {"teacher_0": checkpoint.sha256}


def test_a_teacher_of_other_pairs_is_refused(tiny_run):
    other = dataclasses.replace(TINY.data, seed=1)
    with pytest.raises(ValueError, match="trained on the data of this run"):
        taught_by([tiny_run], other, ["a"], ["C"])


def test_a_second_stage_takes_no_teachers():
    with pytest.raises(ValueError, match="a single stage"):
        _check(with_section("train", teachers=("runs/a",), start="runs/b"))


def test_a_batch_brings_what_its_teachers_say_and_the_loss_reads_it(tiny_run):
    config = with_section("train", teachers=(str(tiny_run),) * 2)
    model, data, _ = model_and_dataset(config, load_pairs(config.data))
    assert {n for n in model.weights if n.startswith("teacher")} == {"teacher_0", "teacher_1"}
    rows = np.array([5, 2, 7, 0])
    batch = data.batch(rows, 0)
    assert batch.taught is not None and data.taught is not None
    np.testing.assert_array_equal(batch.taught.text, data.taught.text[rows])
    params = variables(init_params(model, batch, 0))

    @jax.jit
    def loss(batch):
        return model.model.apply(params, batch, jax.random.key(0), False, method="loss")

    total, parts = loss(batch)
    plain, others = loss(batch._replace(taught=None))
    assert parts["loss/taught"] > 0 and "loss/taught" not in others
    np.testing.assert_allclose(total, plain + parts["loss/taught"], rtol=1e-5)
