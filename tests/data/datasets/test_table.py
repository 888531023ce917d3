"""An invalid row is skipped and counted, a broken file is an error that says what to do."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tmr_jax.data import TableConfig, files
from tmr_jax.data.datasets.table import (
    Report,
    check_fractions,
    flags,
    load,
    random_split,
    scaffold_splits,
    show_report,
    stream,
)
from tmr_jax.data.readers import read_table
from tmr_jax.types import UserError


def config(path: Path, **changes) -> TableConfig:
    changes = {"fractions": (1.0, 0.0, 0.0), **changes}
    return TableConfig(path=str(path), **changes)


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def accounts(report: Report) -> bool:
    return report.rows == report.kept + report.dropped + sum(report.refused.values())


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path, name, end, mark) -> None:
    comma = "," if ".csv" in name else "\t"
    rows = [("SMILES", "description"), ("CCO", "an alcohol"), ("C", "a gas")]
    path = write(tmp_path / name, mark + end.join(comma.join(r) for r in rows) + end)
    pairs, report = load(config(path), seed=0)
    assert [(p.id, p.smiles, p.text, p.split) for p in pairs] == [
        ("1", "CCO", "an alcohol", "train"),
        ("2", "C", "a gas", "train"),
    ]
    assert (report.rows, report.kept, report.refused) == (2, 2, {})
    assert [c.values for c in read_table(path, ["description"])] == [("an alcohol",), ("a gas",)]


def test_quotes_hold_commas_and_line_ends(tmp_path) -> None:
    path = write(tmp_path / "a.csv", 'SMILES,description\nCCO,"one, ""two""\nthree"\nC,x\n')
    assert [p.text for p in load(config(path), 0)[0]] == ['one, "two"\nthree', "x"]
    path = write(tmp_path / "a.tsv", 'SMILES\tdescription\nCCO\t"a ""b"" c"\nC\t"5"-end\n')
    assert [p.text for p in load(config(path), 0)[0]] == ['a "b" c', '"5"-end']


def test_every_row_is_accounted_for(tmp_path) -> None:
    rows = [
        b"id,SMILES,description",
        b"1,CCO,an alcohol",
        b"2,CCO",
        b"3,CCO,a,b",
        b"4,C(C,unclosed",
        b"5,CCO,   ",
        b"6,CCO,na\xefve",  # Latin-1
        b"7,CCO,na\xc3\xafve",  # UTF-8
        b"1,CC,the same id",
        b",CC,no id",
        b"8,,no molecule",
        b"9,CC,last",
    ]
    path = write(tmp_path / "a.csv", b"\n".join(rows) + b"\n")
    pairs, report = load(config(path, id="id"), seed=0)
    assert [p.id for p in pairs] == ["1", "7", "9"]
    assert pairs[1].text == "na\u00efve"
    assert report.refused == {
        "ragged": 2,
        "unparsable": 1,
        "empty-text": 1,
        "not-utf-8": 1,
        "duplicate-id": 1,
        "empty-id": 1,
        "empty": 1,
    }
    assert report.rows == 11 and accounts(report)
    assert (4, "unparsable", "C(C") in report.examples


def test_a_cell_of_ten_million_characters_costs_its_row_only(tmp_path) -> None:
    long = "x" * 10_000_000
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        text = f"SMILES{comma}description\nC{comma}one\nCC{comma}{long}\nCCC{comma}three\n"
        pairs, report = load(config(write(tmp_path / name, text)), seed=0)
        assert [p.text for p in pairs] == ["one", "three"]
        assert report.refused == {"too-long": 1} and accounts(report)


def test_a_quote_that_never_closes_does_not_swallow_the_file(tmp_path) -> None:
    rest = "CC,filler of some length\n" * 20_000
    path = write(tmp_path / "a.csv", f'SMILES,description\nC,"open\n{rest}')
    pairs, report = load(config(path), seed=0)
    assert report.refused == {"open-quote": 1}
    assert len(pairs) == 20_000 and accounts(report)


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path) -> None:
    path = write(tmp_path / "a.csv", "smiles,descriptions\nC,a gas\n")
    with pytest.raises(ValueError, match=r"'description'.*did you mean 'descriptions'"):
        load(config(path), 0)
    with pytest.raises(ValueError, match="did you mean 'smiles'"):
        load(config(path, text="descriptions"), 0)
    path = write(tmp_path / "b.csv", "C,a gas\nCC,a gas too\n")
    with pytest.raises(ValueError, match="without a header"):
        load(config(path), 0)
    with pytest.raises(ValueError, match="an empty file"):
        load(config(write(tmp_path / "c.csv", "")), 0)
    path = write(tmp_path / "d.csv", "SMILES,SMILES,description\nC,C,a\n")
    with pytest.raises(ValueError, match="got 2"):
        load(config(path), 0)


def test_files_that_are_no_tables_say_so(tmp_path) -> None:
    with pytest.raises(ValueError, match="nothing"):
        load(config(tmp_path / "none.csv"), 0)
    with pytest.raises(ValueError, match="convert"):
        load(config(write(tmp_path / "a.docx", "x")), 0)
    with pytest.raises(ValueError, match="Parquet"):
        load(config(write(tmp_path / "a.parquet", "no")), 0)
    damaged = tmp_path / "b.csv.gz"
    damaged.write_bytes(gzip.compress(b"SMILES,description\nC,a\n" * 999)[:-20])
    with pytest.raises(ValueError, match="damaged"):
        load(config(damaged), 0)
    with pytest.raises(ValueError, match=r"at least one usable row.*row 1: empty-text"):
        load(config(write(tmp_path / "c.csv", "SMILES,description\nC,\n")), 0)


def test_a_gzip_bomb_is_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "EXPANSION_FLOOR", 1 << 20)
    bomb = b"SMILES,description\n" + b"C," + b"a" * (8 << 20)
    path = write(tmp_path / "a.csv.gz", bomb)
    assert len(bomb) > 100 * path.stat().st_size
    with pytest.raises(ValueError, match="unpack to at most 100 times"):
        load(config(path), 0)
    monkeypatch.setattr(files, "EXPANSION_FLOOR", 1 << 30)
    monkeypatch.setattr(files, "EXPANSION_LIMIT", 1 << 20)
    with pytest.raises(ValueError, match="unpack"):
        load(config(path), 0)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_parquet(tmp_path, suffix) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"SMILES": ["CCO", None, "C"], "description": ["a", "b", None], "n": [7, 8, 9]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    path = write(tmp_path / f"b.parquet{suffix}", (tmp_path / "a.parquet").read_bytes())
    pairs, report = load(config(path, id="n"), 0)
    assert [(p.id, p.smiles, p.text) for p in pairs] == [("7", "CCO", "a")]
    assert report.refused == {"empty": 1, "empty-text": 1}
    with pytest.raises(ValueError, match="did you mean 'description'"):
        load(config(path, text="descripton"), 0)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_sdf(tmp_path, suffix) -> None:
    from rdkit import Chem

    records = []
    for smiles, text in (("CCO", "an alcohol"), ("C[C@H](N)C(=O)O", "an amino acid")):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles(smiles))
        records.append(f"{block}>  <about>\n{text}\n\n$$$$\n")
    records.insert(1, records[0].replace("V2000", "V9999"))
    path = write(tmp_path / f"a.sdf{suffix}", "".join(records))
    pairs, report = load(config(path, text="about"), 0)
    assert [(p.smiles, p.text) for p in pairs] == [
        ("CCO", "an alcohol"),
        ("C[C@H](N)C(=O)O", "an amino acid"),
    ]
    assert report.refused == {"unparsable": 1} and accounts(report)
    with pytest.raises(ValueError, match="'about'"):
        load(config(path, text="abuot"), 0)


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_a_damaged_sdf_is_explained_and_none_of_its_molecules_is_cut(tmp_path, lost) -> None:
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    place = write(tmp_path / "a.sdf.gz", f"{block}>  <description>\nx\n\n$$$$\n" * 5_000)
    place.write_bytes(place.read_bytes()[:-lost])
    rows, values = read_table(place, ["SMILES", "description"]), []
    with pytest.raises(UserError, match=r"expected a whole gzip file .*; got .*; copy or download"):
        values.extend(row.values for row in rows)
    assert set(values) == {("CCO", "x")}


def test_an_sdf_is_read_as_it_is_unpacked(tmp_path, monkeypatch) -> None:
    """A copy on the disk could take a hundred times as much room."""
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    place = write(tmp_path / "a.sdf.gz", f"{block}$$$$\n" * 100)
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    assert [row.values for row in read_table(place, ["SMILES"])] == [("CCO",)] * 100


def test_a_property_that_is_not_utf_8_costs_its_row_only(tmp_path) -> None:
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")).encode()
    texts = [b"an alcohol", b"na\xefve", b"the last"]
    records = [block + b">  <about>\n" + text + b"\n\n$$$$\n" for text in texts]
    path = write(tmp_path / "a.sdf", b"".join(records))
    pairs, report = load(config(path, text="about"), 0)
    assert [p.text for p in pairs] == ["an alcohol", "the last"]
    assert report.refused == {"not-utf-8": 1} and accounts(report)
    assert (report.examples[0].row, report.examples[0].value) == (2, "na\ufffdve")


def test_splits_by_column_and_filter(tmp_path) -> None:
    rows = ["SMILES,description,part,marks"]
    rows += ["C,a,train,", "CC,b,Valid,ct", 'CCC,c,TEST,"cv,mt"', "CCCC,d,other,", "CO,e,dev,xct"]
    path = write(tmp_path / "a.csv", "\n".join(rows) + "\n")
    chosen = config(path, split="column", split_column="part")
    pairs, report = load(chosen, 0)
    assert [p.split for p in pairs] == ["train", "validation", "test", "validation"]
    assert report.refused == {"unknown-split": 1}
    assert report.splits == {"train": 1, "validation": 2, "test": 1}
    filtered = config(path, drop_column="marks", drop_values=("cv", "ct"))
    pairs, report = load(filtered, 0)
    assert [p.text for p in pairs] == ["a", "d", "e"]
    assert report.dropped == 2 and accounts(report)
    with pytest.raises(ValueError, match="split-column"):
        load(config(path, split="column"), 0)
    assert flags(" cv, ct;a b") >= {"cv", "ct", "a", "b"}


def test_random_and_scaffold_splits_of_a_table(tmp_path) -> None:
    rows = [f"{'C' * (1 + i % 40)}{'c1ccccc1' if i % 3 else 'C1CCCC1'},text {i}" for i in range(90)]
    path = write(tmp_path / "a.csv", "SMILES,description\n" + "\n".join(rows) + "\n")
    thirds = (0.5, 0.25, 0.25)
    pairs, report = load(config(path, fractions=thirds), seed=1)
    assert set(report.splits) == {"train", "validation", "test"}
    assert pairs == load(config(path, fractions=thirds), seed=1)[0]
    assert pairs != load(config(path, fractions=thirds), seed=2)[0]
    assert any("SMILES that is in training too" in note for note in report.notes)
    pairs, report = load(config(path, split="scaffold", fractions=thirds), seed=1)
    assert sum(report.splits.values()) == report.kept == 90
    rings = {s: {"c1" in p.smiles for p in pairs if p.split == s} for s in report.splits}
    assert all(len(kinds) == 1 for kinds in rings.values())


def test_memory_is_bounded_by_the_row_not_by_the_file(tmp_path) -> None:
    """200,000 rows of 60 MB in all pass through a process that grows by less than 20 MB."""
    path = tmp_path / "big.tsv"
    with open(path, "w") as file:
        file.write("id\tSMILES\tdescription\n")
        for i in range(200_000):
            file.write(f"{i}\tCCO\t{'words ' * 48}{i}\n")
    program = (
        "import resource, sys\n"
        "from tmr_jax.data.readers import read_table\n"
        "top = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = top()\n"
        f"rows = read_table({str(path)!r}, ['id', 'SMILES', 'description'])\n"
        "count = sum(1 for _ in rows)\n"
        "print(count, (top() - start) // (1 if sys.platform != 'darwin' else 1024))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == 200_000
    assert grown < 20_000  # KiB


def test_streaming_gives_what_loading_gives(tmp_path) -> None:
    path = write(tmp_path / "a.csv", "SMILES,description\nC,a\nC(,b\nCC,c\n")
    report = Report(source=str(path))
    one_by_one = stream(config(path), 0, report)
    assert next(one_by_one).text == "a"
    assert report.rows == 1
    assert [p.text for p in one_by_one] == ["c"]
    assert report.refused == {"unparsable": 1}


def test_the_report_is_printed(tmp_path, capsys) -> None:
    path = write(tmp_path / "a.csv", "SMILES,description\nC,a\nC([bold],b\n")
    _, report = load(config(path), 0)
    show_report(report)
    shown = capsys.readouterr().out
    assert "skipped: unparsable" in shown and "[bold]" in shown
    saved = report.as_json()
    assert saved["rows"] == 2 and saved["refused"] == {"unparsable": 1}
    assert "sources" not in saved  # as older runs have it
    assert saved["examples"] == [{"row": 2, "reason": "unparsable", "value": "C([bold]"}]


def test_a_column_may_be_asked_for_twice(tmp_path) -> None:
    path = write(tmp_path / "a.csv", "SMILES,description\nC,a\n")
    assert next(read_table(path, ["SMILES", "SMILES"])).values == ("C", "C")


def test_values_of_parquet_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    far = pa.array([2**62], pa.timestamp("us"))
    zoned = pa.array([0], pa.timestamp("us", "Nowhere/Land"))
    for number, column in enumerate((far, zoned)):
        pq.write_table(pa.table({"SMILES": column}), tmp_path / f"{number}.parquet")
        with pytest.raises(UserError, match=r"readable values in .*; got .*; write it again"):
            list(read_table(tmp_path / f"{number}.parquet", ["SMILES"]))


def test_a_header_with_an_enormous_cell_is_explained(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("SMILES," + "x" * 140_000 + "\nCCO,1\n")
    with pytest.raises(UserError, match="expected"):
        list(read_table(tmp_path / "my.csv", ["SMILES"]))


SHARES = (0.8, 0.1, 0.1)


def test_a_random_split_depends_on_seed_and_id_only() -> None:
    names = [f"row-{i}" for i in range(5_000)]
    found = [random_split(name, SHARES, 0) for name in names]
    assert found == [random_split(name, SHARES, 0) for name in names]
    assert abs(found.count("train") / 5_000 - 0.8) < 0.02
    assert abs(found.count("validation") / 5_000 - 0.1) < 0.02
    other = [random_split(name, SHARES, 1) for name in names]
    assert 0.2 < sum(a != b for a, b in zip(found, other, strict=True)) / 5_000 < 0.5
    # recorded: a split must not move between versions or machines
    recorded = "validation validation validation test"
    assert [random_split(n, (0.4, 0.3, 0.3), 7) for n in "abcd"] == recorded.split()


def test_no_scaffold_is_in_two_splits() -> None:
    rings = ["c1ccccc1", "C1CCCC1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "c1ccsc1", ""]
    smiles = [f"{'C' * n}O{ring}" for ring in rings for n in range(1, 12)]
    found = scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=0)
    for ring in rings[:-1]:
        assert len({s for m, s in zip(smiles, found, strict=True) if m.endswith(ring)}) == 1
    acyclic = {s for m, s in zip(smiles, found, strict=True) if m.endswith("O")}
    assert len(acyclic) == 1
    assert set(found) == {"train", "validation", "test"}
    assert found.count("train") == 44 and found.count("test") in (11, 22)
    assert found == scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=0)
    assert any(found != scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=s) for s in (1, 2, 3))


def test_all_in_training_is_a_split_too() -> None:
    assert scaffold_splits(["C", "c1ccccc1"], (1.0, 0.0, 0.0), 0) == ["train", "train"]


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.1, -0.1), ()])
def test_fractions_that_are_none_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="three fractions"):
        check_fractions(wrong)
