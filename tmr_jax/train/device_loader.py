"""The training set on the device, and batches made there.

In: tables of all texts and molecules, moved once. Out: inside a compiled step, the `Batch` that
`data.batching.make_batch` would make on the host, array by array. The host sends two numbers for
each pair of a step.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array until they are moved)

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Int

from tmr_jax.data.batching import Shapes, motif_counts, pack, smallest_level
from tmr_jax.data.tables import MolTable, TextTable
from tmr_jax.types import Batch, MolBatch, PackedText, UserError


class DeviceTables(NamedTuple):
    """All pairs, item after item; item i has rows offsets[i] to offsets[i + 1] of its table."""

    tokens: Int[Array, " tokens"]
    text_offsets: Int[Array, " n1"]
    nodes: Int[Array, "atoms F"]
    edges: Int[Array, "bonds F_edge"]
    senders: Int[Array, " bonds"]  # atom of its own molecule
    receivers: Int[Array, " bonds"]
    motif: Int[Array, " atoms"]  # of its own molecule
    node_offsets: Int[Array, " n1"]
    edge_offsets: Int[Array, " n1"]
    motifs: Int[Array, " n"]  # how many each molecule has
    text_group: Int[Array, " n"]
    mol_group: Int[Array, " n"]


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
        *(mol.node_offsets, mol.edge_offsets, motifs, text_group, mol_group),
    )
    return DeviceTables(*(np.asarray(column, np.int32) for column in columns))


class PlannedSteps(NamedTuple):
    """Several steps of one shape, as the host sends them."""

    chosen: ChosenPairs  # arrays [steps, B]
    size: BatchSize


def plan_steps(
    rows: np.ndarray, text: TextTable, mol: MolTable, shapes: Shapes, shards: int = 1
) -> PlannedSteps:
    """Packs the texts of the batches `rows` [steps, B] and finds the smallest shape for them all.

    With several `shards` each part of a batch has its own packed rows, and the shape is a part's.
    """
    if shards > 1:
        steps = plan_steps(rows.reshape(len(rows) * shards, -1), text, mol, shapes)
        return PlannedSteps(
            ChosenPairs(*(part.reshape(rows.shape) for part in steps.chosen)), steps.size
        )
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
    return PlannedSteps(ChosenPairs(rows.astype(np.int32), first), size)


def take_batch(tables: DeviceTables, chosen: ChosenPairs, size: BatchSize, pad_token: int) -> Batch:
    """The batch of the pairs `chosen`; the host has checked that they fit."""
    return Batch(
        text=_texts(tables, chosen, size, pad_token),
        mol=_molecules(tables, chosen.rows, size),
        text_group=tables.text_group[chosen.rows],
        mol_group=tables.mol_group[chosen.rows],
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
    ends = (
        jnp.where(is_bond, column[bond] + first_atom[of_bond], atoms)
        for column in (tables.senders, tables.receivers)
    )
    senders, receivers = ends
    graph = jraph.GraphsTuple(
        nodes=jnp.where(is_atom[:, None], tables.nodes[atom], 0),
        edges=jnp.where(is_bond[:, None], tables.edges[bond], 0),
        senders=senders,
        receivers=receivers,
        n_node=jnp.append(n_node, size.nodes - atoms),
        n_edge=jnp.append(n_edge, size.edges - bonds),
        globals=None,
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
