"""Reranking by facts: worths by hand, and what a score may not depend on."""

import json
import shutil

import numpy as np
import pytest

import tmr_jax
from tmr_jax.data.features.facts import FACTS, PLACE, facts_of, molecule_facts, text_facts
from tmr_jax.data.pools import matched
from tmr_jax.eval import facts_pool
from tmr_jax.eval.evaluate import evaluate
from tmr_jax.eval.export import main as export
from tmr_jax.eval.facts import EXACT, STATED, STATES, UNSAID, FactsTable, read_facts, save_facts
from tmr_jax.eval.facts_pool import facts_scores, shortlists
from tmr_jax.eval.scores import query_sets
from tmr_jax.eval.terminal import detail_lines, table_lines
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.models.run import load_run
from tmr_jax.types import Pair, UserError

TEXTS = ("a chloro compound", "a dichloro compound", "an alcohol", "a diol", "a bromo compound")
SMILES = ("CCCl", "ClCCCl", "CCO", "OCCO", "CCBr")


def pool_of(texts=TEXTS, smiles=SMILES):
    pairs = zip(texts, smiles, strict=True)
    return matched("toy", [Pair(str(i), *pair, "test") for i, pair in enumerate(pairs)])


def sides_of(pool, seed=0, group=None):
    """Random embeddings of a pool, the same for the same strings."""

    def encoded(items):
        rows = [np.random.default_rng([seed, *item.encode()]).normal(size=8) for item in items]
        same = np.unique(items, return_inverse=True)[1] if group is None else group
        return Encoded(l2_normalize(np.array(rows, np.float32)), same)

    return query_sets(pool, encoded(pool.texts), encoded(pool.smiles))


def random_table(seed=0, weight=0.1):
    worth = np.random.default_rng(seed).normal(size=(len(FACTS), STATES))
    return FactsTable(np.float32(np.round(worth * EXACT) / EXACT), weight)


def only(name, state, worth=1.0, weight=1.0):
    """A table that values one state of one fact."""
    values = np.zeros((len(FACTS), STATES), np.float32)
    values[PLACE[name], state] = worth
    return FactsTable(values, weight)


@pytest.mark.parametrize(
    "stated, shown, state",  # of a fact; the text states nothing else
    [
        *((1, 1, 3), (0, 0, 3), (2, 1, 2), (3, 1, 1), (4, 1, 1), (5, 1, 0), (9, 0, 0)),
        *((1, 2, 4), (1, 3, 5), (1, 4, 5), (1, 5, 6), (0, 40, 6)),
        *((None, 0, 7), (None, 1, 8), (None, 3, 9), (None, 4, 10), (None, 8, 11)),
    ],
)
def test_a_pair_is_in_one_state_of_each_fact(stated, shown, state):
    text, mol = np.full(len(FACTS), np.nan, np.float32), np.zeros(len(FACTS), np.float32)
    text[PLACE["Cl"]], mol[PLACE["Cl"]] = np.nan if stated is None else stated, shown
    found = [only("Cl", i).scores(np.float32([0]), text[None], mol[None])[0] for i in range(STATES)]
    assert found == [float(i == state) for i in range(STATES)]


@pytest.mark.parametrize("stated, level", [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (20, 2)])
def test_what_a_text_leaves_out_counts_by_how_much_it_states(stated, level):
    text, mol = np.full(len(FACTS), np.nan, np.float32), np.zeros(len(FACTS), np.float32)
    text[:stated] = 0
    state = STATED + level * UNSAID
    assert only("carbons", state).scores(np.float32([0]), text[None], mol[None])[0] == 1


def test_scores_add_the_weighted_worths_to_the_cosine():
    text, mol = text_facts("a dichloro alcohol"), molecule_facts("ClCC(Cl)O")
    table = only("Cl", 3, worth=2.0, weight=0.25)
    table.worth[PLACE["hydroxy"], 3] = 1.0
    assert table.scores(np.float32([0.5]), text[None], mol[None]) == [0.5 + 0.25 * 3]


def test_facts_decide_where_cosines_cannot():
    """Every cosine is the same, and the right number of chlorine atoms comes first."""
    pool = pool_of()
    rows = np.tile(np.eye(8, dtype=np.float32)[0], (len(TEXTS), 1))
    sides = query_sets(pool, *(Encoded(rows, np.arange(len(TEXTS))) for _ in "tm"))
    scores = facts_scores(pool, sides, only("Cl", 3))
    t2m = next(s for s in scores if s.direction == "t2m")
    assert t2m.stage == "facts" and t2m.ranking.greater[:2].tolist() == [0, 0]
    assert t2m.ranking.equal[:2].tolist() == [0, 0] and t2m.base.equal[:2].tolist() == [4, 4]
    assert t2m.reached.shape == (5, 1) and t2m.reached.all()


# What a score may depend on


def table_of(pool, facts, seed=0):
    """Score of every pair on the shortlist, by the strings, of both directions."""
    found = {}
    for side in sides_of(pool, seed):
        one = shortlists(pool, side)
        strings = pool.smiles if side.direction == "t2m" else pool.texts
        queries = pool.texts if side.direction == "t2m" else pool.smiles
        scores = one.lists(facts).reranked.perturbed
        for query, items, row in zip(queries, one.item, scores, strict=True):
            for item, score in zip(items, row, strict=True):
                found[query, strings[one.first[item]]] = score
    return found


def test_a_score_is_a_function_of_the_pair_alone():
    facts = random_table()
    whole = table_of(pool_of(), facts)
    assert len(whole) == 2 * len(TEXTS) ** 2
    order = np.random.default_rng(1).permutation(len(TEXTS))
    moved = pool_of([TEXTS[i] for i in order], [SMILES[i] for i in order])
    assert table_of(moved, facts) == whole
    part = table_of(pool_of(TEXTS[1:3], SMILES[1:3]), facts)
    assert part == {pair: whole[pair] for pair in part}
    pair = text_facts(TEXTS[1])[None], molecule_facts(SMILES[2])[None]
    side = sides_of(pool_of())[0]
    cosine = facts_pool.top(side.query[[1]], side.candidate[[2]], 1)[1][0]
    # The product of one pair alone is rounded in another order than that of many.
    assert facts.scores(cosine, *pair) == pytest.approx(whole[TEXTS[1], SMILES[2]], abs=1e-6)


def test_no_candidate_is_read_by_its_own_caption():
    """The captions of the others become nonsense, and no score of the query changes."""
    facts, query = random_table(), TEXTS[0]
    renamed = pool_of([query, *(f"nonsense of {n} bromo groups" for n in "abcd")])
    before, after = table_of(pool_of(), facts), table_of(renamed, facts)
    assert [after[query, s] for s in SMILES] == [before[query, s] for s in SMILES]
    assert table_of(pool_of(), facts, seed=1) != before  # embeddings do count


def test_sums_are_exact_in_every_order():
    worth = random_table().worth
    state = np.random.default_rng(0).integers(0, STATES, len(FACTS))
    values = worth[np.arange(len(FACTS)), state]
    sums = {np.float32(np.random.default_rng(i).permutation(values).sum()) for i in range(20)}
    assert len(sums) == 1


def test_what_is_not_on_the_shortlist_keeps_the_order_of_the_cosine(monkeypatch):
    monkeypatch.setattr(facts_pool, "SHORTLIST", 2)
    pool = pool_of()
    side = sides_of(pool)[0]
    ranking = shortlists(pool, side).lists(random_table(weight=9.0)).ranking("facts")
    cosine = side.query @ side.candidate.T
    place = (cosine > np.diag(cosine)[:, None]).sum(1)
    assert (place >= 2).any()
    assert ranking.greater[place >= 2].tolist() == place[place >= 2].tolist()
    assert (ranking.greater[place < 2] < 2).all()


def test_equal_cosines_at_the_end_of_the_shortlist_go_by_no_order(monkeypatch):
    monkeypatch.setattr(facts_pool, "SHORTLIST", 2)
    rows, chosen = np.tile(np.eye(8, dtype=np.float32)[0], (len(TEXTS), 1)), set()
    for turn in range(len(TEXTS)):
        order = np.roll(np.arange(len(TEXTS)), turn)
        pool = pool_of([TEXTS[i] for i in order], [SMILES[i] for i in order])
        side = query_sets(pool, *(Encoded(rows, np.arange(len(TEXTS))) for _ in "tm"))[0]
        one = shortlists(pool, side)
        chosen.add(tuple(pool.smiles[one.first[i]] for i in one.item[0]))
    assert len(chosen) == 1


def test_texts_that_the_encoder_takes_for_one_are_told_apart():
    """It reads 256 word pieces; the facts read the rest, too."""
    pool = pool_of(("a long text", "a long text, dichloro"), ("CCCl", "ClCCCl"))
    rows = l2_normalize(np.ones((2, 8), np.float32))
    sides = query_sets(pool, Encoded(rows, np.zeros(2, np.int64)), Encoded(rows, np.arange(2)))
    m2t = next(s for s in facts_scores(pool, sides, only("Cl", 3)) if s.direction == "m2t")
    assert m2t.ranking.greater.tolist() == [0, 0] and m2t.ranking.equal.tolist() == [1, 0]
    twins = pool_of(("a long text", "a long text"), ("CCCl", "ClCCCl"))
    one = shortlists(twins, query_sets(twins, *(Encoded(rows, np.zeros(2, int)),) * 2)[1])
    assert one.count.tolist() == [2]


# In a run


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run whose table values the right number of chlorine atoms."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    checkpoint = load_run(run)[2].sha256
    save_facts(run, checkpoint, only("Cl", 3, weight=5.0), {"chosen_on": "toy", "mrr": {}})
    return run


def test_a_table_belongs_to_its_checkpoint_and_to_these_facts(run):
    checkpoint = load_run(run)[2].sha256
    facts = read_facts(run, checkpoint)
    assert facts.weight == 5.0 and np.array_equal(facts.worth, only("Cl", 3).worth)
    assert read_facts(run, "another") is None and read_facts(run / "none", checkpoint) is None
    content = json.loads((run / "facts.json").read_text())
    content["facts_sha256"] = "of a table with one more word"
    (run / "facts.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected the facts of this tmr_jax"):
        read_facts(run, checkpoint)


def test_an_evaluation_reports_the_stage_next_to_the_cosine(run):
    results = evaluate(run)
    scores = {(s["direction"], s["tier"]): s for s in results["scores"]}
    assert {("t2m", "det"), ("t2m", "facts"), ("m2t", "det"), ("m2t", "facts")} <= scores.keys()
    fact = scores["t2m", "facts"]
    assert fact["refined"] == {"shortlist": 300, "weight": 5.0, "recall_shortlist": 1.0}
    gained = fact["metrics"]["mrr"] - scores["t2m", "det"]["metrics"]["mrr"]
    assert fact["over_det"]["mrr"][0] == pytest.approx(gained)
    assert any(" t2m facts " in line for line in table_lines(results))
    assert any("K1 300, weight of the facts 5 (of val" in line for line in detail_lines(results))


def test_an_export_keeps_the_table(run, tmp_path):
    evaluate(run)
    assert export([str(run), str(tmp_path / "out")]) == 0
    checkpoint = load_run(tmp_path / "out")[2].sha256
    assert read_facts(tmp_path / "out", checkpoint).weight == 5.0
    assert "facts.json" in (tmp_path / "out" / "SHA256SUMS").read_text()


def test_a_search_orders_its_hits_as_the_table_says(run):
    retriever = tmr_jax.load(run).with_library([*SMILES, "CCCC"])
    assert retriever.shortlist == 300 and not retriever.lacks_alpha
    hits = retriever.search("a dichloro compound", k=6)
    assert hits[0].content == "ClCCCl" and hits[0].refined == pytest.approx(hits[0].score + 5)
    assert [h.rank for h in hits] == list(range(1, 7))
    back = retriever.with_texts(TEXTS).search_molecule("ClCCCl", k=2)
    assert back[0].content == "a dichloro compound"
    plain = tmr_jax.load(run).with_library([*SMILES, "CCCC"]).search_molecule("CCO", k=6)
    assert all(hit.refined is None for hit in plain)  # molecules are not compared with molecules


def test_search_and_evaluation_give_the_same_scores(run):
    retriever = tmr_jax.load(run).with_library(SMILES)
    hits = {h.content: h for h in retriever.search(TEXTS[1], k=5)}
    texts, mols = (facts_of(f, s, "") for f, s in ((text_facts, TEXTS), (molecule_facts, SMILES)))
    cosine = np.float32([hits[s].score for s in SMILES])
    scores = only("Cl", 3, weight=5.0).scores(cosine, texts[[1]], mols)
    assert [hits[s].refined for s in SMILES] == scores.tolist()
