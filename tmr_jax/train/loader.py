"""From the pairs of the next steps to steps done: the two loaders of a training set.

`HostLoader` makes batches on the host, one for each step. `DeviceLoader` makes them inside the
compiled call, from tables on the device, several steps a call: the device never waits for the host.
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

from tmr_jax.models.checkpoint import TrainState
from tmr_jax.models.layers.bert import BertConfig, text_operations
from tmr_jax.train.dataset import TrainingSet
from tmr_jax.train.device_loader import device_tables, plan_steps, take_batch
from tmr_jax.train.parallel import SINGLE_DEVICE, Sharding, compile_ahead, replicate, shard_batch
from tmr_jax.train.step import Call, Step, make_train_call, make_train_step, train_step
from tmr_jax.train.throughput import Work
from tmr_jax.train.two_stage import FeatureSet
from tmr_jax.types import PackedText

Dataset = TrainingSet | FeatureSet

PER_CALL = 16  # steps, where one takes less time than the host needs to start it


class StepResult(NamedTuple):
    """The outcome of some steps; metrics are arrays [steps] that may still be computed."""

    state: TrainState
    metrics: dict[str, Any]
    shape: str  # of their batches, for the user
    compiled: float | None  # seconds, where this shape is new
    work: Work


def build_loader(
    dataset: Dataset,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: frozenset[str],
    adversary: optax.GradientTransformation | None,
    pad_token: int,
    sharding: Sharding = SINGLE_DEVICE,
) -> HostLoader | DeviceLoader:
    """The loader of a training set: on the device where its texts are packed."""
    bert: Any = model.bert if dataset.encodes_text else None
    if not dataset.composition.packed:
        shapes = dataset.shapes.count
        step = make_train_step(model, optimizer, shapes, frozen, adversary, sharding)
        return HostLoader(dataset, step, pad_token, bert, sharding)
    assert isinstance(dataset, TrainingSet), "only texts are packed"
    step = train_step(model, optimizer, frozen, adversary, sharding)
    return DeviceLoader(dataset, step, pad_token, steps_per_call(), bert, sharding)


def steps_per_call() -> int:
    return 1 if jax.default_backend() == "cpu" else PER_CALL


class Programs:
    """A step compiled before its first call, once for each shape of a batch."""

    def __init__(self, step: Step | Call, sharding: Sharding, static: int | None = None) -> None:
        self._step, self._static = step, static
        # With several processes pmap cannot compile ahead: it wants all arrays in each process.
        self._ahead = sharding.how == "jit" or jax.process_count() == 1
        self._ready: dict[Hashable, tuple[Any, float]] = {}

    def __call__(self, shape: Hashable, *arguments: Any) -> tuple[Any, float, float | None]:
        """The step's result, XLA's count of its operations, seconds if it was compiled now."""
        if not self._ahead:
            return self._compiled_by_call(shape, *arguments)
        seconds = None
        if shape not in self._ready:
            start = time.perf_counter()
            lowered = self._step.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
            program = compile_ahead(lowered, jax.default_backend())
            self._ready[shape] = program, _operations(program)
            seconds = time.perf_counter() - start
        program, operations = self._ready[shape]
        if self._static is not None:
            arguments = arguments[: self._static] + arguments[self._static + 1 :]
        return program(*arguments), operations, seconds

    def _compiled_by_call(
        self, shape: Hashable, *arguments: Any
    ) -> tuple[Any, float, float | None]:
        """The first call compiles; its seconds include those of the step."""
        start = time.perf_counter()
        result = self._step(*arguments)
        if shape in self._ready:
            return result, 0.0, None
        self._ready[shape] = None, 0.0
        jax.block_until_ready(result)
        return result, 0.0, time.perf_counter() - start


def _operations(program: Any) -> float:
    analysis = program.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis  # of older versions
    return max(float(analysis.get("flops", 0.0)), 0.0)


class HostLoader:
    """One batch after another, made on the host."""

    per_call = 1

    def __init__(
        self,
        dataset: Dataset,
        step: Step,
        pad_token: int,
        bert: BertConfig | None = None,
        sharding: Sharding = SINGLE_DEVICE,
    ) -> None:
        self._dataset, self._pad, self._sharding = dataset, pad_token, sharding
        self._bert, self._programs = bert, Programs(step, sharding)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> StepResult:
        """Takes the step of the pairs `rows` [1, B]."""
        batch = self._dataset.batch(rows[0], self._pad)
        packed = isinstance(batch.text, PackedText)
        places = batch.text.tokens.shape if packed else batch.text.mask.shape
        atoms = len(getattr(batch.mol, "motif", getattr(batch.mol, "nodes", ())))
        shape = f"{places[0]} x {places[1]} tokens, {atoms} atoms"
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        batch = shard_batch(batch, self._sharding)
        (state, metrics), operations, seconds = self._programs(shapes, state, batch, key)
        metrics = {name: value[None] for name, value in metrics.items()}
        work = work_of(self._dataset, rows, int(np.prod(places)), operations, self._bert)
        return StepResult(state, metrics, shape, seconds, work)


class DeviceLoader:
    """Batches of packed texts, made on the device from tables that are there."""

    def __init__(
        self,
        dataset: TrainingSet,
        step: Step,
        pad_token: int,
        per_call: int,
        bert: BertConfig | None = None,
        sharding: Sharding = SINGLE_DEVICE,
    ) -> None:
        self._dataset, self.per_call, self._bert = dataset, per_call, bert
        self._sharding = sharding
        groups = (dataset.text_group, dataset.mol_group)
        self._tables = replicate(device_tables(dataset.text, dataset.mol, *groups), sharding)
        lengths = 1 if per_call == 1 else 2  # whole calls, and single steps up to a save

        def take(tables: Any, chosen: Any, size: Any) -> Any:
            if sharding.chunks == 1:
                return take_batch(tables, chosen, size, pad_token)
            cut = jax.tree.map(lambda x: x.reshape(sharding.chunks, -1), chosen)
            parts = jax.vmap(lambda part: take_batch(tables, part, size, pad_token))(cut)
            return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), parts)

        call = make_train_call(step, take, dataset.shapes.count * lengths, sharding)
        self._programs = Programs(call, sharding, static=4)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> StepResult:
        """Takes the steps of the pairs `rows` [steps, B]."""
        dataset = self._dataset
        steps = plan_steps(rows, dataset.text, dataset.mol, dataset.shapes, dataset.shards)
        chosen = shard_batch(steps.chosen, self._sharding, axis=1)
        size = steps.size
        shape = f"{len(rows)} steps of {size.rows} x {size.row} tokens, {size.nodes} atoms"
        (state, metrics), operations, seconds = self._programs(
            (len(rows), size), state, self._tables, chosen, key, size
        )
        places = len(rows) * dataset.shards * size.rows * size.row
        # XLA counts the body of a loop once.
        work = work_of(dataset, rows, places, operations * len(rows), self._bert)
        return StepResult(state, metrics, shape, seconds, work)


def work_of(
    dataset: Dataset, rows: np.ndarray, places: int, operations: float, bert: BertConfig | None
) -> Work:
    """The work of the steps of the pairs `rows`; without `bert` no text is encoded."""
    lengths = np.diff(dataset.text.offsets)[rows]
    text = 0.0 if bert is None else text_operations(bert, lengths)
    return Work(len(rows), rows.size, int(lengths.sum()), places, operations, text)
