"""Rows of files as others write them: none is lost, and an invalid one costs itself alone."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from tmr_jax.data.readers import TRAINING, read_rows, read_table, read_texts
from tmr_jax.types import UserError

SMILES = ("CCO", "Nc1ccccc1", "CC(=O)O", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "C/C=C/C", "*CC")
CANONICAL = tuple(Chem.CanonSmiles(smiles) for smiles in SMILES)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, *columns: str) -> list[tuple[int, str, str, str]]:
    """Line, content, name and reason of every row."""
    return [(r.line, r.content, r.name, r.refused) for r in read_rows(path, *columns)]


def names(path: Path, *columns: str) -> list[str]:
    found = list(read_rows(path, *columns))
    assert not any(row.refused for row in found)
    return [row.name for row in found]


# Delimited text


def test_a_quote_that_is_not_closed_costs_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'SMILES,name\nCO,a\nCCO,"5 inch\nCCCO,b\nCCN,c\n')
    assert rows(path, "", "name") == [
        (2, "CO", "a", ""),
        (3, 'CCO,"5 inch', "line 3", "open-quote"),
        (4, "CCCO", "b", ""),
        (5, "CCN", "c", ""),
    ]


@pytest.mark.parametrize(
    "closing",
    ['pipe 5"', '"quoted"', '"', '""', '"a","b"'],
    ids=["at the end", "quoted", "another", "empty", "two"],
)
def test_a_quote_far_below_does_not_close_it(tmp_path: Path, closing: str) -> None:
    between = "".join(f"{'C' * n}O,row {n}\n" for n in range(1, 60))
    path = write(tmp_path / "a.csv", f'SMILES,name\nCCO,"5 inch\n{between}CCN,{closing}\nCO,last\n')
    found = {row.line: row for row in read_rows(path, "", "name")}
    assert found[2].refused == "open-quote"
    assert [found[line].name for line in range(3, 62)] == [f"row {n}" for n in range(1, 60)]
    assert found[63].name == "last" and len(found) == 62


def test_quoted_cells_hold_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'SMILES,name\nCCO,"a, ""b""\nc, d\n\ne"\nCCN,f\n')
    assert rows(path, "", "name") == [(2, "CCO", 'a, "b"\nc, d\n\ne', ""), (6, "CCN", "f", "")]


def test_without_molecules_many_lines_of_the_width_of_a_row_are_rows(tmp_path: Path) -> None:
    below = "".join(f"{n},name {n},text {n}\n" for n in range(9))
    content = f'id,name,text\nx,"y,an alcohol\n{below}9,name" 9,a text\n'
    found = list(read_texts(write(tmp_path / "a.csv", content), "text"))
    assert [row.refused for row in found] == ["open-quote", *[""] * 9, ""]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_line_ends(tmp_path: Path, end: str, packed: bool) -> None:
    contents = {
        "a.smi": end.join(["CCO ethanol", "Nc1ccccc1 aniline", ""]),
        "a.csv": end.join(["SMILES,id", "CCO,ethanol", "Nc1ccccc1,aniline"]),
        "a.tsv": end.join(["SMILES\tid", "CCO\tethanol", "Nc1ccccc1\taniline", ""]),
    }
    for name, content in contents.items():
        raw = content.encode()
        path = write(tmp_path / (name + ".gz" * packed), gzip.compress(raw) if packed else raw)
        assert names(path, "", "" if "smi" in name else "id") == ["ethanol", "aniline"]
    path = write(tmp_path / "a.txt", end.join(["An acid.", "", "A base."]))
    assert [row.content for row in read_texts(path)] == ["An acid.", "", "A base."]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.csv", "SMILES,id\nCCO,β\n".encode(encoding))
    assert names(path, "", "id") == ["β"]
    assert names(write(tmp_path / "a.smi", "CCO β\n".encode(encoding))) == ["β"]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("said", ["", "sep={}\n", '"sep={}"\n'])
def test_the_separator_is_found_or_named(tmp_path: Path, separator: str, said: str) -> None:
    lines = ["SMILES", "id", "logP"], ["CCO", "a", "-0.31"], ["CCN", "b", "1.2"]
    content = said.format(separator) + "".join(separator.join(line) + "\n" for line in lines)
    assert names(write(tmp_path / "a.csv", content), "", "id") == ["a", "b"]
    with pytest.raises(UserError, match=r"column 'x' .*; got 'SMILES', 'id', 'logP'; .*--name-col"):
        names(tmp_path / "a.csv", "", "x")


def test_empty_cells_at_the_end_and_spaces_before_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'SMILES, name,\nCCO, "ethanol, absolute",,\nCCN, amine\n')
    assert names(path, "", "name") == ["ethanol, absolute", "amine"]
    path = write(tmp_path / "b.csv", "SMILES,name,note\nCCO,a\nCCN,b,c\nCCC,d,e,f\n")
    assert rows(path, "", "name") == [
        (2, "CCO,a (2 cells, header has 3)", "line 2", "ragged"),
        (3, "CCN", "b", ""),
        (4, "CCC,d,e,f (4 cells, header has 3)", "line 4", "ragged"),
    ]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_line_of_separators_is_a_row(tmp_path: Path, separator: str) -> None:
    lines = ["SMILES", "name"], ["CCO", "a"], ["", ""], ["CCN", "b"]
    content = "\n".join(map(separator.join, lines)) + "\n\n"
    path = write(tmp_path / "a.csv", content)
    assert rows(path, "", "name")[1] == (3, "", "line 3", "")  # refused as no molecule, later


def test_tabs_and_line_breaks_in_the_quotes_of_a_tsv(tmp_path: Path) -> None:
    content = (
        'SMILES\tname\ttext\nCCO\ta\t"An alcohol.\nVolatile."\nCCN\tb\t"An\tamine"\nCO\tc\t"\n'
    )
    path = write(tmp_path / "a.tsv", content)
    assert names(path, "", "name") == ["a", "b", "c"]
    assert [row.content for row in read_texts(path, "text")] == [
        *("An alcohol.\nVolatile.", "An\tamine", '"')
    ]


def test_bytes_that_are_not_utf_8_cost_their_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "SMILES,name\nCCO,café\nCCN,b\n".encode("cp1252"))
    assert rows(path, "", "name") == [(2, "caf\ufffd", "line 2", "not-utf-8"), (3, "CCN", "b", "")]


# Columns


@pytest.mark.parametrize(
    ("header", "row", "column"),
    [
        ("name,smiles", "x,CCO", "smiles"),
        ("Name,Canonical_SMILES", "x,CCO", "Canonical_SMILES"),
        ("Smiles,SMILES", "C1CC,CCO", "SMILES"),
        ("id,structure", "7,CCO", "structure"),
        ("molecule,what", "aniline,CCO", "what"),
        ("a,b", "x y,CCO", "b"),
    ],
)
def test_the_column_of_the_smiles_is_found(tmp_path, header, row, column) -> None:
    path = write(tmp_path / "a.csv", f"{header}\n{row}\n")
    assert [r.content for r in read_rows(path)] == ["CCO"]
    assert [c.values for c in read_table(path, [column])] == [("CCO",)]


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "canonical_smiles,isomeric_smiles\nCCO,OCC\n")
    with pytest.raises(
        UserError, match="'canonical_smiles', 'isomeric_smiles'; choose one with --sm"
    ):
        list(read_rows(path))
    path = write(tmp_path / "b.csv", "a,b\nx y,1\n")
    with pytest.raises(UserError, match=r"column 'SMILES' in .*set --smiles-column"):
        list(read_rows(path))
    with pytest.raises(UserError, match=r"set --data.table.text"):
        list(read_table(path, ["SMILES"], TRAINING))


def test_a_parquet_file_of_another_writer(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"Smiles": ["CCO", "CCN"], "id": [b"a", "β".encode()], "n": [1, None]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert names(tmp_path / "a.parquet", "", "id") == ["a", "β"]
    assert names(tmp_path / "a.parquet") == ["row 1", "row 2"]


# Lists of molecules


def test_lists_with_headers_columns_and_extensions(tmp_path: Path) -> None:
    header = write(tmp_path / "a.smi", "smiles zinc_id\nCCO Z1\n\n# note\nXX bad\nCCN Z3\n")
    assert rows(header) == [(2, "CCO", "Z1", ""), (5, "XX", "bad", ""), (6, "CCN", "Z3", "")]
    tabs = write(tmp_path / "b.ism", "SMILES\tid\tMW\nCCO\tethyl alcohol\t46\nCCN\t\t45\n")
    assert names(tabs) == ["ethyl alcohol", "line 3"]
    assert names(tabs, "", "MW") == ["46", "45"]
    turned = write(tmp_path / "c.smi", "id\tSMILES\nx 1\tCCO\n")
    assert rows(turned) == [(2, "CCO", "x 1", "")]
    enhanced = "C[C@H](N)C(=O)O |&1:1| rac\nCCO grain alcohol\nCCN |$a;;b$|\tx\t7\n"
    assert rows(write(tmp_path / "d.cxsmiles", enhanced)) == [
        (1, "C[C@H](N)C(=O)O |&1:1|", "rac", ""),
        (2, "CCO", "grain alcohol", ""),
        (3, "CCN |$a;;b$|", "x", ""),
    ]
    assert names(write(tmp_path / "e.smi", "CCO\tan alcohol\t46.1\nC mol\n")) == [
        "an alcohol",
        "mol",
    ]
    with pytest.raises(UserError, match="expected a column 'id' in the header"):
        list(read_rows(tmp_path / "e.smi", "", "id"))


# SDF

FIELDS = "> <ID>\n1\n\n> <SMILES>\nN/A\n\n"


def record(smiles: str, title: str = "", fields: str = "") -> str:
    return f"{title}{Chem.MolToMolBlock(Chem.MolFromSmiles(smiles))}{fields}$$$$\n"


def test_a_record_that_is_not_closed_takes_no_other(tmp_path: Path) -> None:
    records = [record("CCO", fields=f"> <ID>\n{n}\n") for n in range(3)]
    path = write(tmp_path / "a.sdf", "".join(records))
    assert rows(path, "", "ID") == [(1 + 13 * n, "CCO", str(n), "") for n in range(3)]


def test_titles_fields_and_structures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sd", record("OCC", "ethanol", FIELDS) + record("CCN", "", FIELDS))
    assert rows(path) == [(1, "CCO", "ethanol", ""), (18, "CCN", "line 18", "")]
    assert names(path, "", "ID") == ["1", "1"]
    assert [row.content for row in read_rows(path, "SMILES")] == ["N/A", "N/A"]
    assert [c.values for c in read_table(path, ["SMILES", "ID", "_Name"])] == [
        *(("CCO", "1", "ethanol"), ("CCN", "1", ""))
    ]
    with pytest.raises(UserError, match=r"column 'Id' .*did you mean 'ID'"):
        list(read_rows(path, "", "Id"))


def test_enhanced_stereo_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sdf", record("C[C@H](N)C(=O)O |&1:1|", "rac"))
    assert next(read_rows(path)).content == "C[C@H](N)C(=O)O |&1:1|"


def test_invalid_records_cost_themselves(tmp_path: Path) -> None:
    good = record("CCO", "good")
    atom = good.replace(" O  ", " A  ").replace("good", "atom")
    bond = good.replace("  1  2  1  0", "  1  2  8  0").replace("good", "bond")
    records = [good, atom, good, bond, "broken\n\n\nnothing\n$$$$\n", "$$$$\n", good.rstrip("$\n")]
    path = write(tmp_path / "a.sdf", "".join(records))
    found = [(row.refused, row.content) for row in read_rows(path)]
    assert found == [
        ("", "CCO"),
        ("query-atom", "atom"),
        ("", "CCO"),
        ("query-bond", "bond"),
        ("unparsable", "broken"),
        ("unparsable", ""),
        ("", "CCO"),
    ]


# Files of other writers, at random

WORDS = st.sampled_from(["a", "β", "5 inch", '"', '""', ",", ";", "\t", "|", "\n", " ", "x,y", "'"])
CELL = st.lists(WORDS, max_size=6).map("".join).map(str.strip)
TABLE = st.lists(st.tuples(st.sampled_from(SMILES), CELL, CELL), min_size=1, max_size=8)
EXAMPLES = settings(
    derandomize=True, max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.costly
@EXAMPLES
@given(
    TABLE,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(-1, 7),
)
def test_tables_are_read_whole(tmp_path_factory, table, separator, quoting, end, broken) -> None:
    """`broken`: the row before which a row with an open quote is put.

    Cells then have no quotes and line breaks of their own: what closes such a quote is ambiguous.
    """
    if 0 <= broken < len(table):
        table = [tuple(re.sub(r'["\n]', "", cell).strip() for cell in row) for row in table]
    path = tmp_path_factory.getbasetemp() / "random.csv"
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(["SMILES", "name", "note"])
    for number, row in enumerate(table):
        if number == broken:
            out.write(separator.join(["CCCCO", "open", '"5 inch']) + end)
        writer.writerow(row)
    path.write_text(out.getvalue(), "utf-8", newline="")
    found = list(read_table(path, ["SMILES", "name", "note"]))
    kept = [c.values for c in found if not c.refused]
    refused = [c for c in found if c.refused]
    if 0 <= broken < len(table) and separator == "\t":  # where quotes are text to most writers
        assert kept.pop(broken) == ("CCCCO", "open", '"5 inch') and not refused
    elif 0 <= broken < len(table):
        assert [(c.refused, c.value[:5]) for c in refused] == [("open-quote", "CCCCO")]
    else:
        assert not refused
    assert kept == table


RECORD = st.tuples(
    st.sampled_from(SMILES),
    st.sampled_from(["", "ethanol", "β-alanine", "> <x>", "7"]),
    st.sampled_from(["a", "5 inch", "two\nlines", "> 5 mM", "M  END", "β"]),
    st.booleans(),  # V3000
    st.booleans(),  # a blank line before $$$$
)


@pytest.mark.costly
@EXAMPLES
@given(st.lists(RECORD, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n", "\r"]))
def test_sdfs_are_read_whole(tmp_path_factory, records, end) -> None:
    path = tmp_path_factory.getbasetemp() / "random.sdf"
    written = ""
    for smiles, title, note, v3000, closed in records:
        mol = Chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", title)
        mol.SetProp("note", note)
        buffer = io.StringIO()
        writer = Chem.SDWriter(buffer)
        writer.SetForceV3000(v3000)
        writer.write(mol)
        writer.close()
        written += buffer.getvalue() if closed else buffer.getvalue().replace("\n\n$$$$", "\n$$$$")
    path.write_bytes(written.replace("\n", end).encode())
    found = list(read_table(path, ["SMILES", "_Name", "note"]))
    assert [c.refused for c in found] == [""] * len(records)
    wanted = [(CANONICAL[SMILES.index(s)], title, note) for s, title, note, *_ in records]
    assert [c.values for c in found] == wanted
