"""Queries cut from texts: who asks, whose texts hold, and a sample that cannot change unseen."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from tmr_jax.data import DataConfig, queries
from tmr_jax.data.datasets.chebi20 import load_split
from tmr_jax.data.pools import load_pool, without
from tmr_jax.data.queries import draw, first_sentences, key, sampled_clauses
from tmr_jax.types import Pair

TEXTS = (
    "The molecule is a steroid. It has a role as a drug.",
    "The molecule is a steroid. It is a phenol.",
    "The molecule is a lactam. It has a role as a Drug.",
    "It is an amine.",
)
PAIRS = [Pair(str(i), text, "C" * (i + 1), "test") for i, text in enumerate(TEXTS)]


def right(pool) -> list[set[int]]:
    return [set(row) for row in pool.further.tolist()]


def test_equal_first_sentences_hold_for_each_other() -> None:
    pool = first_sentences("x/first-sentence", PAIRS)
    assert pool.texts[1:3] == ("The molecule is a steroid.", "The molecule is a lactam.")
    assert pool.text_target.tolist() == [0, 1, 2, 3] and set(pool.mol_target) == {-1}
    assert right(pool) == [{0, 1}, {0, 1}, {2}, {3}]


@pytest.fixture
def sample(monkeypatch, tmp_path):
    """A folder of samples in place of the package's."""
    monkeypatch.setattr(queries.resources, "files", lambda package: tmp_path)
    return tmp_path


def test_the_sampled_clause_asks_and_every_holder_is_right(sample) -> None:
    asked = "a drug\na phenol\na Drug"
    head = queries.digest(asked.split("\n"))
    (sample / "clauses_test.tsv").write_text(f"# {head}\n0\t1\n1\t1\n2\t1\n")
    pool = sampled_clauses("x/clause", PAIRS, "test")
    assert pool.texts == ("a drug", "a phenol", "a Drug") and len(pool.smiles) == 4
    assert pool.text_target.tolist() == [0, 1, 2]
    assert right(pool) == [{0, 2}, {1}, {0, 2}]


def test_clauses_other_than_those_sampled_are_refused(sample) -> None:
    (sample / "clauses_test.tsv").write_text(draw(PAIRS))
    assert len(sampled_clauses("x/clause", PAIRS, "test").texts) == 4
    other = [PAIRS[0]._replace(text="The molecule is an alkane."), *PAIRS[1:]]
    for changed in (other, PAIRS[1:]):
        with pytest.raises(ValueError, match=r"expected the 4 clauses of x/clause; got others"):
            sampled_clauses("x/clause", changed, "test")


def test_a_clause_of_many_molecules_does_not_ask(monkeypatch) -> None:
    monkeypatch.setattr(queries, "MOST_HOLDERS", 1)
    rows = [line.split("\t") for line in draw(PAIRS).splitlines()[1:]]
    assert rows == [["1", "1"], ["2", "0"], ["3", "0"]]  # "a steroid" and "a drug" hold for two
    assert draw(PAIRS) == draw(PAIRS)
    drawn = {draw(PAIRS, seed).split("\n", 1)[1] for seed in range(20)}
    assert drawn == {draw(PAIRS).split("\n", 1)[1]}  # nothing else could be drawn
    monkeypatch.setattr(queries, "MOST_HOLDERS", 2)
    assert len({draw(PAIRS, seed) for seed in range(20)}) > 1


def test_keys_ignore_articles_capitals_and_dots() -> None:
    assert key("A Drug.") == key("the drug") == key("drug") != key("a drugs")


def test_a_holder_that_leaves_the_pool_is_no_answer() -> None:
    pool = without(first_sentences("x", PAIRS), np.array([True, False, True, True]))
    assert len(pool.texts) == 3 and right(pool) == [{0}, {1}, {2}]


@pytest.mark.real_data
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_sample_is_the_drawn_one_and_its_pools_are_whole(split: str) -> None:
    committed = resources.files("tmr_jax.data").joinpath(f"clauses_{split}.tsv").read_text()
    assert committed == draw(load_split("molt5", split))
    name = "chebi20-molt5/" + ("validation-" if split == "validation" else "")
    for kind, most in (("clause", queries.MOST_HOLDERS), ("first-sentence", 4)):
        pool = load_pool(name + kind, DataConfig())
        assert 3_299 <= len(pool.texts) <= 3_301 and 3_300 <= len(pool.smiles) <= 3_301
        assert all(i in row for i, row in zip(pool.text_target.tolist(), right(pool), strict=True))
        assert max(map(len, right(pool))) <= most
