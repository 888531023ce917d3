"""One training step of any model that meets the contract: loss, gradients, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from tmr_jax.models.state import STATISTICS, TrainState, only, variables, without
from tmr_jax.train.optim import norm_of, skipped
from tmr_jax.train.parallel import WHOLE, Spread, averaged, compiled, encoder_of, shared_out
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
    spread: Spread = WHOLE,
) -> Step:
    """`train_step`, compiled; once for each of `shapes` batch shapes, no more.

    It takes over (donates) the state it is given.
    """
    step = train_step(model, optimizer, frozen, adversary, spread)
    # chex counts by the function's name, and a second stage has a step of its own.
    chex.clear_trace_counter()
    return compiled(chex.assert_max_traces(step, n=shapes), spread, (False, True, False))


def make_train_call(
    step: Step, take: Callable[..., Batch], shapes: int, spread: Spread = WHOLE
) -> Call:
    """Several steps in one compiled call: (state, tables, chosen [steps, ...], key, size).

    `take(tables, chosen, size)` makes the batch of one step on the device. Compiled once for each
    of `shapes` pairs of a size and a number of steps, no more. It takes over (donates) the state;
    metrics come as arrays [steps].
    """

    def call(
        state: TrainState, tables: Any, chosen: Any, key: Key[Array, ""], size: Any
    ) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, chosen: Any) -> tuple[TrainState, Metrics]:
            made = shared_out(lambda tables, chosen: take(tables, chosen, size), spread)
            return step(state, made(tables, chosen), key)

        return jax.lax.scan(one, state, chosen)

    chex.clear_trace_counter()
    guarded = chex.assert_max_traces(call, n=shapes)
    return compiled(guarded, spread, (False, False, True, False, False), (4,))


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    spread: Spread = WHOLE,
) -> Step:
    """One step as a function to be compiled.

    Parameters below the names `frozen` are left as they are, and the optimizer knows none of them.
    Those that the model names in `model.adversary` have the optimizer `adversary`: they step first,
    on the detached features of the batch, and the model's own loss then sees them as they became.

    The key is that of the run: the step folds its own number into it. Metrics are scalars on the
    device: the model's own, `grad_norm`, `skipped` (updates left out up to now) and
    `skipped_in_a_row`.
    """
    rivals: frozenset[str] = model.adversary
    assert bool(rivals) == (adversary is not None), "an adversary and its optimizer come together"
    encode = encoder_of(model, spread)
    if spread.mesh is not None and spread.how == "jit":
        model = model.clone(kernels=False)  # XLA spreads the losses, and cannot cut a kernel

    def step(state: TrainState, batch: AnyBatch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        for_loss, for_dropout = jax.random.split(jax.random.fold_in(key, state.step))
        kept = frozen | rivals | {STATISTICS}
        fixed = only(state.params, kept)

        def apply(params: Any, *arguments: Any, method: str) -> Any:
            return model.apply(variables(params), *arguments, method=method)

        def loss(trained: Any) -> tuple[Array, tuple[Metrics, Any, Any]]:
            params = {**fixed, **trained}
            encoded, moved = encode(params, batch, for_dropout)
            rival, rival_state, more = {}, state.adversary, {}
            if adversary is not None:
                rival, rival_state, more = oppose(params, encoded)
            value, metrics = apply({**params, **rival}, encoded, for_loss, True, method="loss")
            return value, (metrics | more, {**moved, **rival}, rival_state)

        def oppose(params: Any, encoded: Any) -> tuple[Any, Any, Metrics]:
            """The adversary's step: its parameters and state after it."""
            assert adversary is not None
            params, encoded = jax.lax.stop_gradient((params, encoded))
            own = only(params, rivals)

            def loss(own: Any) -> tuple[Array, Metrics]:
                for_rival = jax.random.fold_in(for_loss, 1)
                return apply({**params, **own}, encoded, for_rival, method="adversary_loss")

            (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(own)
            updates, new = adversary.update(gradients, state.adversary, own)
            return optax.apply_updates(own, updates), new, metrics

        trained = without(state.params, kept)
        found, gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        value, (metrics, moved, rival_state) = found
        gradients = averaged(gradients, spread)
        # A loss that is no number must not train, whatever its gradients are.
        sound = jnp.isfinite(value)
        update = optax.with_extra_args_support(optimizer).update
        updates, optimizer_state = update(gradients, state.optimizer, trained, sound=sound)
        params: Any = model.bounded(optax.apply_updates(trained, updates))
        # Nor may it leave its traces in the statistics, or in the rival.
        moved, rival_state = jax.tree.map(
            lambda new, old: jnp.where(sound, new, old),
            (moved, rival_state),
            (only(state.params, frozenset(moved)), state.adversary),
        )
        in_a_row, in_all = skipped(optimizer_state)
        extra = {
            "loss": value,
            "grad_norm": jnp.where(sound, norm_of(gradients), jnp.nan),
            "skipped": in_all,
            "skipped_in_a_row": in_a_row,
        }
        after = TrainState(
            state.step + 1, {**fixed, **params, **moved}, optimizer_state, rival_state
        )
        return after, {**metrics, **extra}

    return step
