"""Rows of the tables in, batches of a few fixed shapes out.

Which rows make which batch is a pure function of (seed, epoch), so there is no iterator state.
Real atoms, bonds and tokens keep their indices whatever the padding behind them.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until the step moves them to the device)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jraph
import numpy as np

from tmr_jax.data.tables import MolTable, TextTable, take_ranges
from tmr_jax.types import Batch, MolBatch, PackedText, TextBatch, UserError

if TYPE_CHECKING:  # most trainings do without
    from tmr_jax.data.mining import Mined

_SAMPLED_BATCHES = 2000  # random batches whose sizes the graph budgets are read from
DEALT = 4  # rows of a stratum of lengths that one batch has
SWAPS = 200  # that are tried for a batch of texts that lie badly in rows


class Shapes(NamedTuple):
    """The shapes that a run compiles: every shape of the texts with every graph level."""

    text: tuple[int, ...]  # tokens of a bucket, ascending; of packed texts the length of a row
    nodes: tuple[int, ...]  # atoms of each graph level, ascending, padding included
    edges: tuple[int, ...]  # directed bonds of the same levels
    rows: tuple[int, ...] = ()  # packed texts: rows of each level, ascending; (): not packed

    @property
    def count(self) -> int:
        return len(self.text) * max(len(self.rows), 1) * len(self.nodes)


def declare_shapes(
    mol_table: MolTable,
    text_buckets: Sequence[int],
    batch_size: int,
    planned: np.ndarray | None = None,
) -> Shapes:
    """Three graph levels: nine batches in ten fit the first, all but one in 200 the second, and
    `batch_size` copies' worth of the largest molecules the last.

    The batches looked at are those `planned`, rows of the table [batches, B]: where long texts come
    together, so do large molecules. Without it they are random rows.
    """
    atoms, bonds = np.diff(mol_table.node_offsets), np.diff(mol_table.edge_offsets)
    if planned is None:
        rng = np.random.default_rng(0)
        planned = rng.integers(len(atoms), size=(_SAMPLED_BATCHES, batch_size))
    levels = zip(_levels(atoms, planned, 64), _levels(bonds, planned, 128), strict=True)
    nodes, edges = zip(*sorted(set(levels)), strict=True)
    return Shapes(tuple(sorted(text_buckets)), nodes, edges)


def declare_rows(text_lengths: np.ndarray, planned: np.ndarray, row: int) -> tuple[int, ...]:
    """Levels of rows that packed batches take: as many as any of the batches `planned`, which are
    alike enough that others fit too, and a row for each text, which holds every batch."""
    most = max(pack(text_lengths[rows], row)[2] for rows in planned)
    return (most, planned.shape[1]) if most < planned.shape[1] else (most,)


def _levels(sizes: np.ndarray, rows: np.ndarray, step: int) -> list[int]:
    """Budgets for batches `rows` of items of `sizes`, rounded up to `step`, one place spare."""
    sums = sizes[rows].sum(1)
    worst = np.sort(sizes)[::-1][: rows.shape[1]].sum()
    wanted = [np.quantile(sums, 0.9), np.quantile(sums, 0.995), worst]
    return [(int(np.ceil(min(w, worst))) // step + 1) * step for w in wanted]


class Levels(NamedTuple):
    """Pairs with texts of several lengths: the whole description, its sentences, its clauses.

    The rows of a pair follow one another, level by level; those of level l of pair p are
    starts[p, l] to starts[p, l + 1].
    """

    starts: np.ndarray  # int64 [pairs, levels + 1]
    shares: tuple[float, ...]  # of the levels, which sum to 1

    def drawn(self, seed: int, epoch: int) -> np.ndarray:
        """A row for each pair, int64 [pairs]; where it has none of the level drawn, its first."""
        rng = np.random.default_rng([seed, epoch, 1])  # another stream than the order of batches
        pairs = np.arange(len(self.starts))
        level = np.searchsorted(np.cumsum(self.shares)[:-1], rng.random(len(pairs)), side="right")
        start, end = self.starts[pairs, level], self.starts[pairs, level + 1]
        row = start + (rng.random(len(pairs)) * (end - start)).astype(np.int64)
        return np.where(end > start, row, self.starts[:, 0])


class Composition(NamedTuple):
    """How the pairs of a training set make batches: all that `epoch_plan` or `spread_plan` asks."""

    text_lengths: np.ndarray  # int64 [n], tokens
    batch_size: int
    row: int  # tokens of a row that texts lie in side by side, of any lengths; 0: not packed
    pool_batches: int = 0
    alike: int = 1
    place: np.ndarray | None = None
    levels: Levels | None = None  # None: a pair is a row
    mined: Mined | None = None  # of pairs; None: batches are not mined

    @property
    def packed(self) -> bool:
        return self.row > 0

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Rows of every batch of an epoch, int64 [steps, B]."""
        if self.levels is None:
            return self._plan(seed, epoch)
        drawn = self.levels.drawn(seed, epoch)
        place = None if self.place is None else self.place[drawn]
        of_drawn = self._replace(text_lengths=self.text_lengths[drawn], place=place)
        return drawn[of_drawn._plan(seed, epoch)]

    def _plan(self, seed: int, epoch: int) -> np.ndarray:
        if self.mined is not None:
            return mined_plan(seed, epoch, self.text_lengths, self.batch_size, self.mined)
        if self.packed:
            return spread_plan(seed, epoch, self.text_lengths, self.batch_size, self.row)
        how = (self.text_lengths, self.batch_size, self.pool_batches, self.alike, self.place)
        return epoch_plan(seed, epoch, *how)

    def sample(self) -> np.ndarray:
        """Batches of three epochs, which budgets of shapes are read from."""
        return np.concatenate([self.epoch(0, e) for e in range(3)])


def epoch_plan(
    seed: int,
    epoch: int,
    text_lengths: np.ndarray,
    batch_size: int,
    pool_batches: int,
    alike: int = 1,
    place: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of every batch of an epoch, int64 [steps, B]: a pure function of its arguments.

    All rows are shuffled and cut to whole batches, so that the rows left out vary by epoch; pools
    of `pool_batches` batches (0: none) are sorted by text length; every `alike` batches of a pool
    are sorted by the `place` of their pairs; then the batches are shuffled. Raises UserError where
    there are fewer rows than one batch has.
    """
    rng = np.random.default_rng([seed, epoch])
    order = whole_batches(rng, len(text_lengths), batch_size)
    steps = len(order) // batch_size
    pool = (pool_batches or steps) * batch_size
    for start in range(0, len(order), pool):
        part = order[start : start + pool]  # a view, which is sorted in place
        if pool_batches:
            part[:] = part[np.argsort(text_lengths[part], kind="stable")]
        if place is not None:
            for low in range(0, len(part), alike * batch_size):
                window = part[low : low + alike * batch_size]
                window[:] = window[np.argsort(place[window], kind="stable")]
    return rng.permutation(order.reshape(steps, batch_size), axis=0).astype(np.int64)


def whole_batches(rng: np.random.Generator, rows: int, batch_size: int) -> np.ndarray:
    """All rows in random order, less those at its end that fill no batch."""
    if rows < batch_size:
        raise UserError(
            f"expected at least one batch of {batch_size} training pairs, got {rows}; "
            f"set --train.batch-size to {rows} or less"
        )
    return rng.permutation(rows)[: rows // batch_size * batch_size]


def spread_plan(
    seed: int, epoch: int, text_lengths: np.ndarray, batch_size: int, row: int
) -> np.ndarray:
    """Rows of every batch of an epoch, int64 [steps, B]: each has its share of every text length.

    As `epoch_plan`, but the rows are cut into strata by length, and every batch is dealt four
    random rows of each: texts of nearly one length still meet in a batch, three quarters as often
    as any other two. All batches then have nearly as many tokens and, packed into rows of `row`
    tokens, one shape.
    """
    rng = np.random.default_rng([seed, epoch])
    order = whole_batches(rng, len(text_lengths), batch_size)
    steps = len(order) // batch_size
    order = order[np.argsort(text_lengths[order], kind="stable")]
    strata = np.split(order, np.arange(DEALT, batch_size, DEALT) * steps)
    dealt = [rng.permutation(stratum).reshape(steps, -1) for stratum in strata]
    plan = _evened(rng, np.concatenate(dealt, axis=1), text_lengths, row)
    plan = rng.permuted(plan, axis=1)
    return rng.permutation(plan, axis=0).astype(np.int64)


def mined_plan(
    seed: int, epoch: int, text_lengths: np.ndarray, batch_size: int, mined: Mined
) -> np.ndarray:
    """Rows of every batch of an epoch, int64 [steps, B]: each of groups that are near one another.

    As `spread_plan`, but it is groups that are cut into strata, by the tokens of all their texts.
    """
    from tmr_jax.data.mining import near_groups

    rng = np.random.default_rng([seed, epoch])
    order = whole_batches(rng, len(text_lengths), batch_size)
    groups = near_groups(order, mined)
    groups = groups[np.argsort(text_lengths[groups].sum(1), kind="stable")]
    strata = groups.reshape(batch_size // mined.size, -1, mined.size)
    plan = np.concatenate([rng.permutation(stratum) for stratum in strata], axis=1)
    plan = rng.permuted(plan, axis=1)
    return rng.permutation(plan, axis=0).astype(np.int64)


def _evened(
    rng: np.random.Generator, plan: np.ndarray, text_lengths: np.ndarray, row: int
) -> np.ndarray:
    """The plan with as many rows for every batch as three in four of them take, where it can be.

    Every batch is as high as the highest, which a few would decide: those give texts to others for
    shorter ones of the same stratum, a column of the plan.
    """

    def height(batch: int) -> int:
        return pack(text_lengths[plan[batch]], row)[2]

    heights = np.array([height(batch) for batch in range(len(plan))])
    most = int(np.quantile(heights, 0.75, method="higher"))
    for batch in np.flatnonzero(heights > most):
        for _ in range(SWAPS):
            other, column = rng.integers(plan.shape)
            pair = [batch, other], column
            length, other_length = text_lengths[plan[pair]]
            if other_length >= length:
                continue
            plan[pair] = plan[pair][::-1]
            if height(other) > most:
                plan[pair] = plan[pair][::-1]
            elif height(batch) <= most:
                break
    return plan


def make_batch(
    indices: np.ndarray,
    text: TextTable,
    mol: MolTable,
    text_group: np.ndarray,
    mol_group: np.ndarray,
    shapes: Shapes,
    pad_token: int,
    shards: int = 1,
    described: np.ndarray | None = None,
) -> Batch:
    """The pairs `indices` as numpy arrays of the smallest declared shapes that hold them.

    `text_group`, `mol_group` and `described` are those of all rows. Several `shards` of equally
    many pairs, a batch of one shape each, follow one another along the first axis of every array;
    each numbers its own graphs, atoms and rows from 0. Raises UserError where no shape is large
    enough.
    """
    parts = np.asarray(indices, np.int64).reshape(shards, -1)
    shapes = _common(parts, text, mol, shapes) if shards > 1 else shapes
    made = [
        Batch(
            text=packed_text(part, text, shapes.text[0], shapes.rows, pad_token)
            if shapes.rows
            else text_batch(part, text, shapes.text, pad_token),
            mol=mol_batch(part, mol, shapes.nodes, shapes.edges),
            text_group=text_group[part].astype(np.int32),
            mol_group=mol_group[part].astype(np.int32),
            described=None if described is None else described[part],
        )
        for part in parts
    ]
    return made[0] if shards == 1 else jax.tree.map(lambda *each: np.concatenate(each), *made)


def _common(parts: np.ndarray, text: TextTable, mol: MolTable, shapes: Shapes) -> Shapes:
    """The smallest shape that holds every one of the parts; all of them where none does."""
    lengths = np.diff(text.offsets)
    both = mol.node_offsets, mol.edge_offsets
    atoms, bonds = (np.diff(offsets)[parts].sum(1).max() for offsets in both)
    level = smallest_level(atoms, bonds, shapes.nodes, shapes.edges)
    held, rows = shapes.text, shapes.rows
    if rows:
        used = max(pack(lengths[part], held[0])[2] for part in parts)
        rows = tuple(n for n in rows if n >= used)[:1]
    else:
        held = tuple(n for n in held if n >= lengths[parts].max())[:1] or held
    return Shapes(held, (shapes.nodes[level],), (shapes.edges[level],), rows)


def pack(lengths: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First fit, longest first: row and first place of each text, and the number of rows.

    `lengths` int64 [B], each at most `row`; texts of equal length keep their order and no text is
    split. Packed batches of random texts have one shape, where batches sorted by length would make
    texts of one length each other's negatives (docs/papers.md#packing).
    """
    room = np.full(len(lengths), row, np.int64)
    rows, starts = np.zeros((2, len(lengths)), np.int64)
    used = 0
    for i in np.argsort(-lengths, kind="stable"):
        at = int(np.argmax(room >= lengths[i]))  # an empty row always has room
        rows[i], starts[i] = at, row - room[at]
        room[at] -= lengths[i]
        used = max(used, at + 1)
    return rows, starts, used


def packed_text(
    indices: np.ndarray, table: TextTable, row: int, levels: tuple[int, ...], pad_token: int
) -> PackedText:
    """The texts `indices` in rows of `row` tokens, as many rows as the smallest level that does.

    Raises UserError where a text is longer than a row.
    """
    tokens, offsets = take_ranges(table.offsets, indices)
    lengths = np.diff(offsets)
    if lengths.max(initial=1) > row:
        raise UserError(
            f"expected texts of up to {row} tokens, the length of a row; got one of "
            f"{lengths.max()}; lower --features.max-tokens"
        )
    rows, starts, used = pack(lengths, row)
    height = next(level for level in levels if level >= used)  # the last level is B
    first = rows * row + starts
    number = np.repeat(np.arange(len(indices)), lengths)
    position = np.arange(len(tokens)) - np.repeat(offsets[:-1], lengths)
    place = np.repeat(first, lengths) + position
    flat = np.full((3, height * row), [[pad_token], [len(indices)], [0]], np.int32)
    flat[:, place] = table.tokens[tokens], number, position
    mask = np.arange(row)[None, :] < lengths[:, None]
    places = np.where(mask, first[:, None] + np.arange(row)[None, :], 0).astype(np.int32)
    filled = (part.reshape(height, row) for part in flat)
    return PackedText(*filled, places=places, mask=mask)


def text_batch(
    indices: np.ndarray, table: TextTable, buckets: tuple[int, ...], pad_token: int
) -> TextBatch:
    """Tokens [B, T], T the smallest bucket that holds the longest text."""
    tokens, offsets = take_ranges(table.offsets, indices)
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=1))
    fitting = [b for b in buckets if b >= longest]
    if not fitting:
        raise UserError(
            f"expected texts of up to {max(buckets)} tokens, got one of {longest}; "
            "add a larger bucket to --train.text-buckets or lower --features.max-tokens"
        )
    mask = np.arange(min(fitting))[None, :] < lengths[:, None]
    padded = np.full(mask.shape, pad_token, np.int32)
    padded[mask] = table.tokens[tokens]
    return TextBatch(padded, mask)


def mol_batch(
    indices: np.ndarray,
    table: MolTable,
    node_budgets: tuple[int, ...],
    edge_budgets: tuple[int, ...],
    graphs: int | None = None,
) -> MolBatch:
    """Molecules one after another, then the padding: graph `graphs` takes all of it.

    `graphs` (default: as many as there are molecules) leaves empty graphs behind the real ones.
    Padding atoms belong to a motif of their own, padding bonds tie the first of them to itself.
    """
    assert table.nodes.dtype.itemsize <= 4, "morgan1 identifiers go through apply_vocabulary first"
    graphs = len(indices) if graphs is None else graphs
    atoms, node_offsets = take_ranges(table.node_offsets, indices)
    bonds, edge_offsets = take_ranges(table.edge_offsets, indices)
    level = smallest_level(len(atoms), len(bonds), node_budgets, edge_budgets)
    nodes, edges = node_budgets[level], edge_budgets[level]
    shift = np.repeat(node_offsets[:-1], np.diff(edge_offsets))
    motifs = motif_counts(table.motif[atoms], node_offsets)
    motif = table.motif[atoms] + np.repeat(np.cumsum(motifs) - motifs, np.diff(node_offsets))
    counts = table.counts[indices]
    graph = jraph.GraphsTuple(
        nodes=_padded(table.nodes[atoms], nodes),
        edges=_padded(table.edges[bonds], edges),
        senders=_padded(table.senders[bonds] + shift, edges, len(atoms)),
        receivers=_padded(table.receivers[bonds] + shift, edges, len(atoms)),
        n_node=_counts(np.diff(node_offsets), graphs, nodes),
        n_edge=_counts(np.diff(edge_offsets), graphs, edges),
        globals=_padded(counts, graphs + 1).astype(counts.dtype) if table.counts.size else None,
    )
    return MolBatch(graph, _padded(motif, nodes, nodes - 1))


def _padded(rows: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    """The rows and, behind them, others of `fill`, int32 [length, ...]."""
    whole = np.full((length, *rows.shape[1:]), fill, np.int32)
    whole[: len(rows)] = rows
    return whole


def smallest_level(
    size: int, ties: int, node_budgets: tuple[int, ...], edge_budgets: tuple[int, ...]
) -> int:
    """The first level that holds so many atoms and directed bonds; UserError where none does."""
    for level, budget in enumerate(zip(node_budgets, edge_budgets, strict=True)):
        if size < budget[0] and ties <= budget[1]:  # one atom is always padding
            return level
    raise UserError(
        f"expected a batch of fewer than {node_budgets[-1]} atoms and at most {edge_budgets[-1]} "
        f"directed bonds, got {size} and {ties}; declare the shapes on the table the batch is from"
    )


def _counts(sizes: np.ndarray, graphs: int, budget: int) -> np.ndarray:
    """Sizes of the real graphs, the empty ones and the padding graph, int32 [graphs + 1]."""
    counts = _padded(sizes, graphs + 1)
    counts[-1] = budget - sizes.sum()
    return counts


def motif_counts(motif: np.ndarray, node_offsets: np.ndarray) -> np.ndarray:
    """How many motifs each molecule has, int64 [n]; `motif` numbers them within the molecule."""
    counts = np.zeros(len(node_offsets) - 1, np.int64)
    np.maximum.at(counts, np.repeat(np.arange(len(counts)), np.diff(node_offsets)), motif + 1)
    return counts


def encode_batches_text(
    table: TextTable, batch_size: int, text_buckets: Sequence[int], pad_token: int
) -> Iterator[tuple[np.ndarray, TextBatch]]:
    """Every text once, shortest first, with the rows that a batch holds, int64 [b].

    Where the last batch has fewer than `batch_size` texts, its last text is repeated: the first b
    rows of an embedding are those of the indices, whatever follows is to be dropped.
    """
    buckets = tuple(sorted(text_buckets))
    order = np.argsort(np.diff(table.offsets), kind="stable")
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        filled = np.concatenate([indices, np.full(batch_size - len(indices), indices[-1])])
        yield indices, text_batch(filled, table, buckets, pad_token)


# How many atoms a molecule has on average, at most, in a batch that is encoded: its budgets.
ATOMS = (16, 32, 64, 128)
FEW = 2_000  # molecules, for which padding costs less than compiling for a second budget


def encode_batches_mol(table: MolTable, batch_size: int) -> Iterator[tuple[np.ndarray, MolBatch]]:
    """Every molecule once, smallest first, with the rows that a batch holds, int64 [b].

    Budgets are those of `ATOMS`, for up to `FEW` molecules the second one alone. A batch of larger
    molecules holds fewer of them, and empty graphs in the places left. A molecule larger than all
    of a budget has a batch to itself.
    """
    atoms, bonds = np.diff(table.node_offsets), np.diff(table.edge_offsets)
    order = np.lexsort((bonds, atoms))
    budgets = [size * batch_size for size in (ATOMS if len(order) > FEW else ATOMS[1:2])]
    cap = budgets[-1]
    start = 0
    while start < len(order):
        rows = order[start : start + batch_size]
        fits = (np.cumsum(atoms[rows]) < cap) & (np.cumsum(bonds[rows]) <= 3 * cap)
        rows = rows[: max(int(fits.sum()), 1)]
        start += len(rows)
        needed = max(int(atoms[rows].sum()) + 1, -(-int(bonds[rows].sum()) // 3))
        nodes = next((size for size in budgets if size >= needed), budgets[-1])
        while nodes < needed:  # one molecule larger than all of a budget
            nodes *= 2
        yield rows, mol_batch(rows, table, (nodes,), (3 * nodes,), batch_size)
