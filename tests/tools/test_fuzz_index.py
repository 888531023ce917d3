"""The hostile file in small: it holds for the program as it is, and not where a vector moved."""

from __future__ import annotations

import runpy
from pathlib import Path

from tmr_jax.index_build import PATIENCE

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "fuzz_index.py"))


def told(run, folder, **named):
    return TOOL["Arguments"](run=run, rows=120, folder=folder, **named)


def test_a_library_is_none_the_worse(tiny_run, tmp_path, capfd):
    assert TOOL["check"](told(tiny_run, tmp_path), tmp_path) == 0
    said = capfd.readouterr().out
    assert "12 sound molecules as in a library of their own: holds" in said
    assert f"no molecule took its process {PATIENCE:g} s: holds" in said
    for reason in ("too-long", "unparsable", "not-utf-8"):
        assert f"  {reason}: " in said


def test_a_vector_that_moved_is_told(tiny_run, tmp_path, monkeypatch, capfd):
    within = TOOL["check"].__globals__
    vectors = TOOL["vectors"]
    monkeypatch.setitem(
        within,
        "vectors",
        lambda store: {
            name: row + ("fuzzed" in str(store.folder)) for name, row in vectors(store).items()
        },
    )
    assert TOOL["check"](told(tiny_run, tmp_path), tmp_path) == 1
    assert "as in a library of their own: DOES NOT HOLD" in capfd.readouterr().out


def test_rows_are_the_same_for_the_same_seed_and_differ_for_another():
    fuzzed = TOOL["fuzzed"]
    assert fuzzed(500, ["CCO", "c1ccccc1N"], 0) == fuzzed(500, ["CCO", "c1ccccc1N"], 0)
    assert fuzzed(500, ["CCO", "c1ccccc1N"], 0) != fuzzed(500, ["CCO", "c1ccccc1N"], 1)
