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

from tmr_jax.training.optim import skipped
from tmr_jax.training.state import TrainState
from tmr_jax.types import Batch, EncodedBatch

Metrics = dict[str, Array]
AnyBatch = Batch | EncodedBatch
Step = Callable[[TrainState, AnyBatch, Key[Array, ""]], tuple[TrainState, Metrics]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shapes: int,
    frozen: frozenset[str] = frozenset(),
) -> Step:
    """The compiled step; it may be compiled once for each of `shapes` batch shapes, no more.

    Parameters below the names `frozen` are left as they are, and the optimizer knows none of them.

    It takes over (donates) the state it is given. The key is that of the run: the step folds its
    own number into it. Metrics are scalars on the device: the model's own, `grad_norm`,
    `skipped` (updates left out up to now) and `skipped_in_a_row`.
    """

    def step(
        state: TrainState, batch: Batch | EncodedBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        for_loss, for_dropout = jax.random.split(jax.random.fold_in(key, state.step))

        fixed = {name: state.params[name] for name in frozen}
        trained = {name: p for name, p in state.params.items() if name not in frozen}

        def loss(params: Any) -> tuple[Array, Metrics]:
            variables = {"params": {**fixed, **params}}
            rngs = {"dropout": for_dropout}
            found: Any = model.apply(variables, batch, for_loss, True, method="loss", rngs=rngs)
            return found

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        # A loss that is no number must not train, whatever its gradients are.
        gradients = jax.tree.map(lambda g: jnp.where(jnp.isfinite(value), g, jnp.nan), gradients)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, trained)
        params: Any = optax.apply_updates(trained, updates)
        in_a_row, in_all = skipped(optimizer_state)
        extra = {
            "loss": value,
            "grad_norm": jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients))),
            "skipped": in_all,
            "skipped_in_a_row": in_a_row,
        }
        return TrainState(state.step + 1, {**fixed, **params}, optimizer_state), {
            **metrics,
            **extra,
        }

    # chex counts by the function's name, and a second stage has a step of its own.
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(step, n=shapes), donate_argnums=0)
