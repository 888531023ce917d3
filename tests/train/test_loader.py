"""Packed batches made on the host and taken on the device, one or several a call: the same run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from tmr_jax.config import load_experiment
from tmr_jax.data import load_pairs
from tmr_jax.models.checkpoint import new_state, restore_params
from tmr_jax.models.run import init_params
from tmr_jax.train import loader as feed
from tmr_jax.train.__main__ import main
from tmr_jax.train.dataset import model_and_dataset
from tmr_jax.train.loader import DeviceLoader, HostLoader, build_loader
from tmr_jax.train.step import Sharding, make_train_step, train_step
from tmr_jax.train.two_stage import model_and_features

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")


@pytest.fixture(scope="module")
def packed():
    """TrainedModel, training set and three batches of the tiny experiment, its texts packed."""
    config = load_experiment(TINY)
    train = dataclasses.replace(config.train, texts="packed")
    text = dataclasses.replace(config.model.text, dropout=0.0)
    config = dataclasses.replace(
        config, train=train, model=dataclasses.replace(config.model, text=text)
    )
    trained, data, _ = model_and_dataset(config, load_pairs(config.data))
    return trained, data, data.composition.epoch(0, 0)[:3]


def steps_of(packed, feed_class, lengths):
    """Metrics and parameters after the three steps in calls of `lengths`."""
    trained, data, rows = packed
    optimizer = optax.apply_if_finite(optax.adam(1e-3), 1)
    pad = trained.tokenizer.pad_token
    if feed_class is HostLoader:
        one = make_train_step(trained.model, optimizer, data.shapes.count)
        advance = HostLoader(data, one, pad)
    else:
        step = train_step(trained.model, optimizer)
        advance = DeviceLoader(data, step, pad, max(lengths))
    state = new_state(init_params(trained, data.batch(rows[0], pad), 0), optimizer)
    found, done = [], 0
    for length in lengths:
        answer = advance(state, rows[done : done + length], jax.random.key(0))
        state, metrics = answer.state, answer.metrics
        assert len(metrics["loss"]) == length and "tokens" in answer.shape
        assert answer.work.pairs == rows[done : done + length].size
        found += metrics["loss"].tolist()
        done += length
    return found, state.params


@pytest.mark.slow
def test_host_and_device_take_the_same_steps(packed):
    assert packed[1].shapes.rows  # texts are packed
    wanted, parameters = steps_of(packed, HostLoader, [1, 1, 1])
    for lengths in ([1, 1, 1], [2, 1]):
        found, other = steps_of(packed, DeviceLoader, lengths)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(parameters), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.costly
def test_operations_of_a_step_do_not_depend_on_how_many_a_call_has(packed):
    trained, data, rows = packed
    optimizer = optax.apply_if_finite(optax.adam(1e-3), 1)
    step = train_step(trained.model, optimizer)
    found = []
    for count in (1, 3):
        feed_of_one = DeviceLoader(data, step, 0, count, trained.bert)
        state = new_state(init_params(trained, data.batch(rows[0], 0), 0), optimizer)
        answer = feed_of_one(state, rows[:count], jax.random.key(0))
        assert answer.compiled is not None and answer.work.steps == count
        found.append(answer.work.xla / count)
    assert found[0] > answer.work.text / 3 > 0
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_what_cannot_be_packed_is_fed_by_the_host(packed):
    trained, data, _ = packed
    optimizer = optax.apply_if_finite(optax.adam(1e-3), 1)
    how = (trained.model, optimizer, frozenset(), None, 0)
    assert isinstance(build_loader(data, *how), DeviceLoader)
    padded = data._replace(composition=data.composition._replace(row=0))
    assert isinstance(build_loader(padded, *how), HostLoader)


def losses(run: Path) -> dict[int, float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_a_run_of_calls_of_five_steps_is_that_of_single_steps(tmp_path, monkeypatch, capsys):
    """Eight steps an epoch and a save every seven: calls of five never cross either."""
    words = ["--exp", TINY, "--train.texts", "packed", "--train.epochs", "2"]
    words += ["--train.save-every", "7"]
    runs = []
    for per_call in (1, 5):
        monkeypatch.setattr(feed, "steps_per_call", lambda n=per_call: n)
        runs.append(tmp_path / str(per_call))
        assert main([*words, "--run", str(runs[-1])]) == 0
    assert "compiled for 5 steps of" in capsys.readouterr().out
    single, several = map(losses, runs)
    assert list(several) == list(range(1, 17)) == list(single)
    np.testing.assert_allclose(list(several.values()), list(single.values()), rtol=1e-4)
    ours, theirs = (restore_params(run, "newest")[0] for run in runs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("other", ["--train.alike 2", "--train.freeze text"])
def test_what_cannot_go_with_packed_texts_is_said(other, tmp_path, capfd):
    words = ["--exp", TINY, "--train.texts", "packed", *other.split()]
    assert main([*words, "--run", str(tmp_path / "run")]) == 2
    said = f"expected --train.texts buckets with {other.removesuffix(' 2')}"
    assert said in capfd.readouterr().err


def test_a_second_stage_takes_no_packed_texts(packed, tmp_path):
    with pytest.raises(ValueError, match="buckets in the second of two stages"):
        model_and_features(packed[0].config, [], tmp_path)


def test_what_cannot_be_compiled_ahead_counts_the_first_call_of_each_shape(monkeypatch):
    """pmap over several processes: a report that says 0 programs would be wrong."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    programs = feed.Programs(lambda x: x + 1, Sharding("pmap", None))
    first, again, other = (programs(shape, 1) for shape in ("a", "a", "b"))
    assert [found[0] for found in (first, again, other)] == [2, 2, 2]
    assert first[2] is not None and again[2] is None and other[2] is not None
