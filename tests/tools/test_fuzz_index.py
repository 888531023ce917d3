"""The hostile file in small: it holds for the program as it is, and not where a vector moved."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

from tmr_jax.index.build import PATIENCE

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "fuzz_index.py"))


def told(run, folder, **named):
    return TOOL["Arguments"](run=run, rows=120, folder=folder, **named)


def test_a_library_is_none_the_worse(tiny_run, tmp_path, capfd):
    assert TOOL["check"](told(tiny_run, tmp_path), tmp_path) == 0
    said = capfd.readouterr().out
    assert "12 sound molecules as in a library of their own: holds" in said
    assert "\n0 molecules ended their process or hung it: holds\n" in said
    assert f"\n0 took longer than {PATIENCE:g} s: holds\n" in said
    for reason in ("too-long", "unparsable", "not-utf-8"):
        assert f"  {reason}: " in said


def test_molecules_that_hang_or_take_too_long_are_counted(tmp_path, monkeypatch, capsys):
    """What was refused is read from refused.tsv: a build is played that says so."""
    reasons = ["crashed", "too-slow", "too-slow"]

    def made(run, source, out):
        out.mkdir()
        lines = "".join(f"{i}\t{reason}\tC\n" for i, reason in enumerate(reasons))
        (out / "refused.tsv").write_text("row\treason\tbeginning\n" + lines)
        return 1.0, SimpleNamespace(account={"rows": 132, "kept": 129}, batches=lambda: ())

    monkeypatch.setitem(TOOL["check"].__globals__, "made", made)
    monkeypatch.setitem(TOOL["check"].__globals__, "rounding_of", lambda run: 1e-6)
    assert TOOL["check"](told("run", tmp_path), tmp_path) == 1
    said = capsys.readouterr().out
    assert "1 molecules ended their process or hung it: DOES NOT HOLD" in said
    assert f"2 took longer than {PATIENCE:g} s: DOES NOT HOLD" in said


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
