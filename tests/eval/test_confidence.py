"""The score from which on a best hit is trusted, by hand."""

import numpy as np
import pytest

from tmr_jax.data.features.facts import FACTS, molecule_facts, text_facts
from tmr_jax.eval import confidence
from tmr_jax.eval.confidence import best_scores, trusted_score
from tmr_jax.eval.facts import STATES, FactsTable
from tmr_jax.eval.pools import EncodedPool
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool

SMILES = tuple("C" * n + "O" for n in range(1, 31))


def encoded(rows):
    return Encoded(np.asarray(rows, np.float32), np.arange(len(rows)), None)


def texts_at(cosines):
    """Text i at cosine i to molecule i, and at right angles to every other."""
    rows = np.zeros((len(cosines), 31), np.float32)
    rows[np.arange(len(cosines)), np.arange(len(cosines))] = cosines
    rows[:, 30] = np.sqrt(1 - np.square(cosines))
    return rows


def pool_of(texts):
    target = np.arange(len(texts))
    return Pool("a/validation", tuple(texts), SMILES[: len(texts)], target, target)


MOLECULES = encoded(np.eye(31)[:30])


def test_the_threshold_is_below_nine_in_ten_answered_queries():
    cosines = np.linspace(0.5, 0.79, 30)
    texts = [f"Alcohol {i}. It is a liquid." for i in range(30)]
    asked = []

    def encode(first):
        asked.extend(first)
        return encoded(-texts_at(cosines))  # every other molecule is better: none is answered

    validation = EncodedPool(pool_of(texts), encoded(texts_at(cosines)), MOLECULES)
    assert trusted_score(validation, encode, None) == pytest.approx(np.quantile(cosines, 0.1))
    assert asked == [f"Alcohol {i}." for i in range(30)]


def test_few_answers_give_no_threshold():
    texts = ["one", "two"]
    two = EncodedPool(pool_of(texts), encoded(texts_at([0.5, 0.6])), encoded(np.eye(31)[:2]))
    assert np.isnan(trusted_score(two, lambda first: encoded(texts_at([0.5, 0.6])), None))
    none = Pool("a/validation", ("one",), SMILES[:1], np.array([-1]), np.array([-1]))
    nothing = EncodedPool(none, encoded(texts_at([0.5])), encoded(np.eye(31)[:1]))
    assert np.isnan(trusted_score(nothing, lambda first: encoded([]), None))


def test_a_text_is_answered_if_its_molecule_is_among_the_first(monkeypatch):
    monkeypatch.setattr(confidence, "FOUND", 1)
    query = np.eye(3, dtype=np.float32)[[1, 1, 2]]  # the first points at molecule 1
    pool = pool_of(["a", "b", "c"])
    best, answered = best_scores(pool, query, encoded(np.eye(3)), None)
    assert best.tolist() == [1, 1, 1] and answered.tolist() == [False, True, True]


def test_facts_are_part_of_the_score(monkeypatch):
    monkeypatch.setattr(confidence, "FOUND", 1)
    text, smiles = "The molecule has three chlorine atoms.", ("CCO", "ClC(Cl)Cl")
    pool = Pool("a/validation", (text,), smiles, np.array([1]), np.array([-1, -1]))
    agree = FactsTable(np.zeros((len(FACTS), STATES), np.float32), 1.0)
    stated = ~np.isnan(text_facts(text)) & (text_facts(text) == molecule_facts(smiles[1]))
    agree.worth[stated, 3] = 0.25  # as many as stated
    both = encoded([[1.0, 0.0], [0.8, 0.6]])
    plain = best_scores(pool, both.rows[:1], both, None)
    assert (plain[0][0], plain[1][0]) == (1, False)
    best, answered = best_scores(pool, both.rows[:1], both, agree)
    assert answered[0] and best[0] == pytest.approx(0.8 + 0.25 * stated.sum())
