"""Vectors of a file in a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tmr_jax
from tmr_jax.index.embed import main

LIBRARY = 'CCO ethanol\nnot-a-molecule x\nc1ccccc1 "benz"ene\nCCN\n'


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "my.smi"
    path.write_text(LIBRARY)
    return path


def test_vectors_are_those_of_a_search(
    tiny_run: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = library.with_name("my.parquet")
    assert main([str(library), "--out", str(out), "--run", str(tiny_run)]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["row", "name", "smiles", "norm", "vector"]
    assert table.column("row").to_pylist() == [0, 2, 3]
    assert table.column("name").to_pylist() == ["ethanol", '"benz"ene', "line 4"]
    smiles = table.column("smiles").to_pylist()
    right = tmr_jax.load(tiny_run).encode_molecules(smiles)
    np.testing.assert_allclose(np.stack(table.column("vector").to_numpy()), right, atol=1e-6)
    said = capsys.readouterr().err
    assert "3 of 4 rows in " in said and "skipped: 1 " in said
    listed = Path(said.split("each row is in ")[1].strip())
    assert "not-a-molecule" in listed.read_text()


def test_an_array_has_its_rows_next_to_it(tiny_run: Path, library: Path) -> None:
    out = library.with_name("my.npy")
    assert main([str(library), "--out", str(out), "--run", str(tiny_run)]) == 0
    vectors = np.load(out)
    assert vectors.dtype == np.float32 and vectors.shape[0] == 3
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    with out.with_suffix(".tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["row", "name", "smiles", "norm"]
    assert [row[:3] for row in rows[1:]] == [
        ["0", "ethanol", "CCO"],
        ["2", '"benz"ene', "c1ccccc1"],
        ["3", "line 4", "CCN"],
    ]


def test_descriptions_have_vectors_too(tiny_run: Path, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "texts.parquet"
    texts.write_text("an alcohol\nan amine\n")
    assert main([str(texts), "--out", str(out), "--run", str(tiny_run)]) == 0
    assert pq.read_table(out).column("text").to_pylist() == ["an alcohol", "an amine"]


@pytest.mark.parametrize(
    ("out", "said"),
    [("my.csv", "expected --out with .parquet or .npy"), ("no/my.npy", "not exist")],
)
def test_a_wrong_place_is_refused_at_once(
    library: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    assert main([str(library), "--out", str(library.with_name("x").parent / out)]) == 2
    assert said in capsys.readouterr().err
