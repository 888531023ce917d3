"""Naming a list of molecules: outcomes, and a run that was interrupted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.make import names

NAMES = {"CCO": "ethanol", "OCC": "ethanol", "CC": "oops", "CCC": "propane", "C1CC1": ""}
READ = {"ethanol": "OCC", "oops": "CCC", "ethane": "CC"}


@pytest.mark.parametrize(
    "smiles, right",
    [
        ("CCO", ("ethanol", "same")),
        ("CC", ("oops", "other")),
        ("CCC", ("propane", "unread")),
        ("C1CC1", ("", "unnamed")),
        ("N", ("", "unnamed")),  # KeyError
    ],
)
def test_outcomes(smiles: str, right: tuple[str, str]) -> None:
    assert names.named(smiles, NAMES.__getitem__, lambda name: READ.get(name, "")) == right


def test_without_opsin_names_are_unchecked() -> None:
    assert names.named("CCO", NAMES.__getitem__, lambda name: "") == ("ethanol", "unchecked")


def test_a_molecule_that_takes_too_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(smiles: str) -> str:
        while True:
            try:
                sum(range(1000))
            except Exception:  # as a program may that catches everything
                continue

    monkeypatch.setattr(names, "LIMIT", 0.05)
    assert names.named("CCO", endless, READ.__getitem__) == ("", "too-slow")


def test_an_interrupted_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def name(smiles: str) -> str:
        asked.append(smiles)
        return NAMES[smiles]

    monkeypatch.setitem(sys.modules, "openclatura", SimpleNamespace(name_smiles=name))
    monkeypatch.setattr(
        names, "Opsin", lambda: SimpleNamespace(smiles=lambda name: READ.get(name, ""))
    )
    given, out = tmp_path / "given.smi", tmp_path / "names.tsv"
    given.write_text("CCO my ethanol\nCC\n\nCCO\nCCC\n")
    out.write_text(f"{names.HEADER}CCO\tethanol\tsame\nCC\too")  # killed in the second row
    monkeypatch.setattr("sys.argv", ["names", "--smiles", str(given), "--out", str(out)])
    assert names.main() == 0
    assert asked == ["CC", "CCC"]
    assert out.read_text() == (
        f"{names.HEADER}CCO\tethanol\tsame\nCC\toops\tother\nCCC\tpropane\tunread\n"
    )
    assert capsys.readouterr().out == "3 molecules: 1 same, 1 other, 1 unread\n"
    assert names.main() == 0 and asked == ["CC", "CCC"]
