"""Page, Python and evaluation rank alike, and an explanation names what the score rests on."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import tmr_jax
from tests.experiments.tiny import CONFIG
from tmr_jax.data.features.graph import atom_order, featurise
from tmr_jax.data.features.similarity import molecule_key
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import evaluate
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_run
from tmr_jax.search.explain import table_of, without_atoms, without_words
from tmr_jax.serve.app import create_app
from tmr_jax.serve.engine import SearchEngine
from tmr_jax.serve.middleware import Rules

K, DELETED, DRAWS = 10, 3, 20


def test_a_search_finds_what_the_evaluation_finds(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    evaluate(run)
    ranks = np.array(json.loads((run / "ranks.json").read_text())["table/test, t2m"])
    pool = load_pool("table/test", CONFIG.data)
    (tmp_path / "pool.smi").write_text("".join(f"{smiles}\n" for smiles in pool.smiles))
    index = tmr_jax.load(run).with_library(tmp_path / "pool.smi")
    queries = np.flatnonzero(pool.text_target >= 0)
    app = create_app(SearchEngine(lambda: index), Rules(rate=0))
    with TestClient(app, "http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        for text in (pool.texts[query] for query in queries[:5]):
            hits = [hit.content for hit in index.search(text, k=K)]
            reply = client.post("/api/search", json={"queries": [text], "k": K}).json()
            assert [hit["smiles"] for hit in reply["answers"][0]["hits"]] == hits
            page = html.unescape(client.get("/", params={"q": text}).text)
            places = [page.index(f">{smiles}<") for smiles in hits]
            assert places == sorted(places)
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


@pytest.mark.slow
def test_deleting_the_atoms_of_an_explanation_lowers_the_score_more(tiny_run: Path) -> None:
    retriever, pool = tmr_jax.load(tiny_run), load_pool("table/test", CONFIG.data)
    model, params, _ = load_run(tiny_run)
    encoder, kind = Encoder(model, params, parts=True), CONFIG.features
    random, falls = np.random.default_rng(0), []
    for query in np.flatnonzero(pool.text_target >= 0)[:8]:
        smiles = pool.smiles[pool.text_target[query]]
        explained = retriever.explain(pool.texts[query], smiles)
        count = len(explained.drops)
        if count < 2 * DELETED:
            continue
        features = featurise(smiles, kind.molecule, kind.motif)
        row_of = np.argsort(atom_order(smiles, kind.molecule)[1])  # atom of the SMILES -> its row
        named = np.argsort(-np.array(explained.drops))[:DELETED]
        drawn = [random.choice(count, DELETED, replace=False) for _ in range(DRAWS)]
        rest = [without_atoms(features, row_of[atoms].tolist()) for atoms in (named, *drawn)]
        text = retriever.encode_text([pool.texts[query]])[0]
        fall = explained.score - encoder.mol_rows(table_of(model, rest)).rows @ text
        falls.append(fall[0] - fall[1:].mean())
    assert falls and np.mean(falls) > 0
