"""From the pairs of the next steps to steps done: the two loaders of a training set.

`HostLoader` makes batches on the host, one for each step. `DeviceLoader` makes them inside the
compiled call, several steps a call: the device never waits for the host. It moves the tables of all
texts and molecules to the device once; the host then sends two numbers for each pair of a step, and
the batch is what `data.batching.make_batch` would make on the host, array by array.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array until they are moved)

from __future__ import annotations

import time
from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, UInt8

from tmr_jax.data.batching import Shapes, motif_counts, pack, smallest_level
from tmr_jax.data.tables import MolTable, TextTable
from tmr_jax.models.checkpoint import TrainState
from tmr_jax.models.layers.bert import BertConfig, text_operations
from tmr_jax.train.dataset import TrainingSet
from tmr_jax.train.log import Work
from tmr_jax.train.step import (
    SINGLE_DEVICE,
    Call,
    Sharding,
    Step,
    compile_ahead,
    make_train_call,
    make_train_step,
    replicate,
    shard_batch,
    train_step,
)
from tmr_jax.types import Batch, MolBatch, PackedText, Taught, UserError

if TYPE_CHECKING:  # which loads the second stage
    from tmr_jax.train.two_stage import FeatureSet

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
    ema: float = 0.0,
) -> HostLoader | DeviceLoader:
    """The loader of a training set: on the device where its texts are packed."""
    bert: Any = model.bert if dataset.encodes_text else None
    if not dataset.composition.packed:
        shapes = dataset.shapes.count
        step = make_train_step(model, optimizer, shapes, frozen, adversary, sharding, ema)
        return HostLoader(dataset, step, pad_token, bert, sharding)
    assert isinstance(dataset, TrainingSet), "only texts are packed"
    step = train_step(model, optimizer, frozen, adversary, sharding, ema)
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
        start = time.perf_counter()
        if new := shape not in self._ready:
            self._ready[shape] = self._compiled(arguments) if self._ahead else (self._step, 0.0)
        program, operations = self._ready[shape]
        seconds = time.perf_counter() - start
        if self._ahead and self._static is not None:
            arguments = arguments[: self._static] + arguments[self._static + 1 :]
        result = program(*arguments)
        if new and not self._ahead:  # the first call compiles; the seconds are those of both
            jax.block_until_ready(result)
            seconds = time.perf_counter() - start
        return result, operations, seconds if new else None

    def _compiled(self, arguments: tuple[Any, ...]) -> tuple[Any, float]:
        lowered = self._step.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
        program = compile_ahead(lowered, jax.default_backend())
        analysis = program.cost_analysis() or {}
        analysis = analysis[0] if isinstance(analysis, list) else analysis  # of older versions
        return program, max(float(analysis.get("flops", 0.0)), 0.0)


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
        tables = device_tables(dataset.text, dataset.mol, *groups)
        self._tables = replicate(
            tables._replace(described=dataset.described, taught=dataset.taught), sharding
        )
        lengths = 1 if per_call == 1 else 2  # whole calls, and single steps up to a save
        take = partial(take_batch, pad_token=pad_token, chunks=sharding.chunks)
        call = make_train_call(step, take, dataset.shapes.count * lengths, sharding)
        self._programs = Programs(call, sharding, static=4)

    def __call__(self, state: TrainState, rows: np.ndarray, key: Any) -> StepResult:
        """Takes the steps of the pairs `rows` [steps, B]."""
        dataset = self._dataset
        chosen, size = plan_steps(rows, dataset.text, dataset.mol, dataset.shapes, dataset.shards)
        chosen = shard_batch(chosen, self._sharding, axis=1)
        steps = f"{len(rows)} steps of " if len(rows) > 1 else ""
        shape = f"{steps}{size.rows} x {size.row} tokens, {size.nodes} atoms"
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


# Tables on the device


class DeviceTables(NamedTuple):
    """All pairs, item after item; item i has rows offsets[i] to offsets[i + 1] of its table."""

    tokens: Int[Array, " tokens"]
    text_offsets: Int[Array, " n1"]
    nodes: Int[Array, "atoms F"]
    edges: Int[Array, "bonds F_edge"]
    senders: Int[Array, " bonds"]  # atom of its own molecule
    receivers: Int[Array, " bonds"]
    motif: Int[Array, " atoms"]  # of its own molecule
    counts: UInt8[Array, "n C"] | None  # None: of no fragment
    node_offsets: Int[Array, " n1"]
    edge_offsets: Int[Array, " n1"]
    motifs: Int[Array, " n"]  # how many each molecule has
    text_group: Int[Array, " n"]
    mol_group: Int[Array, " n"]
    described: Int[Array, "n K"] | None = None
    taught: Taught | None = None


class ChosenPairs(NamedTuple):
    """The pairs of a step, as the host sends them."""

    rows: Int[Array, " B"]
    first: Int[Array, " B"]  # where each text begins in the concatenated packed rows


class BatchSize(NamedTuple):
    """One shape of a batch."""

    rows: int  # of packed texts
    row: int  # places in each of them
    nodes: int
    edges: int


def device_tables(
    text: TextTable, mol: MolTable, text_group: np.ndarray, mol_group: np.ndarray
) -> DeviceTables:
    """The tables as int32 NumPy arrays, ready to be moved.

    Raises UserError where a table has more rows than 32 bits can count.
    """
    assert mol.nodes.dtype.itemsize <= 4, "morgan1 identifiers go through apply_vocabulary first"
    longest = max(len(text.tokens), len(mol.nodes), len(mol.edges))
    if longest > np.iinfo(np.int32).max:
        raise UserError(
            f"expected tables of fewer than 2**31 rows on the device; got {longest:,}; "
            "train on fewer pairs, or with --train.texts buckets"
        )
    motifs = motif_counts(mol.motif, mol.node_offsets)
    columns = (
        *(text.tokens, text.offsets, mol.nodes, mol.edges, mol.senders, mol.receivers, mol.motif),
        *(mol.counts, mol.node_offsets, mol.edge_offsets, motifs, text_group, mol_group),
    )
    tables = DeviceTables(*(np.asarray(column, np.int32) for column in columns))
    return tables._replace(counts=mol.counts if mol.counts.size else None)


def plan_steps(
    rows: np.ndarray, text: TextTable, mol: MolTable, shapes: Shapes, shards: int = 1
) -> tuple[ChosenPairs, BatchSize]:
    """Packs the texts of the batches `rows` [steps, B] and finds the smallest shape for them all.

    With several `shards` each part of a batch has its own packed rows, and the shape is a part's.
    """
    if shards > 1:
        chosen, size = plan_steps(rows.reshape(len(rows) * shards, -1), text, mol, shapes)
        return ChosenPairs(*(part.reshape(rows.shape) for part in chosen)), size
    row = shapes.text[0]
    first, used, level = np.zeros(rows.shape, np.int32), 0, 0
    for step, batch in enumerate(rows):
        at, start, needed = pack(text.offsets[batch + 1] - text.offsets[batch], row)
        first[step], used = at * row + start, max(used, needed)
        atoms, bonds = (
            int((offsets[batch + 1] - offsets[batch]).sum())
            for offsets in (mol.node_offsets, mol.edge_offsets)
        )
        level = max(level, smallest_level(atoms, bonds, shapes.nodes, shapes.edges))
    height = next(n for n in shapes.rows if n >= used)
    size = BatchSize(height, row, shapes.nodes[level], shapes.edges[level])
    return ChosenPairs(rows.astype(np.int32), first), size


def take_batch(
    tables: DeviceTables, chosen: ChosenPairs, size: BatchSize, pad_token: int, chunks: int = 1
) -> Batch:
    """The batch of the pairs `chosen`, in parts numbered by themselves; the host has checked that
    they fit."""
    if chunks > 1:
        cut = jax.tree.map(lambda x: x.reshape(chunks, -1), chosen)
        parts = jax.vmap(lambda part: take_batch(tables, part, size, pad_token))(cut)
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), parts)
    return Batch(
        text=_texts(tables, chosen, size, pad_token),
        mol=_molecules(tables, chosen.rows, size),
        text_group=tables.text_group[chosen.rows],
        mol_group=tables.mol_group[chosen.rows],
        described=None if tables.described is None else tables.described[chosen.rows],
        taught=jax.tree.map(lambda side: side[chosen.rows], tables.taught),
    )


def _texts(
    tables: DeviceTables, chosen: ChosenPairs, size: BatchSize, pad_token: int
) -> PackedText:
    count = len(chosen.rows)
    begin = tables.text_offsets[chosen.rows]
    length = tables.text_offsets[chosen.rows + 1] - begin
    order = jnp.argsort(chosen.first)
    place = jnp.arange(size.rows * size.row)
    # The last text that begins before a place; it may end before it too.
    text = order[jnp.searchsorted(chosen.first[order], place, side="right") - 1]
    position = place - chosen.first[text]
    real = position < length[text]
    token = tables.tokens[jnp.where(real, begin[text] + position, 0)]
    inside = jnp.arange(size.row)[None, :]
    mask = inside < length[:, None]
    shape = (size.rows, size.row)
    return PackedText(
        tokens=jnp.where(real, token, pad_token).reshape(shape),
        text=jnp.where(real, text, count).reshape(shape),
        position=jnp.where(real, position, 0).reshape(shape),
        places=jnp.where(mask, chosen.first[:, None] + inside, 0),
        mask=mask,
    )


def _molecules(tables: DeviceTables, rows: Int[Array, " B"], size: BatchSize) -> MolBatch:
    n_node, n_edge = (
        jnp.diff(offsets)[rows] for offsets in (tables.node_offsets, tables.edge_offsets)
    )
    atom, of_atom, is_atom = _places(tables.node_offsets, rows, n_node, size.nodes)
    bond, of_bond, is_bond = _places(tables.edge_offsets, rows, n_edge, size.edges)
    first_atom = jnp.cumsum(n_node) - n_node
    first_motif = jnp.cumsum(tables.motifs[rows]) - tables.motifs[rows]
    atoms, bonds = n_node.sum(), n_edge.sum()
    senders, receivers = (
        jnp.where(is_bond, column[bond] + first_atom[of_bond], atoms)
        for column in (tables.senders, tables.receivers)
    )
    graph = jraph.GraphsTuple(
        nodes=jnp.where(is_atom[:, None], tables.nodes[atom], 0),
        edges=jnp.where(is_bond[:, None], tables.edges[bond], 0),
        senders=senders,
        receivers=receivers,
        n_node=jnp.append(n_node, size.nodes - atoms),
        n_edge=jnp.append(n_edge, size.edges - bonds),
        globals=None if tables.counts is None else jnp.pad(tables.counts[rows], ((0, 1), (0, 0))),
    )
    motif = tables.motif[atom] + first_motif[of_atom]
    return MolBatch(graph, jnp.where(is_atom, motif, size.nodes - 1))


def _places(
    offsets: Int[Array, " n1"], rows: Int[Array, " B"], counts: Int[Array, " B"], size: int
) -> tuple[Int[Array, " S"], Int[Array, " S"], Bool[Array, " S"]]:
    """For each of `size` places: its row of the table, its item, and whether it is real."""
    ends, place = jnp.cumsum(counts), jnp.arange(size)
    item = jnp.searchsorted(ends, place, side="right")
    real = item < len(rows)
    item = jnp.minimum(item, len(rows) - 1)
    inside = place - (ends - counts)[item]
    return jnp.where(real, offsets[rows[item]] + inside, 0), item, real
