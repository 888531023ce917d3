"""One training step of any model that meets the contract: loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from tmr_jax.models.checkpoint import STATISTICS, TrainState, only, variables, without
from tmr_jax.train.optim import norm_of, skipped
from tmr_jax.train.parallel import (
    SINGLE_DEVICE,
    Sharding,
    compile_step,
    mean_gradients,
    on_shards,
    sharded_encoder,
)
from tmr_jax.types import Batch, EncodedBatch

Metrics = dict[str, Array]
AnyBatch = Batch | EncodedBatch
Step = Callable[[TrainState, AnyBatch, Key[Array, ""]], tuple[TrainState, Metrics]]
Call = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shapes: int,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    sharding: Sharding = SINGLE_DEVICE,
) -> Step:
    """`train_step`, compiled at most once for each of `shapes` batch shapes; donates its state."""
    step = train_step(model, optimizer, frozen, adversary, sharding)
    # chex counts by the function's name, and a second stage has a step of its own.
    chex.clear_trace_counter()
    return compile_step(chex.assert_max_traces(step, n=shapes), sharding, (False, True, False))


def make_train_call(
    step: Step, take: Callable[..., Batch], shapes: int, sharding: Sharding = SINGLE_DEVICE
) -> Call:
    """Several steps in one compiled call: (state, tables, chosen [steps, ...], key, size).

    `take(tables, chosen, size)` makes the batch of one step on the device. It is compiled at most
    once for each of `shapes` pairs of a size and a number of steps, and donates the state; metrics
    are arrays [steps].
    """

    def call(
        state: TrainState, tables: Any, chosen: Any, key: Key[Array, ""], size: Any
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, chosen: Any) -> tuple[TrainState, Metrics]:
            batch = on_shards(lambda tables, chosen: take(tables, chosen, size), sharding)
            return step(state, batch(tables, chosen), key)

        return jax.lax.scan(one, state, chosen)

    chex.clear_trace_counter()
    guarded = chex.assert_max_traces(call, n=shapes)
    return compile_step(guarded, sharding, (False, False, True, False, False), (4,))


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    sharding: Sharding = SINGLE_DEVICE,
) -> Step:
    """One step as a function to be compiled.

    Parameters below the names `frozen` do not change, and the optimizer has no state for them.
    Those that the model names in `model.adversary` belong to the optimizer `adversary`: they step
    first, on the detached features of the batch, and the model's own loss reads their new values.

    The key is that of the run: the step folds its own number into it. Metrics are scalars on the
    device: the model's own, `loss`, `grad_norm`, `skipped` (updates skipped so far) and
    `skipped_in_a_row`.
    """
    critic_names: frozenset[str] = model.adversary
    assert bool(critic_names) == (adversary is not None), "an adversary has an optimizer"
    encode = sharded_encoder(model, sharding)
    if sharding.mesh is not None and sharding.how == "jit":
        model = model.clone(kernels=False)  # XLA shards the losses, and cannot cut a kernel
    untrained = frozen | critic_names | {STATISTICS}

    def step(state: TrainState, batch: AnyBatch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        loss_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        fixed, trained = only(state.params, untrained), without(state.params, untrained)

        def loss(trained: Any) -> tuple[Array, tuple[Metrics, _Moved]]:
            params = {**fixed, **trained}
            encoded, statistics = encode(params, batch, dropout_key)
            critic, critic_state, critic_metrics = {}, state.adversary, {}
            if adversary is not None:
                critic, critic_state, critic_metrics = _critic_step(
                    model, adversary, critic_names, params, encoded, state.adversary, loss_key
                )
            value, metrics = _apply(model, {**params, **critic}, encoded, loss_key, True, of="loss")
            moved = _Moved({**statistics, **critic}, critic_state)
            return value, (metrics | critic_metrics, moved)

        (value, (metrics, moved)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        gradients = mean_gradients(gradients, sharding)
        # A loss that is not finite must not train, whatever its gradients are.
        sound = jnp.isfinite(value)
        update = optax.with_extra_args_support(optimizer).update
        updates, optimizer_state = update(gradients, state.optimizer, trained, sound=sound)
        params: Any = model.bounded(optax.apply_updates(trained, updates))
        moved = _kept_if(sound, moved, state)
        in_a_row, in_all = skipped(optimizer_state)
        metrics |= {
            "loss": value,
            "grad_norm": jnp.where(sound, norm_of(gradients), jnp.nan),
            "skipped": in_all,
            "skipped_in_a_row": in_a_row,
        }
        params = {**fixed, **params, **moved.params}
        return TrainState(state.step + 1, params, optimizer_state, moved.adversary), metrics

    return step


class _Moved(NamedTuple):
    """What a step replaces that the optimizer does not."""

    params: Any  # statistics, and the parameters of the adversary
    adversary: optax.OptState


def _apply(model: nn.Module, params: Any, *arguments: Any, of: str) -> Any:
    return model.apply(variables(params), *arguments, method=of)


def _critic_step(
    model: nn.Module,
    adversary: optax.GradientTransformation,
    names: frozenset[str],
    params: Any,
    encoded: Any,
    state: optax.OptState,
    loss_key: Key[Array, ""],
) -> tuple[Any, optax.OptState, Metrics]:
    """The adversary's parameters and state after its step on detached features, and its metrics."""
    params, encoded = jax.lax.stop_gradient((params, encoded))
    critic = only(params, names)

    def loss(critic: Any) -> tuple[Array, Metrics]:
        key = jax.random.fold_in(loss_key, 1)
        return _apply(model, {**params, **critic}, encoded, key, of="adversary_loss")

    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(critic)
    updates, state = adversary.update(gradients, state, critic)
    return optax.apply_updates(critic, updates), state, metrics


def _kept_if(sound: Array, moved: _Moved, state: TrainState) -> _Moved:
    """`moved` where the loss is finite: else statistics and adversary stay as they were."""
    before = _Moved(only(state.params, frozenset(moved.params)), state.adversary)
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, before)
