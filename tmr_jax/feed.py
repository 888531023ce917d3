"""From the pairs of the next steps to steps taken.

Batches are made on the host, one for each step, or inside the compiled call from tables that lie on
the device, several steps a call: between two calls the device then waits for nothing.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array until they are moved)

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from tmr_jax.assembly import TrainingSet
from tmr_jax.data.resident import planned, tables_of, taken
from tmr_jax.generator import FeatureSet
from tmr_jax.training.state import TrainState
from tmr_jax.training.step import Step, make_train_call, make_train_step, train_step

PER_CALL = 16  # steps, where one takes less than the host needs to ask for it


class Answer(NamedTuple):
    """What came of some steps; metrics are arrays [steps] that may not be there yet."""

    state: TrainState
    metrics: dict[str, Any]
    shape: str  # of their batches, in words: a new one is compiled


class HostFeed:
    """One batch after another, made on the host."""

    per_call = 1

    def __init__(self, data: TrainingSet | FeatureSet, step: Step, pad_token: int) -> None:
        self._data, self._step, self._pad = data, step, pad_token

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> Answer:
        """Takes the step of the pairs `rows` [1, B]."""
        batch = self._data.batch(rows[0], self._pad)
        state, metrics = self._step(state, batch, key)
        texts = " x ".join(map(str, batch.text.tokens.shape[:2]))
        atoms = len(getattr(batch.mol, "motif", getattr(batch.mol, "nodes", ())))
        metrics = {name: value[None] for name, value in metrics.items()}
        return Answer(state, metrics, f"{texts} tokens, {atoms} atoms")


class ResidentFeed:
    """Batches of packed texts, taken on the device from tables that are there."""

    def __init__(self, data: TrainingSet, step: Step, pad_token: int, per_call: int) -> None:
        self._data, self.per_call = data, per_call
        groups = (data.text_group, data.mol_group)
        self._tables = jax.device_put(tables_of(data.text, data.mol, *groups))
        lengths = 1 if per_call == 1 else 2  # whole calls, and single steps up to a save

        def take(tables: Any, chosen: Any, size: Any) -> Any:
            return taken(tables, chosen, size, pad_token)

        self._call = make_train_call(step, take, data.shapes.count * lengths)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> Answer:
        """Takes the steps of the pairs `rows` [steps, B]."""
        data = self._data
        steps = planned(rows, data.text, data.mol, data.shapes)
        state, metrics = self._call(state, self._tables, steps.chosen, key, steps.size)
        size = steps.size
        shape = f"{len(rows)} steps of {size.rows} x {size.row} tokens, {size.nodes} atoms"
        return Answer(state, metrics, shape)


def feed_of(
    data: TrainingSet | FeatureSet,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str],
    adversary: optax.GradientTransformation | None,
    pad_token: int,
) -> HostFeed | ResidentFeed:
    """The feed of a training set: resident where its texts are packed."""
    if isinstance(data, FeatureSet) or not data.composition.packed:
        step = make_train_step(model, optimizer, data.shapes.count, frozen, adversary)
        return HostFeed(data, step, pad_token)
    step = train_step(model, optimizer, frozen, adversary)
    return ResidentFeed(data, step, pad_token, steps_per_call())


def steps_per_call() -> int:
    return 1 if jax.default_backend() == "cpu" else PER_CALL
