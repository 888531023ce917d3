"""The cost curves, of a toy model: points are measured, what does not fit is missing and said."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.bench.curves", "--shrunk", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_points_are_measured_and_drawn(tmp_path):
    out = tmp_path / "cost.png"
    done = run("--curves", "K", "--most", "8", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    assert list(found) == ["K"] and list(found["K"]) == ["8"]
    assert found["K"]["8"]["seconds"] > 0 and found["K"]["8"]["gib"] > 0.05
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_curve_that_there_is_not():
    done = run("--curves", "speed")
    assert done.returncode == 1 and "expected curves of batch" in done.stderr


def test_slow_work_is_repeated_less(monkeypatch):
    from tools.bench import curves as bench_curves

    assert len(bench_curves.repeated(lambda: None)) == 1 + bench_curves.TIMED
    monkeypatch.setattr(bench_curves, "ENOUGH_S", -1)
    assert len(bench_curves.repeated(lambda: None)) == 2
