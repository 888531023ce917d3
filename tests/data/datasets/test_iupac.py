"""IUPAC names as second captions: none of an evaluated molecule, every row accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmr_jax.data import DataConfig, TableConfig, load_pairs
from tmr_jax.data.datasets import iupac, open_pairs, table
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair

ROWS = """cid SMILES description
1 C[C@H](N)C(=O)O (2S)-2-aminopropanoic-acid
2 CCO ethanol
3 C[C@@H](N)C(=O)O (2R)-2-aminopropanoic-acid
4 CC* something
5 CCN\x20
"""


def test_rows_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluated molecule keeps its mirror image out, too."""
    file = tmp_path / "names.tsv"
    file.write_text(ROWS.replace(" ", "\t"))
    monkeypatch.setattr(iupac, "locate", lambda part: file)
    evaluated = frozenset(iupac.blocks(["C[C@H](N)C(=O)O"]))
    monkeypatch.setattr(iupac, "evaluated_blocks", lambda: evaluated)
    pairs, report = iupac.iupac_pairs()
    assert [(p.id, p.text, p.smiles, p.split) for p in pairs] == [("2", "ethanol", "CCO", "train")]
    assert report.refused == {"evaluated": 2, "no-inchikey": 1, "no-name": 1}
    assert report.rows == 5 == report.kept + sum(report.refused.values())


def named(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("SMILES name outcome", *rows, "")).replace(" ", "\t"))
    return path


def test_training_molecules_get_their_names_once_and_others_none(tmp_path: Path) -> None:
    file = named(
        tmp_path / "names.tsv",
        *("CCO ethanol same", "CC ethane unchecked", "CCC propan other", "C  unnamed"),
        *("CO methanol same", "CCCC butane same"),
    )
    told = [("1", "CCO", "train"), ("2", "CC", "train"), ("3", "CCC", "train"), ("4", "C", "train")]
    told += [("5", "CO", "test"), ("6", "CCO", "train")]
    pairs = [Pair(i, "a text", smiles, split) for i, smiles, split in told]
    report = table.Report(source="here", rows=6)
    iupac.add_names(pairs, report, file)
    assert [(p.id, p.text, p.smiles, p.split) for p in pairs[6:]] == [
        ("1-name", "ethanol", "CCO", "train"),
        ("2-name", "ethane", "CC", "train"),
    ]
    assert (report.rows, report.kept, report.splits) == (8, 8, {"train": 7, "test": 1})
    assert report.sources == [{"source": "IUPAC names", "licence": "MIT", "rows": 2}]
    with pytest.raises(ValueError, match="none of 1; make them"):
        iupac.add_names([Pair("a", "a text", "CCC", "train")], report, file)


def test_names_are_an_option_of_every_data_set(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("SMILES,description\nCCO,an alcohol\nCC,a gas\n")
    file = named(tmp_path / "names.tsv", "CCO ethanol same")
    shares = TableConfig(path=str(own), fractions=(1.0, 0.0, 0.0))
    pairs = load_pairs(DataConfig(name="table", table=shares, names=str(file)))
    assert [pair.text for pair in pairs] == ["an alcohol", "a gas", "ethanol"]


@pytest.mark.costly
@pytest.mark.real_data
def test_no_name_is_of_an_evaluated_molecule() -> None:
    pairs, report = iupac.iupac_pairs()
    assert (report.rows, report.kept, report.refused) == (11_856, 8_245, {"evaluated": 3_611})
    columns = ["inchikey", "eval_skeletons"]
    rows = (c.values for c in read_table(open_pairs.locate(open_pairs.PAIRS), columns))
    flagged = {k[:14] for k, marks in rows if table.flags(marks) & {*open_pairs.EVALUATED}}
    assert not flagged & set(iupac.blocks([p.smiles for p in pairs]))
