"""The comparison of page and ranking, in small: a run with random parameters finds by chance."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "check_search.py"))


def test_page_api_and_ranking_find_the_same(tiny_run, tmp_path, capfd):
    (tmp_path / "more.smi").write_text("".join(f"{'C' * i}N\n" for i in range(1, 30)))
    told = TOOL["Arguments"]((tmp_path / "more.smi",), tiny_run, sentences=5)
    assert TOOL["check"](told, tmp_path / "made") == 0
    said = re.search(r"page (\d+), API (\d+), ranking of eval (\d+)", capfd.readouterr().out)
    assert said and len(set(said.groups())) == 1


def test_a_page_that_finds_fewer_is_told(tiny_run, tmp_path, monkeypatch, capfd):
    (tmp_path / "more.smi").write_text("CCN\n")
    within = TOOL["check"].__globals__
    monkeypatch.setitem(within, "by_page", lambda address, text: [])
    monkeypatch.setitem(within, "by_ranking", lambda run, texts, molecules: [molecules] * 2)
    told = TOOL["Arguments"]((tmp_path / "more.smi",), tiny_run, sentences=2)
    assert TOOL["check"](told, tmp_path / "made") == 1
    assert "page 0, " in capfd.readouterr().out


def test_files_are_one_after_another_and_the_pool_comes_last(tmp_path):
    from tmr_jax.types import Pool

    (tmp_path / "a.smi").write_text("CCO one\nCCN two\n")
    pool = Pool("demo/test", ("a",), ("C",), None, None)
    assert TOOL["written"]((tmp_path / "a.smi",), pool, tmp_path / "out") == ["CCO", "CCN", "C"]
    assert (tmp_path / "out" / "all.smi").read_text() == "CCO\nCCN\nC\n"


@pytest.mark.parametrize("smiles, key", [("OCC", "CCO"), ("c1ccccc1N", "Nc1ccccc1")])
def test_one_molecule_is_one_key_however_it_is_written(smiles, key):
    assert TOOL["keys_of"]([smiles]) == TOOL["keys_of"]([key])
