"""The table of runs that differ in their seed: means, ranges and the widest intervals, by hand."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "seeds_table.py"))


def score(tier: str, hits: float, low: float, high: float) -> dict:
    values = {"hits@1": hits, "hits@10": 0.5, "mrr": 0.25}
    gains = {"mrr": [hits - 0.2, -0.01, 0.02]}
    return {
        "protocol": "table/test",
        "direction": "t2m",
        "tier": tier,
        "scorer": "model",
        "right": "its own partner",
        "metrics": values,
        "intervals": {"hits@1": [low, high], "hits@10": [0.2, 0.3], "mrr": [0.2, 0.3]},
        "over_det": None if tier == "det" else gains,
        "refined": None if tier == "det" else {"alpha": 0.1},
    }


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = []
    for i, (hits, low, high) in enumerate([(0.2, 0.1, 0.3), (0.3, 0.15, 0.45)]):
        run = tmp_path / f"run{i}"
        run.mkdir()
        scores = [score("fused", hits, low, high), score("det", 0.2, 0.1, 0.3)]
        baseline = score("det", 0.9, 0.8, 1.0) | {"scorer": "ridge"}
        text = json.dumps({"scores": [*scores, baseline]})
        (run / "results.json").write_text(text, encoding="utf-8")
        found.append(run)
    return found


def test_means_ranges_and_widest_intervals(runs):
    lines = TOOL["table"]([TOOL["scores"](run) for run in runs]).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["det", "fused"]  # in order of tiers
    assert "| 20.0 (20.0 to 20.0) [10.0 to 30.0] |" in lines[2]
    assert "| 0.1, 0.1 | 25.0 (20.0 to 30.0) [10.0 to 45.0] |" in lines[3]
    assert "+0.0500 (+0.0000 to +0.1000) [-0.0100 to +0.0200]" in lines[3]


def test_a_run_without_results_is_said(tmp_path):
    with pytest.raises(ValueError, match="evaluate the run"):
        TOOL["scores"](tmp_path)
