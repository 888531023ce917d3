"""The clock of searches, in small: every line, and recall of a store against itself."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

import tmr_jax
from tmr_jax.index import build as index_build
from tmr_jax.search.retriever import Hit

TOOL = vars(importlib.import_module("tools.bench.search"))


@pytest.fixture(scope="module")
def library(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench_search")
    (folder / "my.smi").write_text("".join(f"{'C' * i}O\n" for i in range(1, 40)))
    source = index_build.Source(folder / "my.smi")
    index_build.build(source, folder / "library", tmr_jax.load(tiny_run).model)
    return folder / "library"


def test_in_small(tiny_run, library, monkeypatch, capsys):
    monkeypatch.setitem(TOOL["bench"].__globals__, "WARM", 1)
    TOOL["bench"](TOOL["Arguments"](tiny_run, library, exact=library, asked=4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "39 molecules in library, 4 sentences"
    assert re.fullmatch(r"first stage: p50 \d+\.\d ms, p95 \d+\.\d ms", lines[1])
    assert lines[2] == "recall@10 against exact: 1.0000" and len(lines) == 3


def test_copies_may_change_places_and_worse_ones_may_not():
    def scores(*rows):
        found = [[Hit(i, score, "C", "", id=99) for i, score in enumerate(r, 1)] for r in rows]
        return TOOL["scores"](found)[:, :3]

    right = np.float32([[0.9, 0.5, 0.5], [0.3, 0.2, -np.inf]])
    recall = TOOL["recall"]
    assert recall(scores([0.9, 0.5, 0.5], [0.3, 0.2]), right) == 1
    assert recall(scores([0.9, 0.5, 0.4], [0.3, 0.2]), right) == pytest.approx(4 / 5)
    assert recall(scores([0.9], [0.3]), right) == pytest.approx(2 / 5)
