"""PCdes by file order and by scaffold; lines whose SMILES do not parse are refused and counted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tmr_jax.data import download as fetch
from tmr_jax.data.datasets import pcdes
from tmr_jax.data.download import MissingPart

RINGS = ["c1ccccc1", "C1CCCC1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "c1ccsc1", "C1CCC1", "C1CC1"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 lines (28, 4 and 8), two texts more than count, and a molecule on line 37 that is none."""
    monkeypatch.setenv("TMR_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    for name, value in (("LINES", 40), ("VALIDATION", 28), ("TEST", 32)):
        monkeypatch.setattr(pcdes, name, value)
    smiles = [f"{'C' * (1 + i // 8)}O{RINGS[i % 8]}" for i in range(40)]
    smiles[37] = "CF(C)C"
    texts = [f"it is number {i}" for i in range(42)]
    (tmp_path / "pcdes").mkdir()
    put(tmp_path, monkeypatch, "SMILES", "\n".join(smiles) + "\n")
    put(tmp_path, monkeypatch, "TEXTS", "\n".join(texts) + "\n")
    entries = [{"cid": i, "smiles": s, "caption": f"it is {i}"} for i, s in enumerate(smiles[:8])]
    put(tmp_path, monkeypatch, "SCAFFOLD_TEST", json.dumps(entries))
    return tmp_path


def put(folder: Path, monkeypatch, name: str, content: str) -> None:
    part = getattr(pcdes, name)
    (folder / "pcdes" / part.name).write_text(content, newline="")
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    monkeypatch.setattr(pcdes, name, part._replace(sha256=sha256, git_blob="", size=0))


def test_protocol_1_goes_by_file_order(toy) -> None:
    pairs, report = pcdes.load("file-order")
    assert [p.id for p in pairs] == [str(i) for i in range(40) if i != 37]
    assert report.splits == {"train": 28, "validation": 4, "test": 7}
    assert (report.rows, report.kept) == (40, 39)
    assert sum(report.refused.values()) == 1
    assert report.examples[0].row == 38 and report.examples[0].value == "CF(C)C"
    assert pairs[5].text == "it is number 5"


def test_one_split_from_either_form(toy, monkeypatch) -> None:
    tests, report = pcdes.load_split("file-order", "test")
    assert [p.id for p in tests] == ["32", "33", "34", "35", "36", "38", "39"]
    assert report.rows == 8 and report.kept == 7
    rows = ["line\tCID\tSMILES\tsplit\tin_scaffold_test\tdescription"]
    smiles = (toy / "pcdes/align_smiles.txt").read_text().splitlines()
    for i, s in enumerate(smiles):
        text = "" if i < 28 else f"it is number {i}"
        rows.append(f"{i}\t{900 + i}\t{s}\t{pcdes.split_of(i)}\t0\t{text}")
    put(toy, monkeypatch, "TABLE", "\n".join(rows) + "\n")
    (toy / "pcdes/align_des_filt3.txt").unlink()
    assert pcdes.load_split("file-order", "test")[0] == tests
    assert pcdes.load_split("file-order", "train")[0] == []  # no line without its text
    monkeypatch.setattr(fetch, "CONNECT_S", 0.5)
    with pytest.raises(MissingPart, match=r"align_des_filt3\.txt.*make data SET=pcdes"):
        pcdes.load("file-order")


def test_protocol_3_keeps_scaffolds_apart(toy) -> None:
    pairs, report = pcdes.load("scaffold")
    held_out = {p.smiles for p in pairs if p.split == "test"}
    assert len(held_out) == 8 and report.splits["test"] == 8
    assert not held_out & {p.smiles for p in pairs if p.split != "test"}
    kinds = {
        split: {p.smiles.lstrip("C").removeprefix("O") for p in pairs if p.split == split}
        for split in ("train", "validation")
    }
    assert kinds["train"] and kinds["validation"]
    assert not kinds["train"] & kinds["validation"]
    assert {p.id for p in pcdes.load_split("scaffold", "test")[0]} == {f"cid-{i}" for i in range(8)}


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="file-order, scaffold"):
        pcdes.load("random")


@pytest.mark.real_data
def test_the_real_lines() -> None:
    tests, report = pcdes.load_split("file-order", "test")
    assert (report.rows, report.kept) == (3_000, 2_999)
    assert sum(report.refused.values()) == 1 and "12072" not in {p.id for p in tests}
    assert tests[0].id == "12000" and tests[-1].id == "14999"
    assert pcdes.load_split("file-order", "validation")[1].kept == 1_500
