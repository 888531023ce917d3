"""Trust signals against numbers worked out by hand."""

import numpy as np
import pytest

from tmr_jax.eval.calibration import (
    BINS,
    EDGES,
    alignment,
    auroc,
    confidence,
    ece,
    modality_gap,
    ood_scores,
    reliability,
    similarities,
    temperature,
    uniformity,
)
from tmr_jax.models.encode import unit

AXES = np.eye(3, dtype=np.float32)


def on_circle(*degrees):
    turn = np.deg2rad(degrees)
    return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)


def random_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return unit(rows.astype(np.float32))


def test_ood_score_is_the_mean_of_the_nearest():
    known = on_circle(0, 60, 90)
    query = on_circle(0, 180)
    assert ood_scores(query, known, 1) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert ood_scores(query, known, 2) == pytest.approx([1 - 0.75, 1 + 0.25], abs=1e-6)
    every = [1 - 1.5 / 3, 1 + 1.5 / 3]
    assert ood_scores(query, known, 3) == pytest.approx(every, abs=1e-6)
    assert ood_scores(query, known, 99) == pytest.approx(every, abs=1e-6)


def test_ood_scores_are_of_each_query_alone():
    query, known = random_rows(600, 8, 0), random_rows(50, 8, 1)
    found = ood_scores(query, known, 5)
    nearest = np.sort(query @ known.T, axis=1)[:, -5:]
    assert found == pytest.approx(1 - nearest.mean(1), abs=1e-6)
    assert ood_scores(query[300:301], known, 5) == pytest.approx(found[300:301], abs=1e-7)


@pytest.mark.parametrize(("rows", "neighbours"), [(0, 1), (3, 0)])
def test_ood_scores_need_something_known(rows, neighbours):
    with pytest.raises(ValueError, match="expected reference rows"):
        ood_scores(AXES, AXES[:rows], neighbours)


def test_auroc_by_hand():
    # Couples: 2 > 1, 2 = 2, 3 > 1, 3 > 2, and 1.5 > 1, 1.5 < 2.
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0, 1.5])) == pytest.approx(4.5 / 6)
    assert auroc(np.array([0.0, 1.0]), np.array([2.0])) == 1.0
    assert auroc(np.array([2.0]), np.array([0.0, 1.0])) == 0.0
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_auroc_is_the_share_of_couples():
    random = np.random.default_rng(0)
    low, high = random.integers(0, 9, 40), random.integers(3, 12, 70)
    couples = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    assert auroc(low.astype(float), high.astype(float)) == pytest.approx(couples.mean())


def test_auroc_of_nothing_is_refused():
    with pytest.raises(ValueError, match="scores of both kinds"):
        auroc(np.zeros(0), np.ones(3))


def test_confidence_is_the_softmax_of_the_best():
    query, candidate = AXES[:1], np.stack([AXES[0], AXES[1], -AXES[0]])  # cosines 1, 0, -1
    parts = np.exp(np.array([1.0, 0.0, -1.0]) / 0.5)
    assert confidence(query, candidate, 0.5) == pytest.approx([parts[0] / parts.sum()])
    assert confidence(query, candidate, 1e-3) == pytest.approx([1.0])
    assert confidence(query, AXES[[0, 0]], 0.5) == pytest.approx([0.5])  # twins share


def test_temperature_makes_the_share_of_hits_the_confidence():
    # Three of four queries are right, and every right margin is 1: 1 / (1 + exp(-1/T)) = 3/4.
    query, candidate = AXES[[0, 0, 0, 0]], AXES[:2]
    found = temperature(query, candidate, np.array([0, 0, 0, 1]))
    assert found == pytest.approx(1 / np.log(3), rel=2e-3)
    assert confidence(query, candidate, found) == pytest.approx([0.75] * 4, abs=1e-3)


def test_temperature_does_not_care_how_far_below_a_missed_target_is():
    query, candidate = AXES[[0, 0, 0, 0]], np.stack([AXES[0], AXES[1], -AXES[0]])
    missed = [temperature(query, candidate, np.array([0, 0, 0, i])) for i in (1, 2)]
    # x = exp(-1/T), 1 / (1 + x + x^2) = 3/4
    assert missed == pytest.approx([-1 / np.log((np.sqrt(7 / 3) - 1) / 2)] * 2, rel=2e-3)


def test_temperature_is_found_again():
    random = np.random.default_rng(0)
    query, candidate = random_rows(3000, 6, 1), random_rows(12, 6, 2)
    chance = np.exp(query @ candidate.T / 0.2)
    chance /= chance.sum(1, keepdims=True)
    target = np.array([random.choice(12, p=row) for row in chance])
    found = temperature(query, candidate, target)
    assert found == pytest.approx(0.2, rel=0.06)
    correct = ((query @ candidate.T).argmax(1) == target).astype(float)
    assert ece(confidence(query, candidate, found), correct) < 0.03
    assert ece(confidence(query, candidate, 1.0), correct) > 0.2


def test_ece_by_hand():
    sure = np.array([0.1, 0.1, 0.95, 0.95, 0.95, 0.95])
    correct = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    # |0.1 - 0.5| of two queries, |0.95 - 0.75| of four
    assert ece(sure, correct, 10) == pytest.approx((2 * 0.4 + 4 * 0.2) / 6)
    found = reliability(sure, correct, 10)
    assert found.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert found.correct[[0, 9]] == pytest.approx([0.5, 0.75]) and found.correct[5] == 0


def test_bins_close_on_the_right_and_none_is_lost():
    ends = np.array([0.0, 1 / 3, 0.34, 2 / 3, 1.0])
    assert reliability(ends, ends, 3).count.tolist() == [2, 2, 1]
    assert ece(ends, ends, 3) == pytest.approx(0.0)
    assert len(reliability(ends, ends).count) == BINS == 15


def test_ece_takes_shares_of_twins():
    assert ece(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0.0


def test_alignment_and_gap_by_hand():
    text, mol = AXES[[0, 0]], AXES[[0, 1]]
    assert alignment(text, mol) == pytest.approx((0 + 2) / 2)
    assert modality_gap(text, mol) == pytest.approx(np.sqrt(0.25 + 0.25))
    assert alignment(AXES, -AXES) == pytest.approx(4.0)
    assert modality_gap(AXES[:1], -AXES[:1]) == pytest.approx(2.0)


def test_uniformity_by_hand():
    assert uniformity(AXES) == pytest.approx(-4.0)  # all couples at squared distance 2
    assert uniformity(AXES[[0, 0, 0]]) == pytest.approx(0.0, abs=1e-6)
    # Couples at squared distances 0, 2 and 2
    by_hand = np.log((1 + 2 * np.exp(-4.0)) / 3)
    assert uniformity(AXES[[0, 0, 1]]) == pytest.approx(by_hand)


def test_uniformity_of_many_rows_is_that_of_all_couples():
    rows = random_rows(700, 5, 3)
    first, second = np.triu_indices(700, 1)
    apart = np.square(rows[first] - rows[second]).sum(1)
    assert uniformity(rows) == pytest.approx(np.log(np.exp(-2 * apart).mean()), rel=1e-5)


def test_uniformity_of_one_row_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity(AXES[:1])


def test_similarities_count_partners_and_strangers():
    text, mol = on_circle(0, 90), on_circle(10, 180)
    right, wrong = similarities(text, mol, np.arange(2), np.arange(2))
    assert right.sum() == 2 and wrong.sum() == 2

    def filled(counts):
        return [(float(EDGES[i]), float(EDGES[i + 1])) for i in np.flatnonzero(counts)]

    cosines = np.cos(np.deg2rad([90, 10])), np.cos(np.deg2rad([180, 80]))
    for bins, values in zip((filled(right), filled(wrong)), cosines, strict=True):
        assert all(any(low <= v + 1e-6 <= high + 2e-6 for low, high in bins) for v in values)
        assert len(bins) == 2


def test_equal_texts_and_equal_molecules_are_no_strangers():
    rows, alone = random_rows(600, 4, 0), np.arange(600)
    twins = alone.copy()
    twins[599] = 0
    for groups in ((twins, alone), (alone, twins)):
        right, wrong = similarities(rows, rows, *groups)
        assert right.sum() == 600 and wrong.sum() == 600 * 599 - 2
