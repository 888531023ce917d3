"""Learning to rerank by facts: what is learned, from which pairs, and what is kept."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tmr_jax.data.features.facts import FACTS, PLACE
from tmr_jax.eval.facts import EXACT, STATES, read_facts
from tmr_jax.eval.pools import Restored
from tmr_jax.models.encode import Encoded
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import FACTS_FILE
from tmr_jax.train import facts as learning
from tmr_jax.train.facts import Shortlisted, choose, fit, learn, main, shortlisted
from tmr_jax.types import Pair, UserError

CL = PLACE["Cl"]


def toy(texts=40):
    """Text i states i % 4 chlorine atoms, molecule i has them; everything is near everything."""
    text = np.full((texts, len(FACTS)), np.nan, np.float32)
    mol = np.zeros((texts, len(FACTS)), np.float32)
    text[:, CL] = mol[:, CL] = np.arange(texts) % 4
    pairs = np.tile(np.arange(texts), (2, 1)).T
    near = np.tile(np.arange(texts), (texts, 1))
    return Shortlisted(text, mol, pairs, near, near)


def test_agreement_becomes_worth_more_than_disagreement():
    worth = learn(toy(), seed=0)
    assert worth.shape == (len(FACTS), STATES)
    assert worth[CL, 3] > 0 > max(worth[CL, [1, 2, 4, 5]])
    of_group = [fact.group == FACTS["Cl"].group for fact in FACTS.values()]
    assert np.abs(worth[np.invert(of_group), :7]).max() == 0  # nobody states them
    assert np.array_equal(worth * EXACT, np.round(worth * EXACT))


def test_texts_that_state_nothing_teach_nothing():
    data = toy(4)
    data.text[:] = np.nan
    assert not learn(data, seed=0).any()


def test_the_same_seed_learns_the_same():
    first, second, third = (learn(toy(), seed) for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, third)


def test_another_right_one_is_no_negative():
    """Texts 0 and 1 both describe molecule 0."""
    data = toy(3)._replace(pairs=np.array([[0, 0], [1, 0], [2, 1], [2, 2]]))
    t2m, m2t = data.batch(np.array([0, 2]), np.random.default_rng(0))
    assert t2m.mol.shape == (2, 4, len(FACTS)) and m2t.text.shape == (2, 4, len(FACTS))
    assert t2m.counts[:, 0].all() and m2t.counts[:, 0].all()
    # text 0: of the molecules 0, 1, 2 the last two are wrong; text 2: only molecule 0 is
    assert t2m.counts.sum(1).tolist() == [1 + 2, 1 + 1]
    # molecule 0: of the texts 0, 1, 2 only the last is wrong; molecule 1: the first two are
    assert m2t.counts.sum(1).tolist() == [1 + 1, 1 + 2]


def fake_model():
    def side(items):
        rows = np.eye(8, dtype=np.float32)[np.arange(len(items)) % 8]
        return Encoded(rows, np.arange(len(items)))

    return Restored({}, side, lambda smiles: (side(smiles), np.arange(len(smiles))))


def test_equal_texts_and_molecules_are_one_item(monkeypatch):
    monkeypatch.setattr(learning, "NEAREST", 2)
    pairs = [("a diol", "OCCO"), ("a diol", "OCCCO"), ("ethylene glycol", "C(O)CO")]
    data = shortlisted(fake_model(), [Pair(str(i), *p, "train") for i, p in enumerate(pairs)])
    assert data.pairs.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert data.text.shape == data.mol.shape == (2, len(FACTS))
    assert data.molecules.shape == data.texts.shape == (2, 2)


# In a run


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_only_training_pairs_are_learned_from(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(learning, "learn", lambda data, seed: seen.update(data=data) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(run)
    train = [p for p in learning.load_pairs(load_run(run)[0].config.data) if p.split == "train"]
    assert len(seen["data"].pairs) == len(train)


def test_the_best_weight_on_validation_is_kept(run, monkeypatch, capsys):
    monkeypatch.setattr(learning, "choose", lambda *_: {0.0: 0.2, 0.05: 0.4, 0.1: 0.4})
    assert main(["--run", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "table/validation, MRR by weight: 0 0.2000, 0.05 0.4000" in printed
    facts = read_facts(run, load_run(run)[2].sha256)
    assert facts.weight == 0.05 and np.isfinite(facts.worth).all()
    monkeypatch.setattr(learning, "choose", None)  # a finished training does not choose again
    kept = fit(run, again=False)
    assert kept.weight == 0.05 and np.array_equal(kept.worth, facts.worth)
    kept = json.loads((run / FACTS_FILE).read_text())
    assert kept["chosen_on"] == "table/validation" and kept["mrr"]["0.05"] == 0.4


def test_facts_that_gain_nothing_are_not_kept(run, monkeypatch, capsys):
    monkeypatch.setattr(learning, "choose", lambda *_: {0.0: 0.4, 0.05: 0.4})
    (run / FACTS_FILE).write_text("{}")  # of an earlier choice
    assert fit(run) is None and not (run / FACTS_FILE).exists()
    assert "gain nothing" in capsys.readouterr().out


def test_the_weight_zero_gives_the_ranks_of_the_cosine(run):
    from tmr_jax.data.pools import load_pool
    from tmr_jax.eval.metrics import metrics
    from tmr_jax.eval.pools import encode_pools, open_run
    from tmr_jax.eval.scores import query_sets, score_sides

    model = open_run(run, "best")
    pool = load_pool("table/validation", load_run(run)[0].config.data)
    tried = choose(model, np.ones((len(FACTS), STATES), np.float32), pool)
    [side], _ = encode_pools(model, [pool])
    plain = [
        metrics(s.ranking)["mrr"]
        for s in score_sides("", query_sets(*side))
        if s.right.startswith("its own")
    ]
    assert tried[0.0] == pytest.approx(np.mean(plain))


def test_a_model_with_a_second_stage_is_refused(run, monkeypatch):
    monkeypatch.setattr(learning, "open_run", lambda *_: SimpleNamespace(reranker=object()))
    with pytest.raises(UserError, match="expected a model without a second stage"):
        fit(run)
