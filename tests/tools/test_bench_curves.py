"""The cost curves, of a toy model: points are measured, what does not fit is missing and said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import curves

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_points_are_measured_and_drawn(tmp_path):
    out = tmp_path / "cost.png"
    words = ["--shrunk", "--curves", "K", "--most", "8", "--out", str(out)]
    command = [sys.executable, "-m", "tools.bench.curves", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    assert list(found) == ["K"] and list(found["K"]) == ["8"]
    assert found["K"]["8"]["seconds"] > 0 and found["K"]["8"]["gib"] > 0.05
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_curve_that_there_is_not():
    with pytest.raises(SystemExit, match="expected curves of batch"):
        curves.main(curves.Arguments(curves=("speed",)))


def test_slow_work_is_repeated_less(monkeypatch):
    assert len(curves.repeated(lambda: None)) == 1 + curves.TIMED
    monkeypatch.setattr(curves, "ENOUGH_S", -1)
    assert len(curves.repeated(lambda: None)) == 2
