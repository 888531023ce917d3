"""The check of explanations, on a score that is known: a sum over what is left."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "check_explanations.py"))


def chosen(**more):
    return TOOL["Arguments"](Path("runs/none"), **more)


def test_a_right_explanation_takes_the_largest_and_a_wrong_one_does_not():
    worth = np.array([5.0, 4.0, 3.0, 0.0, 0.0, 0.0])

    def score(sets):
        return np.array([worth.sum() - worth[s].sum() for s in sets])

    rng = np.random.default_rng(0)
    best, random = TOOL["fall"](12.0, worth.tolist(), score, chosen(deleted=2, draws=400), rng)
    assert best == 9.0 and random == pytest.approx(4.0, abs=0.3)
    worst, _ = TOOL["fall"](12.0, (-worth).tolist(), score, chosen(deleted=2), rng)
    assert worst == 0.0


def test_in_small(tiny_run, monkeypatch, capsys):
    pair = ("an acid with one ring and some more words to read", "CC(=O)Oc1ccccc1C(=O)O")
    monkeypatch.setitem(TOOL["check"].__globals__, "pairs_of", lambda *_: [pair, pair])
    found = TOOL["check"](TOOL["Arguments"](tiny_run, deleted=2, draws=2))
    assert found["words"][0] >= found["words"][1] and set(found) == {"words", "atoms"}
    assert capsys.readouterr().out.count("2 pairs, 2 deleted, seed 0") == 2
