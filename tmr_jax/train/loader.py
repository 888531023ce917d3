"""From the pairs of the next steps to steps taken.

Batches are made on the host, one for each step, or inside the compiled call from tables that lie on
the device, several steps a call: between two calls the device then waits for nothing.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array until they are moved)

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from tmr_jax.models.layers.bert import BertConfig, text_operations
from tmr_jax.models.state import TrainState
from tmr_jax.train.dataset import TrainingSet
from tmr_jax.train.device_loader import planned, tables_of, taken
from tmr_jax.train.parallel import WHOLE, Spread, compiled_ahead, everywhere, placed
from tmr_jax.train.step import Call, Step, make_train_call, make_train_step, train_step
from tmr_jax.train.throughput import Work
from tmr_jax.train.two_stage import FeatureSet
from tmr_jax.types import PackedText

PER_CALL = 16  # steps, where one takes less than the host needs to ask for it


class Answer(NamedTuple):
    """What came of some steps; metrics are arrays [steps] that may not be there yet."""

    state: TrainState
    metrics: dict[str, Any]
    shape: str  # of their batches, in words
    compiled: float | None  # seconds, where this shape is new
    work: Work


class Programs:
    """A step compiled ahead of its first call, once for each shape of a batch."""

    def __init__(self, step: Step | Call, spread: Spread, static: int | None = None) -> None:
        self._step, self._static = step, static
        # Of several processes pmap cannot be compiled ahead: it wants the arrays of all in each.
        self._ahead = spread.how == "jit" or jax.process_count() == 1
        self._ready: dict[Hashable, tuple[Any, float]] = {}

    def __call__(self, shape: Hashable, *arguments: Any) -> tuple[Any, float, float | None]:
        """What the step returns, XLA's count of its operations, seconds if it was compiled now."""
        if not self._ahead:
            return self._called(shape, *arguments)
        seconds = None
        if shape not in self._ready:
            start = time.perf_counter()
            lowered = self._step.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
            program = compiled_ahead(lowered, jax.default_backend())
            self._ready[shape] = program, _operations(program)
            seconds = time.perf_counter() - start
        program, operations = self._ready[shape]
        if self._static is not None:
            arguments = arguments[: self._static] + arguments[self._static + 1 :]
        return program(*arguments), operations, seconds

    def _called(self, shape: Hashable, *arguments: Any) -> tuple[Any, float, float | None]:
        """Compiled by the first call, whose seconds are those of the step as well."""
        start = time.perf_counter()
        found = self._step(*arguments)
        if shape in self._ready:
            return found, 0.0, None
        self._ready[shape] = None, 0.0
        jax.block_until_ready(found)
        return found, 0.0, time.perf_counter() - start


def _operations(program: Any) -> float:
    found = program.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found  # of older versions
    return max(float(found.get("flops", 0.0)), 0.0)


class HostFeed:
    """One batch after another, made on the host."""

    per_call = 1

    def __init__(
        self,
        data: TrainingSet | FeatureSet,
        step: Step,
        pad_token: int,
        bert: BertConfig | None = None,
        spread: Spread = WHOLE,
    ) -> None:
        self._data, self._pad, self._spread = data, pad_token, spread
        self._bert, self._programs = bert, Programs(step, spread)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> Answer:
        """Takes the step of the pairs `rows` [1, B]."""
        batch = self._data.batch(rows[0], self._pad)
        places = batch.text.mask.shape
        atoms = len(getattr(batch.mol, "motif", getattr(batch.mol, "nodes", ())))
        shape = f"{places[0]} x {places[1]} tokens, {atoms} atoms"
        if isinstance(batch.text, PackedText):
            places = batch.text.tokens.shape
            shape = f"{places[0]} x {places[1]} tokens, {atoms} atoms"
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        batch = placed(batch, self._spread)
        answer, operations, seconds = self._programs(shapes, state, batch, key)
        state, metrics = answer
        metrics = {name: value[None] for name, value in metrics.items()}
        work = work_of(self._data, rows, int(np.prod(places)), operations, self._bert)
        return Answer(state, metrics, shape, seconds, work)


class ResidentFeed:
    """Batches of packed texts, taken on the device from tables that are there."""

    def __init__(
        self,
        data: TrainingSet,
        step: Step,
        pad_token: int,
        per_call: int,
        bert: BertConfig | None = None,
        spread: Spread = WHOLE,
    ) -> None:
        self._data, self.per_call, self._bert, self._spread = data, per_call, bert, spread
        groups = (data.text_group, data.mol_group)
        self._tables = everywhere(tables_of(data.text, data.mol, *groups), spread)
        lengths = 1 if per_call == 1 else 2  # whole calls, and single steps up to a save

        def take(tables: Any, chosen: Any, size: Any) -> Any:
            if spread.chunks == 1:
                return taken(tables, chosen, size, pad_token)
            cut = jax.tree.map(lambda x: x.reshape(spread.chunks, -1), chosen)
            found = jax.vmap(lambda part: taken(tables, part, size, pad_token))(cut)
            return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), found)

        call = make_train_call(step, take, data.shapes.count * lengths, spread)
        self._programs = Programs(call, spread, static=4)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> Answer:
        """Takes the steps of the pairs `rows` [steps, B]."""
        data = self._data
        steps = planned(rows, data.text, data.mol, data.shapes, data.shards)
        chosen = placed(steps.chosen, self._spread, axis=1)
        size = steps.size
        shape = f"{len(rows)} steps of {size.rows} x {size.row} tokens, {size.nodes} atoms"
        answer, operations, seconds = self._programs(
            (len(rows), size), state, self._tables, chosen, key, size
        )
        state, metrics = answer
        places = len(rows) * data.shards * size.rows * size.row
        # XLA counts the body of a loop once.
        work = work_of(data, rows, places, operations * len(rows), self._bert)
        return Answer(state, metrics, shape, seconds, work)


def work_of(
    data: TrainingSet | FeatureSet,
    rows: np.ndarray,
    places: int,
    operations: float,
    bert: BertConfig | None,
) -> Work:
    """Of the steps of the pairs `rows`; without `bert` no text is read."""
    lengths = np.diff(data.text.offsets)[rows]
    text = 0.0 if bert is None else text_operations(bert, lengths)
    return Work(len(rows), rows.size, int(lengths.sum()), places, operations, text)


def feed_of(
    data: TrainingSet | FeatureSet,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str],
    adversary: optax.GradientTransformation | None,
    pad_token: int,
    spread: Spread = WHOLE,
) -> HostFeed | ResidentFeed:
    """The feed of a training set: resident where its texts are packed."""
    reads = not isinstance(data, FeatureSet) and data.states is None
    bert = model.bert if reads else None  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(data, FeatureSet) or not data.composition.packed:
        step = make_train_step(model, optimizer, data.shapes.count, frozen, adversary, spread)
        return HostFeed(data, step, pad_token, bert, spread)
    step = train_step(model, optimizer, frozen, adversary, spread)
    return ResidentFeed(data, step, pad_token, steps_per_call(), bert, spread)


def steps_per_call() -> int:
    return 1 if jax.default_backend() == "cpu" else PER_CALL
