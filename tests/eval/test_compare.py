"""Two runs compared query by query, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmr_jax.eval.compare import main
from tmr_jax.eval.metrics import TIES
from tmr_jax.eval.protocols import CLEAN, PAIR


def evaluated(run: Path, ranks: list[float], tier: str = "", **more: Any) -> Path:
    """A run with one score of its model in chebi/test, t2m."""
    score = {"protocol": "chebi/test", "direction": "t2m", "tier": tier, "scorer": "model"}
    score |= {"right": PAIR, "queries": len(ranks), "pool": 40, "ties": TIES, "digest": "d"} | more
    others = [score | {"right": CLEAN, "digest": "other"}, score | {"scorer": "ridge"}]
    run.mkdir()
    (run / "results.json").write_text(json.dumps({"scores": [score, *others]}))
    name = ", ".join(filter(None, ("chebi/test", "t2m", tier)))
    (run / "ranks.json").write_text(json.dumps({name: ranks}))
    return run


def test_differences_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluated(tmp_path / "one", [1, 2, 20, 1.5])
    two = evaluated(tmp_path / "two", [1, 1, 4, 1])
    assert main([str(one), str(two), "--resamples", "200"]) == 0
    head, first, ten, mrr, legend = capsys.readouterr().out.splitlines()
    assert head.split()[-2:] == ["%", "interval"]
    assert first.startswith("chebi/test, t2m  ")
    # the tie, at a mean rank of 1.5, is no hit at 1
    assert first.split()[2:6] == ["hits@1", "25.00", "75.00", "+50.00"]
    assert "hits@10" in ten and "75.00" in ten and "100.00" in ten and "+25.00" in ten
    gain = np.mean([1, 1, 1 / 4, 1]) - np.mean([1, 1 / 2, 1 / 20, 1 / 1.5])
    assert f"{gain:+.4f}" in mrr and " to " in mrr
    assert "200 resamples" in legend and "seed 0" in legend


def test_a_run_with_itself_differs_by_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(evaluated(tmp_path / "one", [1, 2, 3], tier="facts"))
    assert main([run, run]) == 0
    assert capsys.readouterr().out.count("+0.0000 to +0.0000") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"digest": "e"}, "expected the same queries and candidates for chebi/test, t2m"),
        ({"pool": 41}, "3 queries, 41 candidates"),
        ({"digest": None}, "older ones"),
        ({"tier": "facts"}, "expected runs with a pool in common"),
    ],
)
def test_runs_that_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], said: str
) -> None:
    one, two = evaluated(tmp_path / "a", [1, 2, 3]), evaluated(tmp_path / "b", [1, 2, 3], **more)
    assert main([str(one), str(two)]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_was_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluated(tmp_path / "a", [1])
    (tmp_path / "b").mkdir()
    assert main([str(run), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert "lacks ranks.json; evaluate it: tmr eval --run" in error
