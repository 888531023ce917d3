"""One step on one device, on eight under jit and under pmap, and in two processes: the same."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from tmr_jax.config import BankConfig, SecondOrderConfig, TextEncoderConfig, load_experiment
from tmr_jax.data import load_pairs
from tmr_jax.models.checkpoint import STATISTICS, new_state
from tmr_jax.models.run import init_params
from tmr_jax.train.dataset import model_and_dataset
from tmr_jax.train.loader import build_loader
from tmr_jax.train.step import compile_ahead, make_sharding, replicate

pytestmark = pytest.mark.costly

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")
SECOND = SecondOrderConfig(u2u=1.0, u2c=1.0)
MODELS = {
    "difftmr": {"name": "difftmr", "second_order": SECOND},
    "mbank": {"name": "mbank", "dim": 16, "second_order": SECOND, "bank": BankConfig(slots=5)},
    "own statistics": {
        "name": "mbank",
        "dim": 16,
        "bank": BankConfig(slots=5, first_order="info_nce", statistics="own"),
    },
}

CROSSING = ("difftmr", "mbank")  # what two processes are tried with


def experiment(model, texts="buckets"):
    """Without dropout, whose masks are drawn device by device."""
    config = load_experiment(TINY)
    text = TextEncoderConfig(config.model.text.source, init="random", dropout=0.0)
    graph = dataclasses.replace(config.model.graph, dropout=0.0)
    told = dataclasses.replace(config.model, text=text, graph=graph, **MODELS[model])
    train = dataclasses.replace(config.train, texts=texts, batch_size=16)
    return dataclasses.replace(config, model=told, train=train)


def one_step(model, devices, how, texts="buckets", chunk=0):
    """Metrics and parameters after steps whose updates are the gradients themselves."""
    config = experiment(model, texts)
    sharding = make_sharding(devices, how, 16, chunk)
    trained, data, _ = model_and_dataset(config, load_pairs(config.data), sharding.parts)
    pad, rows = trained.tokenizer.pad_token, data.composition.epoch(0, 0)
    one = data._replace(shards=1).batch(rows[0][: 16 // sharding.parts], pad)
    params = init_params(trained, one, 0)
    plain = optax.apply_if_finite(optax.sgd(1.0), 1)
    rivals = trained.model.adversary
    adversary = plain if rivals else None
    state = new_state(params, plain, frozenset(), adversary, rivals)
    feed = build_loader(data, trained.model, plain, frozenset(), adversary, pad, sharding)
    before, key = jax.device_get(params), replicate(jax.random.key(3), sharding)
    state, metrics, *_ = feed(replicate(state, sharding), rows[:1], key)
    return jax.device_get(metrics), jax.device_get(state.params), before


def assert_same(found, wanted):
    """Losses, and gradients to 1e-5 of the norm of all of them."""
    (metrics, after, before), (expected, goal, start) = found, wanted
    assert set(metrics) == set(expected)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected[name], 2e-5, 1e-6, err_msg=name)
    whole = np.sqrt(sum(float(np.square(a - b).sum()) for a, b in leaves(goal, start)))
    for (ours, began), (theirs, _) in zip(leaves(after, before), leaves(goal, start), strict=True):
        np.testing.assert_allclose(ours - began, theirs - began, atol=1e-5 * whole)
    if STATISTICS in goal:
        for ours, theirs in leaves(after[STATISTICS], goal[STATISTICS]):
            np.testing.assert_allclose(ours, theirs, 1e-5, 1e-6)


def leaves(one, other):
    return list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture(scope="module")
def alone():
    kept = {}

    def of(model, texts="buckets"):
        key = model, texts
        if key not in kept:
            kept[key] = one_step(model, jax.devices()[:1], "jit", texts)
        return kept[key]

    return of


@pytest.mark.slow("own", "pmap", "difftmr")
@pytest.mark.parametrize(
    ("model", "how"),
    [*((model, "jit") for model in MODELS), *((model, "pmap") for model in CROSSING)],
)
def test_eight_devices_do_what_one_does(model, how, alone):
    assert_same(one_step(model, jax.devices()[:8], how), alone(model))


@pytest.mark.slow("packed")
@pytest.mark.parametrize(("devices", "texts"), [(1, "buckets"), (2, "packed")])
def test_chunks_are_the_whole_batch(devices, texts, alone):
    """Embeddings chunk by chunk, then the loss of all, then gradients chunk by chunk."""
    found = one_step("difftmr", jax.devices()[:devices], "jit", texts, chunk=4)
    assert_same(found, alone("difftmr", texts))


@pytest.mark.slow
def test_packed_texts_too(alone):
    found = one_step("difftmr", jax.devices()[:4], "pmap", "packed")
    assert_same(found, alone("difftmr", "packed"))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder with what two processes of four devices each have found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=4"
    script = str(Path(__file__).parent / "parallel_process.py")
    started = [
        subprocess.Popen(
            [sys.executable, script, address, "2", str(number), str(folder), *CROSSING],
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["jit", "pmap"])
@pytest.mark.parametrize("model", CROSSING)
def test_two_processes_of_four_devices_do_what_one_device_does(model, how, two_processes, alone):
    wanted = alone(model)
    with np.load(two_processes / f"{model}-{how}.npz") as file:
        found = [file[f"arr_{i}"] for i in range(len(file.files))]
    assert_same(jax.tree.unflatten(jax.tree.structure(wanted), found), wanted)


def test_a_batch_that_devices_cannot_share_is_said():
    said = r"--train\.batch-size that 8 devices share evenly; got 12"
    with pytest.raises(ValueError, match=said):
        make_sharding(jax.devices()[:8], "jit", 12)
    with pytest.raises(ValueError, match=r"--train\.chunk that divides the 8 pairs .*; got 3"):
        make_sharding(jax.devices()[:2], "jit", 16, chunk=3)
    assert make_sharding(jax.devices()[:1], "pmap", 12).parts == 1


def test_every_device_has_the_pairs_of_its_own_place(alone):
    """The order of the samples is that of one device."""
    config = experiment("difftmr")
    pairs = load_pairs(config.data)
    whole, cut = (model_and_dataset(config, pairs, n)[1] for n in (1, 4))
    rows = whole.composition.epoch(0, 0)[0]
    np.testing.assert_array_equal(rows, cut.composition.epoch(0, 0)[0])
    one, four = (data.batch(rows, 0) for data in (whole, cut))
    length = min(x.text.tokens.shape[1] for x in (one, four))
    np.testing.assert_array_equal(one.text.tokens[:, :length], four.text.tokens[:, :length])
    np.testing.assert_array_equal(one.mol_group, four.mol_group)
    counts = np.asarray(four.mol.graph.n_node).reshape(4, 5)
    np.testing.assert_array_equal(counts[:, :4].reshape(-1), one.mol.graph.n_node[:16])
    assert len(set(counts.sum(1))) == 1


class _Lowered:
    """Stands for a step lowered for a TPU whose compiler knows some options."""

    def __init__(self, known: set[str], error: str = "") -> None:
        self.known, self.error, self.tried = known, error, []

    def compile(self, options: dict[str, str] | None = None):
        self.tried.append(options)
        if self.error:
            raise jax.errors.JaxRuntimeError(self.error)
        if set(options or {}) - self.known:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'x'")
        return "program"


def test_a_step_for_a_tpu_shares_code_where_its_compiler_can():
    option = {"xla_tpu_enable_deduplicated_calls": "true"}
    for known, backend, tried in (
        (set(option), "tpu", [option]),
        (set(), "tpu", [option, None]),
        (set(option), "cpu", [None]),
    ):
        lowered = _Lowered(known)
        assert compile_ahead(lowered, backend) == "program"
        assert lowered.tried == tried
    full = _Lowered(set(option), "RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_ahead(full, "tpu")
    assert full.tried == [option]
