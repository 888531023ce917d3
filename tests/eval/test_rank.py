"""Ranks by counting: ties, twins, chunks, labels, refusals."""

import numpy as np
import pytest

from tmr_jax.eval import rank as module
from tmr_jax.eval.rank import TILE, count, rank, score_chunks, top
from tmr_jax.models.encode import l2_normalize


def rows(count, dim=12, seed=0):
    return l2_normalize(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def brute(scores, target):
    """One comparison at a time; `scores` [Q, C] with every candidate a column of its own."""
    greater = [sum(s > row[t] for s in row) for row, t in zip(scores, target, strict=True)]
    equal = [
        sum(s == row[t] for j, s in enumerate(row) if j != t)
        for row, t in zip(scores, target, strict=True)
    ]
    return greater, equal


def from_scores(scores, target, **options):
    """Rank a hand-made score matrix: candidate j is the j-th axis, so row i holds its scores."""
    width = scores.shape[1]
    groups = np.arange(width)
    return rank(np.float32(scores), np.eye(width, dtype=np.float32), target, groups, **options)


def test_hand_made_four_by_five_with_ties():
    scores = np.array(
        [
            [0.9, 0.1, 0.1, 0.1, 0.1],  # best, alone
            [0.5, 0.5, 0.5, 0.2, 0.1],  # level with two others at the top
            [0.9, 0.8, 0.3, 0.3, 0.1],  # two above, one level
            [0.4, 0.4, 0.4, 0.4, 0.4],  # all level
        ]
    )
    found = from_scores(scores, np.array([0, 1, 2, 3]))
    assert found.greater.tolist() == [0, 0, 2, 0]
    assert found.equal.tolist() == [0, 2, 1, 4]
    assert found.pool_size == 5


def test_unequal_counts_agree_with_brute_force(monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 64)
    query, candidate = rows(50), rows(333, seed=1)
    target = np.random.default_rng(2).integers(0, 333, 50)
    for texts, molecules, wanted in ((query, candidate, target), (candidate, query, target % 50)):
        wanted = np.resize(wanted, len(texts))
        found = rank(texts, molecules, wanted)
        scores = np.concatenate([s.copy() for _, s in score_chunks(texts, molecules)])
        assert (found.greater.tolist(), found.equal.tolist()) == brute(scores, wanted)


@pytest.mark.parametrize("held", [TILE, 3 * TILE, 1000])
def test_scores_are_the_same_bits_whatever_the_chunk(held, monkeypatch):
    query, candidate = rows(150, 300), rows(401, 300, seed=1)
    whole = np.concatenate([s.copy() for _, s in score_chunks(query, candidate)])
    monkeypatch.setattr(module, "QUERIES", held)
    parts = [s.copy() for _, s in score_chunks(query, candidate)]
    assert max(map(len, parts)) == min(held, 150)
    assert np.array_equal(whole, np.concatenate(parts))


def test_equal_rows_tie_exactly_and_count_once_each():
    candidate = rows(40, 300)
    candidate[[7, 23, 31]] = candidate[3]
    found = rank(candidate[:8], candidate, np.arange(8))
    assert found.equal.tolist() == [0, 0, 0, 3, 0, 0, 0, 3]
    assert found.greater.tolist() == [0] * 8


def test_a_group_is_scored_by_its_first_row_only():
    candidate = rows(6)
    group = np.array([0, 1, 0, 2, 3, 2])
    found = rank(candidate[[0, 3]], candidate, np.array([2, 5]), group)
    assert found.greater.tolist() == [0, 0]
    assert found.equal.tolist() == [1, 1]


def test_weights_count_every_member_of_a_better_group():
    scores = np.array([[0.9, 0.5, 0.1]])
    found = rank(
        np.float32(scores),
        np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]],
        np.array([3]),
    )
    assert found.greater.tolist() == [3]


def test_a_label_lets_the_best_of_the_equally_right_stand_for_the_target():
    scores = np.array([[0.9, 0.2, 0.8, 0.3, 0.5]])
    assert from_scores(scores, np.array([1])).greater.tolist() == [4]
    labels = np.array([[0, 7, 7, 3, 7]])
    found = from_scores(scores, np.array([1]), labels=labels)
    assert (found.greater.tolist(), found.equal.tolist()) == ([1], [0])


def test_twins_with_other_labels_still_tie():
    candidate = rows(5)
    candidate[4] = candidate[0]
    found = rank(candidate[:1], candidate, np.array([0]), labels=np.array([[1, 2, 3, 1, 2]]))
    assert (found.greater.tolist(), found.equal.tolist()) == ([0], [1])


def test_unique_labels_change_nothing():
    query, candidate, target = rows(20), rows(30, seed=1), np.arange(20)
    candidate[9] = candidate[2]
    own = np.arange(30)[None]
    plain, labelled = (rank(query, candidate, target, labels=x) for x in (None, own))
    assert np.array_equal(plain.greater, labelled.greater)
    assert np.array_equal(plain.equal, labelled.equal)


def test_any_of_several_labels_makes_right_and_none_makes_a_chain():
    # 1 shares its text with 0, 3 its molecule with 0; 2 shares its text with 3 only.
    labels = np.array([[0, 0, 2, 2], [0, 1, 2, 0]])
    scores = np.array([[0.5, 0.8, 0.9, 0.6], [0.5, 0.6, 0.9, 0.8]])
    found = from_scores(scores, np.array([0, 0]), labels=labels)
    assert (found.greater.tolist(), found.equal.tolist()) == ([1, 1], [0, 0])


def test_further_right_candidates_are_those_of_a_query_and_need_no_label(monkeypatch):
    scores = np.array([[0.5, 0.9, 0.8, 0.9]] * 3 * 4)
    own = np.arange(4)[None]
    further = np.array([[0, 0], [2, 0], [1, 2]] * 4)  # filled up with the target
    found = from_scores(scores, np.zeros(12, int), labels=own, further=further)
    assert (found.greater.tolist(), found.equal.tolist()) == ([3, 2, 0] * 4, [0, 0, 1] * 4)
    monkeypatch.setattr(module, "QUERIES", TILE)  # more than one chunk
    parts = from_scores(scores, np.zeros(12, int), labels=own, further=further)
    assert np.array_equal(parts.greater, found.greater)


def test_the_right_ones_leave_the_ties_of_the_best_of_them():
    candidate = rows(6)[[0, 0, 0, 1, 1, 2]]
    # 0, 1 and 2 are one input; 0 and 1 are right, 2 is level with them.
    found = rank(candidate[:1], candidate, np.array([1]), labels=np.array([[7, 7, 2, 3, 4, 5]]))
    assert (found.greater.tolist(), found.equal.tolist()) == ([0], [1])


def test_scores_at_hand_are_counted_like_those_of_rows():
    scores = np.float32([[0.9, 0.5, 0.1], [0.1, 0.5, 0.5]])
    chunks = [(0, scores[:1]), (1, scores[1:])]
    found = count(chunks, np.array([1, 3]), np.array([0, 1, 0, 2]))
    assert (found.greater.tolist(), found.equal.tolist()) == ([2, 0], [0, 1])


def test_nan_names_the_query():
    query = rows(70)
    query[65, 3] = np.nan
    with pytest.raises(ValueError, match="NaN for query 65"):
        rank(query, rows(5), np.zeros(70, int))


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_target_outside_the_pool_is_refused(wrong):
    with pytest.raises(ValueError, match=r"0\.\.4; got -?\d for query 1"):
        rank(rows(2), rows(5), np.array([0, wrong]))


def test_top_is_sorted_and_ties_go_to_the_lower_index():
    scores = np.array([[0.1, 0.7, 0.7, 0.9, 0.7]])
    index, value = top(np.float32(scores), np.eye(5, dtype=np.float32), 3)
    assert index.tolist() == [[3, 1, 2]]
    assert value[0] == pytest.approx([0.9, 0.7, 0.7])


def test_top_of_a_pool_smaller_than_k_is_the_whole_pool():
    assert top(rows(2), rows(3, seed=1), 10)[0].shape == (2, 3)


def test_a_query_alone_gets_the_bits_it_gets_in_company():
    query, candidate = rows(150, 300), rows(401, 300, seed=1)
    whole = np.concatenate([s.copy() for _, s in score_chunks(query, candidate)])
    for i in (0, 5, 31, 77, 149):
        assert np.array_equal(next(score_chunks(query[i : i + 1], candidate))[1][0], whole[i])
