"""Alignment, uniformity, modality gap and histograms of cosines on small cases."""

import numpy as np
import pytest

from tests.eval.vectors import AXES, on_circle, random_rows
from tmr_jax.eval.diagnostics import EDGES, alignment, modality_gap, similarities, uniformity


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
