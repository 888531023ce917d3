"""What a training step reads and replaces, and nothing else: all of it is saved."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


class TrainState(NamedTuple):
    """Batches and random keys follow from (seed, step), so they are no part of it."""

    step: Int[Array, ""]  # how many steps are done
    params: Any  # nested dict of float32 arrays
    optimizer: optax.OptState


def new_state(
    params: Any, optimizer: optax.GradientTransformation, frozen: frozenset[str] = frozenset()
) -> TrainState:
    """The state before the first step; the optimizer does not see the parameters `frozen`."""
    trained = {name: p for name, p in params.items() if name not in frozen}
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained))
