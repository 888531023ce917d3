"""What the columns of a file hold, decided by all of their values."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tmr_jax.data import columns as module
from tmr_jax.data.columns import Column, as_date, as_number, kept, read_columns
from tmr_jax.data.readers import read_rows


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "text, number",
    {
        **{
            "7": 7,
            "-0.5": -0.5,
            "+.5": 0.5,
            "1e-9": 1e-9,
            "5.": 5,
            "123456789012345": 123456789012345,
        },
        **dict.fromkeys(["007", "1,5", "1e999", "nan", "", ">10", "1234567890123456", "٣"]),
    }.items(),
)
def test_numbers(text: str, number: float | None) -> None:
    assert as_number(text) == number


@pytest.mark.parametrize(
    "text, date",
    {
        **{"2024-01-31": "2024-01-31", "2024-01-31 00:00:00": "2024-01-31"},
        **dict.fromkeys(["2024-02-30", "31.01.2024", "2024-01", "2024-01-31 10:00", "20240131"]),
    }.items(),
)
def test_dates(text: str, date: str | None) -> None:
    assert as_date(text) == date


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(
        tmp_path / "my.csv",
        'SMILES,n,d,t,mixed,empty,,twice,twice,"a ""b\tc"',
        "C,1,2024-01-31,x,1,,p,1,2,é",
        "C,,2024-02-01,,, ,p,1,2,",
        "CC,1e3,,007,>10,,p,1,2,",
    )


def test_all_values_decide(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    found = read_columns(table, ["SMILES"], lambda name: name == "t")
    assert found[:4] == [
        Column("n", "number", "n"),
        Column("d", "date", "d"),
        Column("file.t", "text", "t"),
        Column("mixed", "text", "mixed", "'>10' in line 4 is not a number"),
    ]
    left_out = {column.source: column.why for column in found if not column.kind}
    assert left_out == {"": "it has no name", "twice": "2 columns have this name"}
    assert kept(found)["empty"] == "text" and found[-1].name == 'a "b c'


def test_cells_of_a_row(table: Path) -> None:
    found = [column for column in read_columns(table, ["SMILES"]) if column.kind]
    rows = list(read_rows(table, own=[column.source for column in found]))
    read = {c.name: c.values(row.own[i] for row in rows) for i, c in enumerate(found)}
    assert read == {
        **{"n": [1.0, None, 1000.0], "d": ["2024-01-31", "2024-02-01", None]},
        **{"t": ["x", None, "007"], "mixed": ["1", None, ">10"], "empty": [None] * 3},
        'a "b c': ["é", None, None],
    }


def test_fields_of_an_sdf(tmp_path: Path) -> None:
    path = tmp_path / "my.sdf"
    atom = "    0.0000    0.0000    0.0000 C   0  0"
    block = f"{{}}\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n{atom}\nM  END\n"
    fields = [">  <CID>\n7\n\n>  <SMILES>\nC\n", ">  <Note>\na\nb\n", ">  <CID>\n8\n"]
    path.write_text("".join(block.format("t") + field + "\n$$$$\n" for field in fields))
    assert kept(read_columns(path, ["SMILES", "_Name"])) == {
        **{"CID": "number", "SMILES": "text", "Note": "text"}
    }
    assert list(kept(read_columns(path, ["<SMILES>", "CID"]))) == ["Note"]
    cells = [row.own for row in read_rows(path, own=["CID", "Note"])]
    assert cells == [("7", ""), ("", "a\nb"), ("8", "")]


def test_types_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "my.parquet"
    midnight = datetime.datetime(2024, 1, 31)
    table = {"smiles": ["C", "CC"], "f": [0.5, float("nan")], "i": [1, None], "b": [True, None]}
    pq.write_table(pa.table(table | {"t": [midnight, None], "l": [[1], [2]]}), path)
    assert kept(read_columns(path, ["smiles"])) == {
        **{"f": "number", "i": "number", "b": "text", "t": "date"}
    }
    assert read_columns(path, ["smiles"])[-1] == Column("l", "", "l", "it holds lists")


def test_what_is_left_out_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 5)
    monkeypatch.setattr(module, "MOST", 3)
    path = tmp_path / "my.csv"
    path.write_text("SMILES,long,µ,n,m,o\nC,12345,1 µM,1,1,1\nC,123456,,,,\n", "utf-8")
    why = [(column.source, column.why) for column in read_columns(path, ["SMILES"])]
    assert why == [
        *[("long", "line 3 has more than 5 characters"), ("µ", ""), ("n", "")],
        ("", "a file has more than 3 columns of its own"),
    ]
    path.write_text("SMILES,a  b,a b,MW,file.MW\nC,1,2,3,4\n")
    found = read_columns(path, ["SMILES"], lambda name: name == "MW")
    assert kept(found) == {"a b": "number", "file.MW": "number"}
    assert found[1].why == "another column is called 'a b', too" and not found[3].kind
    path.write_bytes(b"SMILES,unit\nC,\xb5M\n")
    (column,) = read_columns(path, ["SMILES"])
    assert column.why == "line 2 is not in UTF-8"
    (row,) = read_rows(path, own=["unit"])
    assert not row.refused  # as before, when nobody read that column
