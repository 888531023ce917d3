"""The table of one worked query: the first candidates, and the right one wherever it came."""

import numpy as np

from tmr_jax.eval.report.page import LISTED, candidate_rows
from tmr_jax.eval.rerank_steps import Reranked

COUNT = 20
SMILES = ["C" * (i + 1) for i in range(30)]


def shortlist():
    """Candidates 0 to 19 in this order under every score; the first four are denoised."""
    falling = np.linspace(0.9, 0.1, COUNT)[None]
    return Reranked(np.arange(COUNT)[None], falling, falling, falling[:, :4], falling[:, :4])


def test_the_first_candidates_with_the_right_one_marked():
    rows = candidate_rows(shortlist(), 0.1, 2, SMILES)
    assert [row.rank for row in rows] == list(range(1, LISTED + 1))
    assert [row.smiles for row in rows if row.right] == ["CCC"]
    assert rows[3].cells[2:] == ("0.774", "0.774") and rows[4].cells[2:] == ("", "")


def test_the_right_one_is_added_with_its_place():
    rows = candidate_rows(shortlist(), 0.1, 14, SMILES)
    assert [row.rank for row in rows] == [*range(1, LISTED + 1), 15]
    assert rows[-1].right


def test_a_right_one_off_the_shortlist_is_in_no_row():
    rows = candidate_rows(shortlist(), 0.1, 25, SMILES)
    assert len(rows) == LISTED and not any(row.right for row in rows)
