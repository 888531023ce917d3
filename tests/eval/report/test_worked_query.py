"""The table of one worked query: the first candidates, and the right one wherever it came."""

import re

import numpy as np

from tmr_jax.eval.report.worked_query import SHOWN, _parts_table
from tmr_jax.eval.rerank_steps import Refined

COUNT = 20
SMILES = ["C" * (i + 1) for i in range(30)]


def shortlist():
    """Candidates 0 to 19 in this order under every score; the first four are denoised."""
    falling = np.linspace(0.9, 0.1, COUNT)[None]
    return Refined(np.arange(COUNT)[None], falling, falling, falling[:, :4], falling[:, :4])


def places(html):
    return [int(place) for place in re.findall(r'<th scope="row">(\d+)', html)]


def test_the_first_candidates_with_the_right_one_marked():
    html = _parts_table(shortlist(), 0.1, 2, SMILES)
    assert places(html) == list(range(1, SHOWN + 1))
    assert "3 ✓<code>CCC</code>" in html


def test_the_right_one_is_added_with_its_place():
    html = _parts_table(shortlist(), 0.1, 14, SMILES)
    assert places(html) == [*range(1, SHOWN + 1), 15]
    assert "15 ✓" in html


def test_a_right_one_off_the_shortlist_is_said():
    html = _parts_table(shortlist(), 0.1, 25, SMILES)
    assert places(html) == list(range(1, SHOWN + 1)) and "✓" not in html
    assert "not on the shortlist of 20" in html
