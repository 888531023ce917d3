"""The benchmark of engines on a small library: every figure is there, and none is found twice."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from tests.index.items import items, rows
from tmr_jax.index.exact import ExactEngine

TOOL = vars(importlib.import_module("tools.bench.stores"))


def told(**named):
    return TOOL["Arguments"](**{"rows": 700, "width": 8, "asked": 6, **named})


@pytest.mark.slow
def test_a_table_of_all_engines(tmp_path, monkeypatch, capsys):
    TOOL["bench"](told(folder=tmp_path, engines=("lance",)), tmp_path)
    capsys.readouterr()
    found = json.loads((tmp_path / "results.json").read_text())["engines"]
    assert {*found} == {"exact", "lance"}
    assert found["exact"]["sha256"] == found["lance"]["sha256"]
    assert {*found["lance"]["ms"]} == {"none", "10 %", "1 %"}
    TOOL["bench"](told(folder=tmp_path, engines=("lance",)), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["engines"] == found
    table = capsys.readouterr().out.split("\n\n")[-2]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [line[0] for line in lines] == ["engine", "---", "exact", "lance"]
    assert {len(line) for line in lines} == {8}
    assert all(line[5].endswith("1.000") for line in lines[2:])  # few rows are compared one by one
    with pytest.raises(ValueError, match="choose another --folder"):
        TOOL["bench"](told(folder=tmp_path, seed=1), tmp_path)


def test_real_rows_come_first_and_others_lie_between(tmp_path):
    store = ExactEngine.create(tmp_path / "real", 16, {"model": {"checkpoint": "abc"}})
    store.upsert(items(range(0, 200, 2), rows(100, 16)))
    TOOL["make"](told(library=tmp_path / "real"), tmp_path / "out", tmp_path / "queries.npy")
    made = ExactEngine(tmp_path / "out")
    (batch,) = made.batches()
    assert batch.vectors.shape == (700, 16) and made.account["kept"] == 700
    np.testing.assert_array_equal(batch.vectors[:100], rows(100, 16))
    assert batch.columns["mw"][3] == 60 and batch.columns["name"][3] == 'item 6 "é"'
    near = (batch.vectors[100:] @ rows(100, 16).T).max(axis=1)
    assert 0.8 < np.median(near) < 1 and (near < 1 - 1e-5).all()
    assert np.load(tmp_path / "queries.npy").shape == (6, 16)
    # Who made the real rows can search them all, and read a molecule in each of them.
    assert made.about["model"] == {"checkpoint": "abc"} and made.about["real"] == 100
    assert set(batch.columns["smiles"]) <= {"C" * (i + 1) for i in range(0, 200, 2)}


def test_no_more_rows_are_real_than_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(TOOL["make"].__globals__, "BLOCK", 7)
    store = ExactEngine.create(tmp_path / "real", 4, {})
    store.upsert(items(range(30), rows(30)))
    real = TOOL["seeds"](told(library=tmp_path / "real", rows=20), np.random.default_rng(0))
    np.testing.assert_array_equal(real.vectors, rows(30)[:20])
    assert real.ids.tolist() == list(range(20)) and real.columns["mw"][19] == 190
    assert real.columns["smiles"] == ["C" * (i + 1) for i in range(20)]
