"""The stress tool in its small form, against a real service on a tiny run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import tmr_jax
from tmr_jax import index_build

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "stress_serve.py"))


def test_small_form(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = tmp_path / "library"
    (tmp_path / "my.smi").write_text("".join(f"{'C' * i}O chain{i}\n" for i in range(1, 31)))
    index_build.build(
        index_build.Source(tmp_path / "my.smi"), library, tmr_jax.load(tiny_run).model
    )
    words = ["--run", str(tiny_run), "--library", str(library), "--bodies", "60"]
    words += ["--seconds", "2", "--clients", "8", "--reloads", "3"]
    TOOL["main"]([*words, "--only", "S1", "S2", "S4", "S7", "S9", "F24"])
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    # Times are for a quiet machine; what is not a time holds on any.
    assert {name for name, line in told.items() if line.startswith("ok")} >= {"S1", "S7", "F24"}
    assert set(re.findall(r": (\d{3}) in", told["S2"])) == {"413", "422", "431"}
    assert " 0 errors" in told["S4"] and " 0 failed" in told["S9"]
