"""The columns of a user's file: filters, hits and exports; a change of a cell encodes nothing."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rdkit import Chem

import tmr_jax
from tmr_jax.search.__main__ import main

TABLE = """SMILES,CID,pIC50,Batch,Measured,MW,"Assay, value",=note
CCO,702,7.5,A12,2024-01-31,46.1,1,=1+1
CCN,6341,,A13,2023-12-01,45.1,,plain
c1ccccc1N,6115,8,A12,2024-03-01 00:00:00,93.1,3,
CCO,702,6,B 7,,46.1,4,another row of ethanol
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def words(tiny_run: Path, table: Path) -> list[str]:
    return ["--run", str(tiny_run), "--library", str(table), "--name-column", "CID", "an amine"]


@pytest.fixture
def library(tiny_run: Path, table: Path) -> tmr_jax.search.retriever.Retriever:
    return tmr_jax.load(tiny_run).with_library(table, name_column="CID")


def test_columns_have_kinds_and_one_called_as_ours_another_name(library) -> None:
    assert library.columns == {
        **{"pIC50": "number", "Batch": "text", "Measured": "date", "file.MW": "number"},
        **{"Assay, value": "number", "=note": "text"},
    }
    (note,) = library.library.notes
    assert note == "column 'MW' of the file is called 'file.MW' here"


@pytest.mark.parametrize(
    "where, ids",
    [
        (["pIC50>6"], [0, 2]),
        (["pic50<=7.5"], [0, 3]),
        (["Batch=A12"], [0, 2]),
        (["BATCH = B 7"], [3]),
        (["Measured>=2024-01-31"], [0, 2]),
        (["Measured<2024-01-31", "mw<46"], [1]),
        (["file.MW>90"], [2]),
        (["assay_value>=3"], [2, 3]),
        (["Assay, value=1"], [0]),
        (["pIC50<7", "distinct"], [3]),  # the first row of ethanol does not meet it
        (["pIC50>5", "distinct", "!arene"], "one"),
    ],
)
def test_filters(library, where: list[str], ids: list[int] | str) -> None:
    hits = library.search("an amine", 10, library.where(where))
    if ids == "one":
        assert len(hits) == 1 and hits[0].content == "CCO"
    else:
        assert sorted(hit.id for hit in hits) == ids


def test_a_hit_has_the_cells_of_its_row(library) -> None:
    hits = {hit.id: hit for hit in library.search("a nitrile", 10)}
    own = {name: hits[3].columns[name] for name in library.columns}
    assert own == {
        **{"pIC50": 6, "Batch": "B 7", "Measured": None, "file.MW": 46.1, "Assay, value": 4},
        "=note": "another row of ethanol",
    }
    assert hits[1].columns["pIC50"] is None and hits[2].columns["Measured"] == "2024-03-01"
    assert library.named("6115").nearest.columns["pIC50"] == 8


def test_exports(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--csv"]) == 0
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert list(rows["0"])[-6:] == [
        *("pIC50", "Batch", "Measured", "file.MW", "Assay, value", "'=note"),
    ]
    assert rows["0"]["'=note"] == "'=1+1" and rows["1"]["pIC50"] == "" and rows["2"]["pIC50"] == "8"
    assert main([*words, "--out", str(tmp_path / "hits.json")]) == 0
    assert not capsys.readouterr().out
    found = json.loads((tmp_path / "hits.json").read_text("utf-8"))
    assert found["library"]["columns"]["Measured"] == "date"
    hits = {hit["id"]: hit["columns"] for hit in found["results"][0]["hits"]}
    assert hits[1] == {
        **{"Batch": "A13", "Measured": "2023-12-01", "file.MW": 45.1, "=note": "plain"}
    }
    assert main([*words, "--out", str(tmp_path / "hits.sdf")]) == 0
    molecules = {m.GetProp("id"): m for m in Chem.SDMolSupplier(str(tmp_path / "hits.sdf"))}
    assert molecules["3"].GetProp("Batch") == "B 7" and not molecules["3"].HasProp("Measured")
    assert molecules["0"].GetProp("Assay, value") == "1"
    assert main([*words, "--out", str(tmp_path / "hits.parquet")]) == 0
    table = pq.read_table(tmp_path / "hits.parquet")
    read = {row["id"]: row for row in table.to_pylist()}
    assert read[0]["Measured"] == date(2024, 1, 31) and read[3]["Measured"] is None
    assert read[1]["pIC50"] is None and read[0]["pIC50"] == 7.5
    assert read[2]["groups"] == ["primary-amine", "aromatic-amine", "arene"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_table_of_no_hits_has_the_columns(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "hits.parquet"
    assert main([*words, "--out", str(out), "--where", "pIC50>100"]) == 0
    table = pq.read_table(out)
    assert len(table) == 0 and "date32" in str(table.schema.field("Measured").type)


def test_the_terminal_shows_those_of_the_filter_first(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--where", "file.MW>0"]) == 0
    out, err = capsys.readouterr()
    header = next(line for line in out.splitlines() if "score" in line)
    assert header.split()[-3:] == ["file.MW", "pIC50", "Batch"]
    assert "column 'MW' of the file is called 'file.MW' here" in err
    assert " A12" in out


@pytest.mark.parametrize(
    "where, said",
    [
        ("pIC5>7", "did you mean pIC50?"),
        ("Batch>7", "'Batch', which holds text, with =, as in Batch=A12, got 'Batch>7'"),
        ("pIC50>high", "'pIC50', which holds numbers, as in pIC50>7"),
        ("Measured>2024", "holds dates, as in Measured>=2024-01-31"),
        ("Batch=", "got 'Batch='"),
        ("Batch", "or Batch=... of the file"),
    ],
)
def test_mistakes(
    words: list[str], where: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--where", where]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--out", "x.txt"], ["--out", "x.csv", "--json"]])
def test_one_form_of_output(words: list[str], extra: list[str], capsys) -> None:
    assert main([*words, *extra]) == 2
    assert "expected" in capsys.readouterr().err
