"""Batches by hand: plans, shapes, padding that changes nothing, and streams that lose no row."""

from __future__ import annotations

import jraph
import numpy as np
import pytest

from tmr_jax.data.batching import (
    Composition,
    Levels,
    Shapes,
    declare_rows,
    declare_shapes,
    encode_batches_mol,
    encode_batches_text,
    epoch_plan,
    make_batch,
    mol_batch,
    pack,
    packed_text,
    spread_plan,
    text_batch,
)
from tmr_jax.data.tables import (
    TextTable,
    apply_vocabulary,
    build_vocabulary,
    molecule_table,
    table_get,
    table_take,
)

SMILES = ["CCO", "C", "CC(=O)NC", "[Na+].[Cl-]", "c1ccccc1"]
LENGTHS = np.random.default_rng(1).integers(4, 250, 203)


def texts(lengths) -> TextTable:
    """Text i holds the token i + 1 over and over."""
    lengths = np.asarray(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.int32)
    return TextTable(tokens, offsets, np.zeros(len(lengths), bool))


@pytest.fixture(scope="module")
def mols():
    return molecule_table(SMILES, "ogb", "brics")[0]


# The plan of an epoch


def test_a_plan_is_a_function_of_seed_and_epoch():
    plan = epoch_plan(3, 5, LENGTHS, 8, 4)
    assert np.array_equal(plan, epoch_plan(3, 5, LENGTHS, 8, 4))
    assert not np.array_equal(plan, epoch_plan(3, 6, LENGTHS, 8, 4))
    assert not np.array_equal(plan, epoch_plan(4, 5, LENGTHS, 8, 4))


def test_a_plan_pinned():
    # Resuming an old run needs the same plan years later.
    assert epoch_plan(0, 0, np.arange(6), 2, 2).tolist() == [[2, 3], [4, 5], [0, 1]]


def test_no_row_comes_twice_and_the_rows_left_out_vary():
    left_out = []
    for epoch in range(6):
        plan = epoch_plan(0, epoch, LENGTHS, 8, 4)
        assert plan.shape == (25, 8) and len(np.unique(plan)) == 200
        left_out.append(tuple(sorted(set(range(203)) - set(plan.ravel().tolist()))))
    assert len(set(left_out)) > 1


def test_pools_bring_like_lengths_together_and_batches_are_shuffled():
    def spread(pool_batches):
        lengths = LENGTHS[epoch_plan(0, 0, LENGTHS, 8, pool_batches)]
        return np.ptp(lengths, axis=1).mean(), lengths.mean(1)

    pooled, means = spread(25)
    assert pooled < spread(1)[0] / 5
    assert (np.diff(means) < 0).any() and (np.diff(means) > 0).any()


def test_fewer_rows_than_a_batch_say_what_to_set():
    with pytest.raises(ValueError, match=r"one batch of 8 training pairs, got 5; .*batch-size"):
        epoch_plan(0, 0, LENGTHS[:5], 8, 4)


def test_a_spread_plan_gives_every_batch_its_share_of_every_length():
    lengths = np.random.default_rng(0).permutation(203) + 4
    plan = spread_plan(3, 5, lengths, 8, 256)
    assert plan.shape == (25, 8) and len(np.unique(plan)) == 200
    assert ((lengths[plan] <= np.median(lengths[plan])).sum(1) == 4).all()
    random = epoch_plan(3, 5, lengths, 8, 0)
    assert lengths[plan].sum(1).std() < 0.6 * lengths[random].sum(1).std()
    assert np.array_equal(plan, spread_plan(3, 5, lengths, 8, 256))
    assert not np.array_equal(plan, spread_plan(3, 6, lengths, 8, 256))
    places = [spread_plan(0, e, LENGTHS, 8, 256).argmax() % 8 for e in range(20)]
    assert len(set(places)) > 1  # the place in the batch says nothing of the length


def test_no_batch_of_a_spread_plan_takes_more_rows_than_most():
    lengths = np.clip(np.random.default_rng(2).gamma(6, 16, 3300).astype(int), 8, 256)
    for epoch in range(2):
        plan = spread_plan(0, epoch, lengths, 32, 256)
        heights = [pack(lengths[rows], 256)[2] for rows in plan]
        assert len(np.unique(plan)) == plan.size and max(heights) == np.median(heights)
    share = lengths[plan].sum() / (plan.shape[0] * max(heights) * 256)
    assert share > 0.9


def test_texts_of_one_length_meet_in_a_batch_nearly_as_often_as_others():
    lengths = np.repeat(np.arange(10, 110), 4)  # four texts of each length
    together = np.zeros((400, 400))
    for epoch in range(60):
        for rows in spread_plan(0, epoch, lengths, 40, 128):
            together[np.ix_(rows, rows)] += 1
    np.fill_diagonal(together, np.nan)
    same = lengths[:, None] == lengths[None, :]
    assert 0.6 < np.nanmean(together[same]) / np.nanmean(together[~same]) < 0.9


def test_a_composition_is_one_plan_or_the_other():
    for row in (0, 256):
        found = Composition(LENGTHS, 8, row, 4).epoch(1, 2)
        other = spread_plan(1, 2, LENGTHS, 8, row) if row else epoch_plan(1, 2, LENGTHS, 8, 4)
        assert np.array_equal(found, other)


def test_rows_of_packed_batches_are_as_many_as_any_needs_and_one_for_each_text():
    plan = Composition(LENGTHS, 8, 256).sample()
    levels = declare_rows(LENGTHS, plan, 256)
    used = [pack(LENGTHS[rows], 256)[2] for rows in plan]
    assert levels == (max(used), 8) and max(used) < 8
    assert declare_rows(np.full(16, 200), np.arange(16).reshape(2, 8), 256) == (8,)


# Texts


def test_text_batch_by_hand():
    batch = text_batch(np.array([2, 0]), texts([2, 9, 3]), (4, 8, 16), 7)
    assert batch.tokens.tolist() == [[3, 3, 3, 7], [1, 1, 7, 7]]
    assert batch.mask.tolist() == [[True, True, True, False], [True, True, False, False]]


def test_the_smallest_bucket_that_holds_the_longest_text():
    table = texts([4, 5, 16, 17])
    for row, width in ((0, 4), (1, 8), (2, 16)):
        assert text_batch(np.array([row]), table, (4, 8, 16), 0).tokens.shape == (1, width)
    with pytest.raises(ValueError, match="up to 16 tokens, got one of 17"):
        text_batch(np.array([3]), table, (4, 8, 16), 0)


# Molecules


def test_mol_batch_by_hand(mols):
    batch = mol_batch(np.array([0, 1, 3]), mols, (10,), (8,))
    graph = batch.graph
    assert graph.n_node.tolist() == [3, 1, 2, 4] and graph.n_edge.tolist() == [4, 0, 0, 4]
    assert graph.nodes.shape == (10, 12) and graph.nodes.dtype == np.int32
    assert (graph.nodes[6:] == 0).all() and (graph.edges[4:] == 0).all()
    assert graph.senders[4:].tolist() == [6] * 4 and graph.receivers[4:].tolist() == [6] * 4
    # ethanol: one motif; methane: one; two ions: two; padding: the last number
    assert batch.motif.tolist() == [0, 0, 0, 1, 2, 3, 9, 9, 9, 9]


def test_edges_join_atoms_of_their_own_molecule(mols):
    rows = np.array([2, 4, 0, 4])
    graph = mol_batch(rows, mols, (32,), (64,)).graph
    start = edge = 0
    for row in rows:
        f = table_get(mols, row)
        n, e = len(f.nodes), len(f.senders)
        assert (graph.nodes[start : start + n] == f.nodes).all()
        assert (graph.edges[edge : edge + e] == f.edges).all()
        assert (graph.senders[edge : edge + e] == f.senders + start).all()
        assert (graph.receivers[edge : edge + e] == f.receivers + start).all()
        start, edge = start + n, edge + e


def test_real_atoms_do_not_move_with_the_budget(mols):
    rows = np.array([2, 0, 4])
    small, large = (mol_batch(rows, mols, (n,), (3 * n,)) for n in (16, 64))
    atoms, bonds = 14, 24
    for a, b in ((small.graph.nodes, large.graph.nodes), (small.motif, large.motif)):
        assert (a[:atoms] == b[:atoms]).all()
    for field in ("edges", "senders", "receivers"):
        a, b = getattr(small.graph, field), getattr(large.graph, field)
        assert (a[:bonds] == b[:bonds]).all()
    assert small.motif[:atoms].max() < small.motif[atoms:].min()


def test_jraph_agrees_on_what_is_padding(mols):
    graph = mol_batch(np.array([2, 0, 4]), mols, (32,), (64,)).graph
    assert jraph.get_number_of_padding_with_graphs_graphs(graph) == 1
    assert int(jraph.get_node_padding_mask(graph).sum()) == 14
    assert int(jraph.get_edge_padding_mask(graph).sum()) == 24
    assert graph.n_node.sum() == len(graph.nodes) and graph.n_edge.sum() == len(graph.edges)


def test_one_atom_is_always_padding(mols):
    # Three atoms and four directed bonds fill a budget of four atoms, not one of three.
    assert mol_batch(np.array([0]), mols, (3, 4), (4, 4)).graph.nodes.shape[0] == 4
    with pytest.raises(ValueError, match=r"fewer than 3 atoms .* got 3 and 4"):
        mol_batch(np.array([0]), mols, (3,), (4,))


def test_morgan1_goes_through_its_vocabulary_first():
    table, _, _ = molecule_table(SMILES, "morgan1", "none")
    with pytest.raises(AssertionError, match="apply_vocabulary"):
        mol_batch(np.array([0]), table, (8,), (8,))
    ids, _ = apply_vocabulary(table, build_vocabulary(table))
    graph = mol_batch(np.array([0]), ids, (8,), (8,)).graph
    assert graph.nodes.shape == (8, 1) and graph.edges.shape == (8, 0)
    assert (graph.nodes[:3] > 0).all()


# Pairs


def test_make_batch_joins_rows(mols):
    shapes = Shapes((4, 8), (32,), (64,))
    groups = np.array([5, 6, 7, 8, 9])
    batch = make_batch(np.array([4, 1]), texts([2, 3, 2, 2, 4]), mols, groups, -groups, shapes, 0)
    assert batch.text.tokens[:, 0].tolist() == [5, 2]
    assert batch.mol.graph.n_node.tolist() == [6, 1, 25]
    assert batch.text_group.tolist() == [9, 6] and batch.mol_group.tolist() == [-9, -6]


def test_packed_texts_come_where_rows_are_declared(mols):
    shapes = Shapes((8,), (32,), (64,), (1, 2))
    groups = np.arange(5)
    batch = make_batch(np.array([4, 1]), texts([2, 3, 2, 2, 4]), mols, groups, groups, shapes, 0)
    assert batch.text.tokens.tolist() == [[5, 5, 5, 5, 2, 2, 2, 0]]
    assert shapes.count == 2


def test_declared_shapes_hold_every_batch_and_mostly_the_smallest():
    table = molecule_table(["C" * n for n in range(1, 41)], "ogb", "none")[0]
    many = table_take(table, np.random.default_rng(0).integers(40, size=400))
    lengths = np.diff(many.node_offsets)
    for pool in (0, 4):
        planned = Composition(lengths, 8, 0, pool).sample() if pool else None
        shapes = declare_shapes(many, (64, 32), 8, planned)
        assert shapes.text == (32, 64) and 1 <= len(shapes.nodes) == len(shapes.edges) <= 3
        assert list(shapes.nodes) == sorted(set(shapes.nodes))
        worst = np.argsort(lengths)[::-1][:8]
        used = [
            mol_batch(rows, many, shapes.nodes, shapes.edges).graph.nodes.shape[0]
            for rows in [worst, *epoch_plan(1, 0, lengths, 8, pool)]
        ]
        assert used[0] == shapes.nodes[-1]
        assert np.mean([n == shapes.nodes[0] for n in used]) > 0.7


# Streams for encoding


def test_texts_stream_once_shortest_first_in_full_batches():
    table = texts(LENGTHS[:50])
    seen, widths = [], []
    for indices, batch in encode_batches_text(table, 16, (256, 64, 128), 0):
        assert batch.tokens.shape[0] == 16 and batch.mask.any(1).all()
        assert (batch.tokens[: len(indices), 0] == indices + 1).all()
        seen += indices.tolist()
        widths.append(batch.tokens.shape[1])
    assert sorted(seen) == list(range(50)) and len(indices) == 2
    assert widths == sorted(widths) and set(widths) <= {64, 128, 256}


def test_molecules_stream_once_in_few_shapes_with_giants():
    smiles = ["C" * (1 + n % 60) for n in range(150)] + ["C" * 900, "C" * 999, "C"]
    table = molecule_table(smiles, "ogb", "none")[0]
    seen, shapes = [], set()
    for indices, batch in encode_batches_mol(table, 4):
        sizes = [len(smiles[i]) for i in indices]
        assert batch.graph.n_node[:-1].tolist() == sizes + [0] * (4 - len(indices))
        seen += indices.tolist()
        shapes.add((batch.graph.nodes.shape[0], batch.graph.edges.shape[0]))
    assert sorted(seen) == list(range(153))
    assert max(shapes)[0] == 1024 and len(shapes) <= 5


def test_empty_tables_stream_nothing(mols):
    assert list(encode_batches_mol(table_take(mols, np.zeros(0, int)), 4)) == []
    assert list(encode_batches_text(texts([]), 4, (8,), 0)) == []


def test_alike_batches_share_structure_and_stay_near_in_length():
    random = np.random.default_rng(1)
    lengths, place = random.integers(5, 90, 400), random.permutation(400)
    plain = epoch_plan(0, 0, lengths, 8, 10)
    plan = epoch_plan(0, 0, lengths, 8, 10, 5, place)
    assert sorted(plan.ravel()) == sorted(plain.ravel())
    assert np.ptp(place[plan], 1).mean() < 0.5 * np.ptp(place[plain], 1).mean()
    assert np.ptp(lengths[plan], 1).mean() < 0.6 * np.ptp(lengths)  # 5 of the pool's 10
    assert np.array_equal(plan, epoch_plan(0, 0, lengths, 8, 10, 5, place))


def table(*lengths) -> TextTable:
    """Text i holds 10 i, 10 i + 1, ..."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate([10 * i + np.arange(n) for i, n in enumerate(lengths)])
    return TextTable(tokens.astype(np.int32), offsets, np.zeros(len(lengths), bool))


def test_first_fit_longest_first_by_hand():
    rows, starts, used = pack(np.array([2, 5, 3, 6, 2]), 8)
    # 6 | 5 | 3 after 5 | 2 after 6 | 2 in a third row
    assert rows.tolist() == [0, 1, 1, 0, 2] and starts.tolist() == [6, 0, 5, 0, 0] and used == 3


def test_rows_of_packed_texts_by_hand():
    packed = packed_text(np.array([2, 0, 1]), table(1, 2, 3), 4, (1, 2, 3), 99)
    assert packed.tokens.tolist() == [[20, 21, 22, 0], [10, 11, 99, 99]]
    assert packed.text.tolist() == [[0, 0, 0, 1], [2, 2, 3, 3]]
    assert packed.position.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert packed.places.tolist() == [[0, 1, 2, 0], [3, 0, 0, 0], [4, 5, 0, 0]]
    assert packed.mask.sum(1).tolist() == [3, 1, 2]


def test_every_token_is_where_places_say_and_nothing_else_is_real():
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(1, 33, random.integers(1, 40))
        texts = table(*lengths)
        packed = packed_text(np.arange(len(lengths)), texts, 32, (len(lengths),), -1)
        flat = packed.tokens.ravel()
        for i, n in enumerate(lengths):
            own = packed.places[i, packed.mask[i]]
            assert flat[own].tolist() == (10 * i + np.arange(n)).tolist()
            assert (packed.text.ravel()[own] == i).all()
            assert packed.position.ravel()[own].tolist() == list(range(n))
            assert len(np.unique(own // 32)) == 1  # no text is split
        assert (packed.text < len(lengths)).sum() == lengths.sum()


def test_the_smallest_level_that_does():
    texts = table(3, 3, 3)
    heights = [len(packed_text(np.arange(n), texts, 8, (1, 2, 3), 0).tokens) for n in (1, 2, 3)]
    assert heights == [1, 1, 2]


def test_a_text_longer_than_a_row_says_what_to_lower():
    with pytest.raises(ValueError, match=r"up to 4 tokens, .*; got one of 5; lower"):
        packed_text(np.array([0]), table(5), 4, (1,), 0)


def test_nine_places_in_ten_are_real_at_the_lengths_of_chebi20():
    random = np.random.default_rng(0)  # ChEBI-20: mean 85, sd 43, cut at 256
    spread = np.sqrt(np.log(1 + (43 / 85) ** 2))
    lengths = random.lognormal(np.log(85) - spread**2 / 2, spread, 512).astype(int).clip(6, 256)
    used = pack(lengths, 256)[2]
    assert lengths.sum() / (256 * used) > 0.97


def test_levels_draw_a_row_of_each_pair_by_seed_and_epoch():
    # Pair 0 has rows 0 (whole), 1 and 2 (sentences), 3 (clause); pair 1 row 4 alone.
    levels = Levels(np.array([[0, 1, 3, 4], [4, 5, 5, 5]]), (0.5, 0.25, 0.25))
    drawn = np.array([levels.drawn(7, epoch) for epoch in range(4000)])
    np.testing.assert_array_equal(drawn[3], levels.drawn(7, 3))
    np.testing.assert_array_equal(drawn[:, 1], 4)
    share = np.bincount(drawn[:, 0], minlength=4) / len(drawn)
    np.testing.assert_allclose(share, [0.5, 0.125, 0.125, 0.25], atol=0.03)


@pytest.mark.parametrize("row", [0, 40])
def test_an_epoch_with_levels_has_one_row_of_each_pair(row):
    random = np.random.default_rng(0)
    starts = np.arange(0, 200, 4)[:, None] + np.array([0, 1, 3, 4])
    composition = Composition(random.integers(2, 40, 200), 8, row)
    composition = composition._replace(levels=Levels(starts, (0.4, 0.3, 0.3)))
    plan = composition.epoch(3, 5)
    assert plan.shape == (6, 8) and len(set((plan // 4).ravel().tolist())) == 48
    assert len(set((plan % 4).ravel().tolist())) == 4
    np.testing.assert_array_equal(plan, composition.epoch(3, 5))
