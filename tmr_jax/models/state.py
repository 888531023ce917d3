"""What a training step reads and replaces, and nothing else: all of it is saved."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from tmr_jax.models.layers.bert import by_layer, stacked

STATISTICS = "batch_stats"  # Linen's name for what BatchNorm keeps
TEXT_ENCODER = "text_encoder"


class TrainState(NamedTuple):
    """Batches and random keys follow from (seed, step), so they are no part of it."""

    step: Int[Array, ""]  # how many steps are done
    # Nested dict of float32 arrays. Running statistics stand beside the parameters, below
    # STATISTICS, so that whoever has the one has the other.
    params: Any
    optimizer: optax.OptState
    adversary: optax.OptState = ()  # of the parameters with a loss of their own


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str] = frozenset(),
    adversary: optax.GradientTransformation | None = None,
    rivals: frozenset[str] = frozenset(),
) -> TrainState:
    """The state before the first step; the optimizer does not see the parameters `frozen`, nor
    those of the `rivals`, which are the adversary's."""
    first = optimizer.init(without(params, frozen | rivals | {STATISTICS}))
    second = () if adversary is None else adversary.init(only(params, rivals))
    return TrainState(jnp.zeros((), jnp.int32), params, first, second)


def variables(params: Any) -> dict[str, Any]:
    """What a Linen module is applied to: the collections that `TrainState.params` holds."""
    found = {"params": without(params, frozenset({STATISTICS}))}
    return found | only(params, frozenset({STATISTICS}))


def joined(variables: Any) -> Any:
    """The inverse: parameters with the statistics, if there are any, beside them."""
    return {**variables["params"], **only(variables, frozenset({STATISTICS}))}


def without(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name not in names}


def only(params: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: p for name, p in params.items() if name in names}


def layerwise(params: Any) -> dict[str, Any]:
    """Parameters with those of BERT layer by layer: as checkpoints and hashes know them."""
    return {n: by_layer(p) if n == TEXT_ENCODER else p for n, p in by_layer(params).items()}


def scanned(params: Any) -> dict[str, Any]:
    """The inverse: BERT's layers as one, as the model has them."""
    return {n: stacked(p) if n == TEXT_ENCODER else p for n, p in stacked(params).items()}


def parameters_sha256(params: Any) -> str:
    """Of all parameters by name: the same for the same model, however its files are packed."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(layerwise(params)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
