"""Scores by index, by identity and without training duplicates; the duplicate ceiling."""

import numpy as np
import pytest

from tmr_jax.eval.protocols import CLEAN, HOLDER, IDENTITY, PAIR
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.eval.scores import (
    ALL_DUPLICATES,
    NO_DUPLICATE,
    SAME,
    ceiling,
    identity_labels,
    query_sets,
    rank_by_identity,
    score_sides,
    with_clean,
)
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool


def score_pool(pool, text, mol):
    return score_sides(pool.protocol, query_sets(pool, text, mol))


def test_ceiling_by_hand():
    group = np.array([0, 1, 0, 2, 0])
    target = np.array([0, 1, 3, 4])
    found = ceiling(group, target)
    assert found.twins == 1.0
    assert found.queries_with_twin == 0.5
    assert found.hits1 == pytest.approx((1 / 3 + 1 + 1 + 1 / 3) / 4)


def test_without_twins_the_ceiling_is_one():
    assert ceiling(np.arange(4), np.arange(4)).hits1 == 1.0


def test_identical_texts_have_a_number_by_identity():
    pool = Pool("table/test", ("a", "a", "b"), ("C", "CC", "CCC"), np.arange(3), np.arange(3))
    rows = np.eye(3, dtype=np.float32)
    # Both texts "a" are one input and point at the second molecule.
    text = Encoded(rows[[1, 1, 2]], np.array([0, 0, 1]))
    found = {(s.direction, s.right): s for s in score_pool(pool, text, Encoded(rows, np.arange(3)))}
    assert found["t2m", PAIR].ranking.greater.tolist() == [1, 0, 0]
    assert found["t2m", IDENTITY].ranking.greater.tolist() == [0, 0, 0]
    assert found["m2t", PAIR].ranking.equal.tolist() == [1 + 1, 1, 0]
    assert found["m2t", IDENTITY].ranking.equal.tolist() == [1, 0, 0]
    assert found["m2t", PAIR].ceiling.hits1 == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_who_has_no_other_half_is_like_nobody():
    pool = Pool("x/full", ("a", "a"), ("C", "CC", "CCC"), np.array([2, 0]), np.full(3, -1))
    text, mol = identity_labels(pool)
    assert text[0, 0] == text[0, 1] == mol[0, 0] == mol[0, 2]
    assert mol[0, 1] == -1 and -1 not in text
    assert text[1].tolist() == mol[1, [2, 0]].tolist()
    assert len(set(mol[1])) == 3


def test_pairs_that_do_not_ask_have_an_identity():
    """Test queries in a full pool: a training molecule of the same text is as right."""
    pool = Pool("x/full", ("a", "a", "b"), ("C", "CC", "CCC"), *2 * [np.array([-1, 1, 2])])
    rows = np.eye(3, dtype=np.float32)
    text = Encoded(rows[[0, 0, 2]], np.array([0, 0, 1]))
    found = {(s.direction, s.right): s for s in score_pool(pool, text, Encoded(rows, np.arange(3)))}
    assert found["t2m", PAIR].ranking.greater.tolist() == [1, 0]
    assert found["t2m", IDENTITY].ranking.greater.tolist() == [0, 0]


def test_one_molecule_written_in_two_ways_is_right_twice():
    # 0 and 1 share the molecule, 1 and 2 the text: that makes 2 no answer to 0.
    pool = Pool("x/test", ("a", "b", "b"), ("OCC", "CCO", "CCN"), np.arange(3), np.arange(3))
    scores = np.float32([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9], [0.1, 0.2, 0.9]])
    mol = Encoded(np.eye(3, dtype=np.float32), np.arange(3))
    pair, identity, *_ = score_pool(pool, Encoded(scores, np.arange(3)), mol)
    assert pair.ranking.greater.tolist() == [2, 1, 0]
    assert (identity.right, identity.ranking.greater.tolist()) == (IDENTITY, [1, 0, 0])


def test_queries_that_hold_for_several_molecules_have_one_line_that_counts_them_all():
    further = np.array([[0, 2], [1, 1]])
    pool = Pool("x/clause", ("a", "b"), ("C", "CC", "CCC"), np.arange(2), np.full(3, -1), further)
    scores = np.float32([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9]])
    text, mol = Encoded(scores, np.arange(2)), Encoded(np.eye(3, dtype=np.float32), np.arange(3))
    (found,) = score_pool(pool, text, mol)
    assert (found.right, found.ceiling, found.ranking.greater.tolist()) == (HOLDER, None, [0, 2])
    assert with_clean([found], pool, query_sets(pool, text, mol), frozenset()) == [found]


def test_a_score_that_is_the_same_by_identity_says_so_in_a_line():
    pool = Pool("x/test", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    rows = Encoded(np.eye(2, dtype=np.float32), np.arange(2))
    assert [(s.right, s.notes) for s in score_pool(pool, rows, rows)] == 2 * [(PAIR, (SAME,))]


def clean_of(scores, pool, rows, *blocks):
    return with_clean(scores, pool, query_sets(pool, rows, rows), frozenset(blocks))


def test_queries_without_a_connectivity_twin_have_a_line_from_the_same_ranks():
    pool = Pool("x/test", ("a", "b", "c"), ("CCO", "CC", "CCC"), np.arange(3), np.arange(3))
    rows = Encoded(np.eye(3, dtype=np.float32)[[0, 0, 2]], np.array([0, 0, 2]))
    scores = score_pool(pool, rows, rows)
    found = clean_of(scores, pool, rows, "LFQSCWFLJHTTHZ")  # ethanol
    assert [s.right for s in found] == [PAIR, CLEAN, PAIR, CLEAN]
    assert found[1].ranking.equal.tolist() == [1, 0] and found[1].ranking.pool_size == 3
    assert found[1].ceiling.hits1 == 0.75 and found[0].ceiling.hits1 == pytest.approx(2 / 3)
    assert found[1].notes == ()
    none = clean_of(scores, pool, rows)
    assert [s.right for s in none] == [PAIR, PAIR] and none[0].notes == (SAME, NO_DUPLICATE)
    ethanol = pool._replace(smiles=("CCO", "OCC", "C(O)C"))
    every = clean_of(scores[:1], ethanol, rows, "LFQSCWFLJHTTHZ")
    assert [(s.right, s.notes) for s in every] == [(PAIR, (SAME, ALL_DUPLICATES))]
    assert with_clean(scores, pool, [], None) == scores


def test_of_a_second_stage_the_best_of_the_right_ones_counts():
    # 0 is right by index and on no list; 1 has its text and is listed third, 2 to 4 are others.
    pool = Pool("x", ("a", "a", "b", "c", "d"), ("C", "CC", "CCC", "CN", "CS"), *2 * [np.arange(5)])
    axes = np.eye(5, dtype=np.float32)
    one = Lists(
        reranked=Reranked(
            item=np.array([[2, 3, 1], [1, 2, 3]]),
            first=np.float32([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]]),
            perturbed=np.float32([[0.9, 0.8, 0.7], [0.9, 0.9, 0.7]]),
            local=np.zeros((2, 2), np.float32),
            clean=np.zeros((2, 2), np.float32),
        ),
        query=np.float32([[0.1, 0.7, 0.9, 0.8, 0.2], [0.1, 0.9, 0.8, 0.7, 0.2]]),
        candidate=axes,
        target=np.array([0, 1]),
        count=np.ones(5, np.int64),
    )
    rows = Encoded(axes, np.arange(5))
    side = query_sets(pool._replace(text_target=np.array([0, 1, -1, -1, -1])), rows, rows)[0]
    assert one.ranking("tapr").greater.tolist() == [4, 0]
    found = rank_by_identity(one, side, "tapr", 0.0)
    assert (found.greater.tolist(), found.equal.tolist()) == ([2, 0], [0, 1])
    det = rank_by_identity(one, side, "det", 0.0)
    assert (det.greater.tolist(), det.equal.tolist()) == ([2, 0], [0, 0])


def test_a_pool_of_queries_on_one_side_is_ranked_one_way():
    pool = Pool("x/full", ("a", "b"), ("C", "CC", "CCC"), np.array([2, 0]), np.full(3, -1))
    rows = np.eye(3, dtype=np.float32)
    found = score_pool(pool, Encoded(rows[[2, 0]], np.arange(2)), Encoded(rows, np.arange(3)))
    assert [s.direction for s in found] == ["t2m"]
    assert found[0].ranking.pool_size == 3
