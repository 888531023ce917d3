"""The ridge of every model: fitted on training pairs alone, on every pool, and once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.config import DataConfig, Experiment
from tmr_jax.data.pools import load_pool
from tmr_jax.eval import baseline, ridge
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.protocols import CLEAN, HOLDER, PAIR, find
from tmr_jax.eval.ridge import BASELINE, PIECES_BASELINE, against_model, baselines
from tmr_jax.eval.scores import Score, score_record
from tmr_jax.types import Pool, Ranking

TINY_BERT = Path(__file__).parents[1] / "experiments" / "tiny_bert"


@pytest.fixture
def data(slice_of_chebi, monkeypatch) -> DataConfig:
    monkeypatch.setattr("tmr_jax.eval.baseline.VOCABULARY", 256)  # the time is cubic in it
    return slice_of_chebi(train=120, validation=30, test=30)


def test_both_baselines_rank_both_directions_better_than_chance(data) -> None:
    pool = load_pool("table/test", data)
    found = [score for one in baselines(data, TINY_BERT) for score in one.scores(pool)]
    wanted = [(d, name) for name in (BASELINE, PIECES_BASELINE) for d in ("t2m", "m2t")]
    assert [(s.direction, s.scorer) for s in found] == wanted
    assert all(metrics(s.ranking)["mr"] < 13 for s in found)  # chance: 15.5


def test_in_batches_it_ranks_among_the_batch(data) -> None:
    pool = load_pool("table/test", data)
    first = baselines(data, TINY_BERT)[0].scores(pool, 10)[0]
    assert first.ranking.pool_size == 10 and len(first.ranking.greater) == 30
    assert max(first.ranking.greater) < 10


def test_it_is_fitted_on_training_pairs_and_chosen_on_validation(data, monkeypatch) -> None:
    given = []

    def fit(*parts):
        given.extend(parts)
        return baseline.Ridge({}, *[np.zeros(0, np.float32)] * 5, 1.0, 0.0)

    monkeypatch.setattr(baseline, "fit_ridge", fit)
    assert baselines(data, TINY_BERT)[0].ridge.strength == 1.0
    texts, bits, chosen_texts, chosen_bits = given
    lines = Path(data.table.path).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    assert texts == [text for _, text, _, split in rows if split == "train"]
    assert chosen_texts == [text for _, text, _, split in rows if split == "validation"]
    assert (len(bits), len(chosen_bits)) == (120, 30)


def test_an_invalid_molecule_of_training_is_left_out() -> None:
    texts, bits = ridge._features((["ethanol", "nothing", "methane"], ["CCO", "C1CC", "C"]))
    assert texts == ["ethanol", "methane"] and len(bits) == 2


def test_without_validation_pairs_there_is_none_and_it_says_so(slice_of_chebi, capsys) -> None:
    assert baselines(slice_of_chebi(train=5, test=5), TINY_BERT) == []
    assert "the ridge baseline is skipped: expected at least one pair" in capsys.readouterr().err


def test_ranks_are_computed_once(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ridge, "CACHE_FROM", 1)
    pool = load_pool("table/test", data)
    first = baselines(data, TINY_BERT)[0].scores(pool)
    monkeypatch.setattr(baseline, "fit_ridge", None)
    again = baselines(data, TINY_BERT)[0].scores(pool)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.ranking.greater, other.ranking.greater)
        np.testing.assert_array_equal(one.ranking.equal, other.ranking.equal)
        assert one._replace(ranking=other.ranking) == other
    (file,) = (tmp_path / "cache").glob("ridge-*.json")
    file.write_text(json.dumps([{"direction": "t2m"}]))
    with pytest.raises(TypeError):  # it is computed again
        baselines(data, TINY_BERT)[0].scores(pool)
    with pytest.raises(TypeError):  # other queries are another pool
        asks = np.full(len(pool.texts), -1)
        baselines(data, TINY_BERT)[0].scores(pool._replace(text_target=asks))


def test_the_model_is_compared_with_it_query_by_query() -> None:
    pool = Pool("chebi/test", ("a", "b"), ("C", "CC"), np.arange(2), np.arange(2))
    worse, better = (Ranking(np.array(g), np.zeros(2, int), 2) for g in ([1, 1], [0, 0]))
    theirs = [Score(pool.protocol, "t2m", BASELINE, PAIR, worse, None)]
    tiers = [theirs[0]._replace(scorer="model", stage=s, ranking=worse) for s in ("det", "x0")]
    model = [*tiers, tiers[0]._replace(stage="fused", ranking=better)]
    model.append(model[-1]._replace(right=CLEAN, ranking=worse))
    (found,) = against_model(theirs, model)
    counts = {"refused_molecules": 0, "dropped_pairs": 0}
    shared = {"in_training": 0, "queried": 2, "left_out": 0}
    config, own = Experiment(data=DataConfig(name="chebi")), find("chebi/test", "chebi/test")
    record = score_record(found, config, own, shared, counts)
    assert record["model_over"]["mrr"] == pytest.approx([0.5, 0.5, 0.5])
    assert record["about"][0] == f"baseline, {BASELINE}"
    assert "mrr of the model over it: +0.5000 (+0.5000 to +0.5000)" in record["about"]
    assert record["labels"] == []  # its own test
    other = score_record(found._replace(protocol="pcdes/file-order"), config, own, shared, counts)
    assert other["labels"] == ["chebi training"]


def test_a_thousand_validation_pairs_are_enough() -> None:
    texts = tuple(map(str, range(1_500)))
    target = np.arange(1_500)
    target[3] = -1  # a candidate that does not ask
    found = ridge._asked(Pool("x", texts, texts, target, target))
    assert found[0] == found[1] and len(found[0]) == 1_000
    assert found[0][2:4] == ["2", "4"] and found[0][-1] == "1000"


def test_of_queries_with_several_holders_the_best_of_them_counts(
    data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    pool = load_pool("table/test", data)
    asks = pool._replace(mol_target=np.full(30, -1))
    several = asks._replace(further=(np.arange(30)[:, None] + 1) % 30)
    one = baselines(data, TINY_BERT)[0]
    monkeypatch.setattr(ridge, "CACHE_FROM", 1)
    (alone,), (found,), (again,) = (one.scores(p) for p in (asks, several, several))
    assert (alone.right, found.right, again.right) == (PAIR, HOLDER, HOLDER)
    assert found.ceiling is None is again.ceiling
    assert found.ranking.greater.sum() < alone.ranking.greater.sum()
    np.testing.assert_array_equal(found.ranking.greater, again.ranking.greater)
