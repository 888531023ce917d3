"""Groups of near pairs: by hand, each pair once, and none of two that are equal."""

import numpy as np

from tmr_jax.data.batching import Composition, mined_plan
from tmr_jax.data.mining import Mined, near_groups, whole_numbers

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(4, 120, 203)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def mined(rows, size, kinds=None):
    own = np.repeat(np.arange(len(rows))[:, None], 2, 1)
    return Mined(whole_numbers(rows), own if kinds is None else np.array(kinds), size)


def clusters(count, size=4):
    """Rows around `count` centres: row i is of cluster i // size."""
    centres = unit(RNG.normal(size=(count, 32)))
    return unit(np.repeat(centres, size, 0) + 0.02 * RNG.normal(size=(count * size, 32)))


def test_groups_are_the_clusters_wherever_their_pairs_are():
    order = RNG.permutation(40)
    groups = near_groups(order, mined(clusters(10), 4))
    assert {tuple(sorted(g)) for g in groups.tolist()} == {
        tuple(range(i, i + 4)) for i in range(0, 40, 4)
    }
    assert groups[0, 0] == order[0]  # the first that is free


def test_a_group_is_the_first_and_what_is_nearest_to_it():
    angles = np.array([0.0, 0.5, 0.1, 0.2, 0.9, 0.6])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert near_groups(np.arange(6), mined(rows, 3)).tolist() == [[0, 2, 3], [1, 5, 4]]


def test_equal_molecules_and_equal_texts_are_in_no_group_together():
    angles = np.array([0.0, 0.1, 0.2, 0.3, 1.0, 1.1])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    kinds = [[0, 0], [0, 1], [2, 0], [3, 3], [4, 4], [5, 5]]  # 1 is the molecule, 2 the text of 0
    groups = near_groups(np.arange(6), mined(rows, 2, kinds))
    assert groups.tolist() == [[0, 3], [1, 2], [4, 5]]
    alone = near_groups(np.arange(4), mined(rows[:4], 4, kinds[:4]))
    assert alone.tolist() == [[0, 3, 1, 2]]  # nothing else is left


def test_a_product_of_rows_is_a_whole_number_that_float32_holds():
    rows = whole_numbers(unit(RNG.normal(size=(50, 256)))).astype(np.float32)
    product = rows @ rows.T
    assert (product == (rows[:, ::-1] @ rows[:, ::-1].T)).all()
    assert (product == np.rint(product)).all() and product.max() < 2**24


def test_a_mined_plan_is_a_function_of_seed_and_epoch_and_has_no_pair_twice():
    chosen = mined(unit(RNG.normal(size=(203, 16))), 4)
    plan = mined_plan(3, 5, LENGTHS, 8, chosen)
    assert plan.shape == (25, 8) and len(np.unique(plan)) == 200
    assert np.array_equal(plan, Composition(LENGTHS, 8, 128, mined=chosen).epoch(3, 5))
    for seed, epoch in ((3, 6), (4, 5)):
        assert not np.array_equal(plan, mined_plan(seed, epoch, LENGTHS, 8, chosen))


def test_batches_hold_near_pairs_and_have_their_share_of_all_lengths():
    rows = clusters(50)
    lengths = np.repeat(RNG.integers(4, 120, 50), 4)
    plan = mined_plan(0, 0, lengths, 8, mined(rows, 4))
    together = rows[plan] @ rows[plan].transpose(0, 2, 1)
    assert np.mean(together > 0.9) == 0.5  # two whole clusters, and nothing else is near
    shuffled = RNG.permutation(200).reshape(25, 8)
    assert lengths[plan].sum(1).std() < 0.8 * lengths[shuffled[:, :2]].sum(1).std() * 4
