"""The comparison of page and ranking, in small: a run with random parameters finds by chance."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.eval.test_rerank import TINY
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import evaluate
from tmr_jax.search.retriever import Retriever

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "check_search.py"))


@pytest.mark.slow
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
    monkeypatch.setitem(within, "by_eval", lambda run, pool: 2)
    told = TOOL["Arguments"]((tmp_path / "more.smi",), tiny_run, sentences=2)
    assert TOOL["check"](told, tmp_path / "made") == 1
    assert "page 0, " in capfd.readouterr().out


def test_the_ranking_is_that_of_eval_and_owes_a_search_nothing(tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    ranks = np.array(evaluated(run)["table/test, t2m"])

    def never(*_, **__):
        raise AssertionError("a search")

    for name in ("nearest", "second_stage", "finished"):
        monkeypatch.setattr(Retriever, name, never)
    pool = load_pool("table/test", TINY.data)
    for drawn in (np.arange(len(pool.texts)), np.array([7, 2])):
        made = TOOL["small_pool"](run, pool, drawn, ["CCN", "CCO", *pool.smiles])
        assert [made.smiles[i] for i in made.text_target] == [pool.smiles[i] for i in drawn]
        whole = TOOL["small_pool"](run, pool, drawn, list(pool.smiles))
        assert TOOL["by_eval"](run, whole) == (ranks[drawn] <= 10).sum()


def evaluated(run: Path) -> dict[str, list[float]]:
    evaluate(run)
    return json.loads((run / "ranks.json").read_text())


def test_files_are_one_after_another_and_the_pool_comes_last(tmp_path):
    from tmr_jax.types import Pool

    (tmp_path / "a.smi").write_text("CCO one\nCCN two\n")
    pool = Pool("demo/test", ("a",), ("C",), None, None)
    assert TOOL["written"]((tmp_path / "a.smi",), pool, tmp_path / "out") == ["CCO", "CCN", "C"]
    assert (tmp_path / "out" / "all.smi").read_text() == "CCO\nCCN\nC\n"


@pytest.mark.parametrize("smiles, key", [("OCC", "CCO"), ("c1ccccc1N", "Nc1ccccc1")])
def test_one_molecule_is_one_key_however_it_is_written(smiles, key):
    assert TOOL["keys_of"]([smiles]) == TOOL["keys_of"]([key])
