"""The clock of searches, in small: every line, and recall of a store against itself."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import tmr_jax
from tmr_jax import index_build

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "bench_search.py"))


def test_in_small(tiny_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "my.smi").write_text("".join(f"{'C' * i}O\n" for i in range(1, 40)))
    library = tmp_path / "library"
    source = index_build.Source(tmp_path / "my.smi")
    index_build.build(source, library, tmr_jax.load(tiny_run).model)
    monkeypatch.setitem(TOOL["bench"].__globals__, "WARM", 1)
    TOOL["bench"](TOOL["Arguments"](tiny_run, library, exact=library, asked=4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "39 molecules in library, 4 sentences"
    assert re.fullmatch(r"first stage: p50 \d+\.\d ms, p95 \d+\.\d ms", lines[1])
    assert lines[2] == "recall@10 against exact: 1.0000" and len(lines) == 3
