"""ChEBI-20 in both versions, from stand-in files of each upstream form and from the real ones."""

from __future__ import annotations

import pytest

from tmr_jax.data import DataConfig, load_pairs
from tmr_jax.data import download as fetch
from tmr_jax.data.datasets import chebi20
from tmr_jax.data.download import MissingPart


def test_molt5_has_its_backslashes_single(toy_chebi20) -> None:
    pairs, report = chebi20.load("molt5")
    assert [(p.id, p.split) for p in pairs] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "validation"),
        ("4", "test"),
        ("5", "test"),
    ]
    assert pairs[0].smiles == "C/C=C" + chr(92) + "C"
    assert pairs[2].text == 'The "molecule" is three.'
    assert (report.rows, report.kept, report.refused) == (5, 5, {})


def test_text2mol_is_the_default_and_joins_by_cid(toy_chebi20) -> None:
    pairs = load_pairs(DataConfig(name="chebi20"))
    assert pairs == chebi20.load("text2mol")[0]
    assert len(pairs) == 7
    assert {p.id: p.smiles for p in pairs}["135476785"] == "*"
    assert {p.id: p.smiles for p in pairs}["135476786"] == "*"
    assert {p.id: (p.text, p.smiles) for p in pairs}["4"] == ("Compound 4 is it.", "CN")
    assert [p.split for p in pairs].count("train") == 3


def test_a_text_without_molecule_is_refused_and_counted(toy_chebi20) -> None:
    extra = "999\t0.5 0.5\tA stranger.\n"
    path = toy_chebi20.folder / chebi20.TEXT2MOL_PARTS["test"].name
    toy_chebi20.put(chebi20.TEXT2MOL_PARTS, "test", path.read_text() + extra)
    pairs, report = chebi20.load("text2mol")
    assert report.refused == {"no-smiles-for-cid": 1}
    assert report.rows == 8 and report.kept == len(pairs) == 7


def test_molecules_need_no_texts(toy_chebi20, monkeypatch) -> None:
    toy_chebi20.remove_training_texts()
    assert chebi20.molecules("molt5", "train") == [("1", "C/C=C" + chr(92) + "C"), ("2", "CC")]
    assert chebi20.molecules("text2mol", "train")[-1] == ("135476785", "*")
    monkeypatch.setattr(fetch, "CONNECT_S", 0.5)
    with pytest.raises(MissingPart, match=r"train\.txt.*make data SET=chebi20"):
        chebi20.load("molt5")


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="text2mol, molt5"):
        chebi20.load("molt6")


@pytest.mark.real_data
def test_the_real_files() -> None:
    for version, size in (("molt5", (26_407, 3_301, 3_300)), ("text2mol", (26_408, 3_301, 3_301))):
        for split, count in zip(chebi20.SPLITS, size, strict=True):
            rows = chebi20.molecules(version, split)
            assert len(rows) == len(dict(rows)) == count
            assert not any(2 * chr(92) in smiles for _, smiles in rows)
    named = {p.id: p for p in chebi20.load_split("text2mol", "test")}
    assert named["24589"].text.startswith("Beryllium difluoride is the fluoride salt")
    assert named["135476786"].smiles == "*"
    nameless = {p.id: p for p in chebi20.load_split("molt5", "test")}
    assert set(named) - set(nameless) == {"135476786"}
    assert nameless["5354212"].text.startswith("The molecule is a steroid ester")
