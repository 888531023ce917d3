"""IUPAC names as second captions: none of an evaluated molecule, every row accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmr_jax.data.datasets import iupac, open_pairs, table
from tmr_jax.data.readers import read_table

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


@pytest.mark.costly
@pytest.mark.real_data
def test_no_name_is_of_an_evaluated_molecule() -> None:
    pairs, report = iupac.iupac_pairs()
    assert (report.rows, report.kept, report.refused) == (11_856, 8_245, {"evaluated": 3_611})
    columns = ["inchikey", "eval_skeletons"]
    rows = (c.values for c in read_table(open_pairs.locate(open_pairs.PAIRS), columns))
    flagged = {k[:14] for k, marks in rows if table.flags(marks) & {*open_pairs.EVALUATED}}
    assert not flagged & set(iupac.blocks([p.smiles for p in pairs]))
