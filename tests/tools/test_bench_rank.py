"""The benchmark of ranks on a small pool: vectors are kept, every line has a time and a size."""

from __future__ import annotations

import importlib
import re

TOOL = vars(importlib.import_module("tools.bench.rank"))
MEASURE = TOOL["measure"]


def test_times_and_memory_are_printed_and_vectors_kept(tmp_path, monkeypatch, capsys):
    for name, value in {"QUERIES": 20, "POOL": 90, "DIM": 8, "SQUARE": 16}.items():
        monkeypatch.setitem(MEASURE.__globals__, name, value)
    MEASURE(tmp_path / "kept")
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()}
    assert set(kept) == {"query.npy", "candidate.npy"}
    MEASURE(tmp_path / "kept")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()} == kept
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == "20 queries x 90 candidates x 8"
    assert all(
        re.search(r": \d+\.\d\d s, peak memory so far \d+\.\d\d GiB$", x) for x in lines[1:5]
    )
