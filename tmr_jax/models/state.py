"""The state that a training step reads and replaces; all of it is saved."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from tmr_jax.models.layers.bert import by_layer, stacked

STATISTICS = "batch_stats"  # Linen's name for the running statistics of BatchNorm
TEXT_ENCODER = "text_encoder"


class TrainState(NamedTuple):
    """Batches and random keys follow from (seed, step), so they are not in it."""

    step: Int[Array, ""]  # steps done
    # Nested dict of float32 arrays. Running statistics are kept with the parameters, below
    # STATISTICS, so that they are never separated.
    params: Any
    optimizer: optax.OptState
    adversary: optax.OptState = ()  # of the parameters with their own loss


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    critic: frozenset[str] = frozenset(),
) -> TrainState:
    """The state before the first step. The optimizer has no state for the parameters `frozen`, nor
    for those of the `critic`, which belong to the optimizer `adversary`."""
    first = optimizer.init(without(params, frozen | critic | {STATISTICS}))
    second = () if adversary is None else adversary.init(only(params, critic))
    return TrainState(jnp.zeros((), jnp.int32), params, first, second)


def variables(params: Any) -> dict[str, Any]:
    """The collections of `TrainState.params`, as a Linen module is applied to them."""
    collections = {"params": without(params, frozenset({STATISTICS}))}
    return collections | only(params, frozenset({STATISTICS}))


def joined(variables: Any) -> Any:
    """The inverse: parameters together with the statistics, if there are any."""
    return {**variables["params"], **only(variables, frozenset({STATISTICS}))}


def without(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name not in names}


def only(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name in names}


def layerwise(params: Any) -> dict[str, Any]:
    """Parameters with BERT's layers separate, as in checkpoints and hashes."""
    return {n: by_layer(p) if n == TEXT_ENCODER else p for n, p in by_layer(params).items()}


def scanned(params: Any) -> dict[str, Any]:
    """The inverse: BERT's layers stacked, as in the model."""
    return {n: stacked(p) if n == TEXT_ENCODER else p for n, p in stacked(params).items()}


def parameters_sha256(params: Any) -> str:
    """SHA-256 of all parameters by name: it does not depend on how files pack them."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(layerwise(params)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
