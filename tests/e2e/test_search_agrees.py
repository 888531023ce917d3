"""Page, Python and evaluation rank alike, and an explanation names what the score rests on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tmr_jax
from tests.experiments.tiny import CONFIG
from tmr_jax.data.identity import molecule_key
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import evaluate
from tmr_jax.search.explain import without_words

K, DELETED, DRAWS = 10, 3, 20


@pytest.mark.slow
def test_a_search_finds_what_the_evaluation_finds(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    evaluate(run)
    ranks = np.array(json.loads((run / "ranks.json").read_text())["table/test, t2m"])
    pool = load_pool("table/test", CONFIG.data)
    (tmp_path / "pool.smi").write_text("".join(f"{smiles}\n" for smiles in pool.smiles))
    index = tmr_jax.load(run).with_library(tmp_path / "pool.smi")
    queries = np.flatnonzero(pool.text_target >= 0)
    found = 0
    for query in queries:
        right = molecule_key(pool.smiles[pool.text_target[query]])
        hits = index.search(pool.texts[query], k=K)
        found += right in {molecule_key(hit.content) for hit in hits}
    assert 0 < found == (ranks <= K).sum()


@pytest.mark.slow
def test_deleting_the_words_of_an_explanation_lowers_the_score_more(tiny_run: Path) -> None:
    retriever, pool = tmr_jax.load(tiny_run), load_pool("table/test", CONFIG.data)
    random, falls = np.random.default_rng(0), []
    for query in np.flatnonzero(pool.text_target >= 0)[:8]:
        smiles = pool.smiles[pool.text_target[query]]
        explained = retriever.explain(pool.texts[query], smiles)
        mol = retriever.encode_molecules([smiles])[0]
        count = len(explained.words)
        if count < 2 * DELETED:
            continue
        named = np.argsort([-word.drop for word in explained.words])[:DELETED].tolist()
        drawn = [random.choice(count, DELETED, replace=False).tolist() for _ in range(DRAWS)]
        texts = [without_words(explained.text, places) for places in (named, *drawn)]
        fall = explained.score - retriever.encode_text(texts) @ mol
        falls.append(fall[0] - fall[1:].mean())
    assert falls and np.mean(falls) > 0
