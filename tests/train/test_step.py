"""The step knows the contract only: any module with such a `loss` trains."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.config import OptimConfig
from tmr_jax.models.checkpoint import evaluated, new_state
from tmr_jax.train.optim import build_optimizer
from tmr_jax.train.step import make_train_step
from tmr_jax.types import Batch, MolBatch, TextBatch

BOUND = 2.5  # of the weights, below the tokens' 3


class Fake(nn.Module):
    """Loss: mean of (weight - tokens)^2 with noise; a text_group of 0 makes it infinite."""

    adversary = frozenset()

    def encode(self, batch, train):
        tokens = batch.text.tokens.astype(jnp.float32)
        if train:
            tokens += 1e-2 * jax.random.bernoulli(self.make_rng("dropout"), shape=tokens.shape)
        return batch._replace(text=batch.text._replace(tokens=tokens))

    @nn.compact
    def loss(self, batch, key, train):
        weight = self.param("weight", nn.initializers.zeros, (3,))
        noise = 1e-2 * jax.random.normal(key)
        target = batch.text.tokens.mean()
        value = ((weight + noise - target) ** 2).mean() / batch.text_group[0]
        return value, {"loss/first": weight[0]}

    @staticmethod
    def bounded(params):
        return {**params, "weight": jnp.minimum(params["weight"], BOUND)}


def batch(length=4, group=1):
    """The fake needs no graph, and the step does not look."""
    return Batch(
        TextBatch(np.full((2, length), 3, np.int32), np.ones((2, length), bool)),
        MolBatch(jnp.zeros(2), np.zeros(2, np.int32)),  # type: ignore[arg-type]
        np.full(2, group, np.int32),
        np.arange(2, dtype=np.int32),
    )


def setup(shapes=1, ema=0.0):
    model = Fake()
    params = {"weight": jnp.zeros(3)}
    optimizer = build_optimizer(OptimConfig(base_lr=0.1, warmup=0), 1000, params, {})
    state = new_state(params, optimizer, averaged=ema > 0)
    return make_train_step(model, optimizer, shapes, ema=ema), state


def test_the_loss_falls_and_its_parts_are_reported():
    step, state = setup()
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch(), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert set(metrics) == {"loss", "loss/first", "grad_norm", "skipped", "skipped_in_a_row"}
    assert int(state.step) == 60


def test_the_key_of_a_step_follows_from_seed_and_step():
    step, state = setup()
    first, one = step(jax.tree.map(jnp.copy, state), batch(), jax.random.key(0))
    _, again = step(jax.tree.map(jnp.copy, state), batch(), jax.random.key(0))
    late = jax.tree.map(jnp.copy, state._replace(step=jnp.int32(7)))
    _, later = step(late, batch(), jax.random.key(0))
    _, other = step(jax.tree.map(jnp.copy, state), batch(), jax.random.key(1))
    assert float(one["loss"]) == float(again["loss"])
    assert len({float(m["loss"]) for m in (one, later, other)}) == 3
    assert int(first.step) == 1


def test_a_loss_that_is_no_number_leaves_the_parameters_alone():
    step, state = setup()
    state, _ = step(state, batch(), jax.random.key(0))
    before = np.asarray(state.params["weight"]).copy()
    state, metrics = step(state, batch(group=0), jax.random.key(0))
    assert not np.isfinite(metrics["loss"])
    assert int(metrics["skipped_in_a_row"]) == 1
    np.testing.assert_array_equal(state.params["weight"], before)
    assert int(state.step) == 2
    state, metrics = step(state, batch(), jax.random.key(0))
    assert (int(metrics["skipped_in_a_row"]), int(metrics["skipped"])) == (0, 1)
    assert (np.asarray(state.params["weight"]) != before).any()


def test_parameters_after_an_update_are_those_that_the_model_allows():
    step, state = setup()
    for _ in range(60):
        state, metrics = step(state, batch(), jax.random.key(0))
    np.testing.assert_array_equal(state.params["weight"], BOUND)
    assert float(metrics["grad_norm"]) > 0.1  # it would go on


def test_a_shape_too_many_is_an_error():
    chex.clear_trace_counter()
    step, state = setup(shapes=2)
    for length in (4, 5, 4, 5):
        state, _ = step(state, batch(length), jax.random.key(0))
    with pytest.raises(AssertionError, match="traced"):
        step(state, batch(6), jax.random.key(0))


def test_the_state_is_taken_over():
    step, state = setup()
    step(state, batch(), jax.random.key(0))
    assert state.params["weight"].is_deleted()


def test_an_average_follows_the_parameters():
    step, state = setup(ema=0.5)
    wanted = np.zeros(3)
    for decay in (1 / 10, 2 / 11, 3 / 12, 4 / 13):
        state, _ = step(state, batch(), jax.random.key(0))
        wanted = decay * wanted + (1 - decay) * np.asarray(state.params["weight"])
        np.testing.assert_allclose(state.average["weight"], wanted, rtol=1e-6)
    assert (evaluated(state)["weight"] != state.params["weight"]).all()
    assert evaluated(state._replace(average=())) is state.params
