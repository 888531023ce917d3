"""Numbers beside accuracy, on cases that are counted by hand."""

import numpy as np
import pytest

from tmr_jax.data.features.similarity import scaffold
from tmr_jax.data.features.similarity import variety as of_molecules
from tmr_jax.eval.analysis import (
    TrainingSeen,
    agreement,
    entropy,
    first_items,
    mean_variety,
    roles,
    sliced,
    slices,
    uncertainty,
)
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.types import Ranking

WON = np.array([[3, 1], [3, 2], [3, 1], [3, 7]])  # four draws of two queries


def test_draws_that_agree_have_no_entropy():
    assert agreement(WON).tolist() == [1.0, 0.5]
    assert entropy(WON) == pytest.approx([0.0, 0.5 * np.log(2) + 0.5 * np.log(4)])
    found = uncertainty(WON, Ranking(np.array([0, 4]), np.array([0, 0]), 9))
    assert found["hits@1_where_all_agree"] == 1.0 and found["hits@1_elsewhere"] == 0.0
    assert found["all_agree"] == 0.5 and found["draws"] == 4


def test_variety_counts_scaffolds_and_distances():
    smiles = ["CCO", "CCO", "c1ccccc1O", "c1ccccc1N"]
    same, mixed = of_molecules(smiles[:2]), of_molecules([smiles[i] for i in (0, 2, 3)])
    assert same == (0.0, 1) and mixed.scaffolds == 2 and 0 < mixed.distance < 1
    assert of_molecules(smiles[2:3]) == (0.0, 1)
    found = mean_variety(smiles, np.array([[0, 1], [0, 2]]))
    assert found["scaffolds@10"] == 1.5
    assert scaffold("CCO") == "" and scaffold("c1ccccc1O") == "c1ccccc1"


def test_first_items_follow_the_tier():
    s1 = np.array([[0.9, 0.8, 0.1]])
    s0, x0 = np.array([[0.1, 0.2, 0.3]]), np.array([[0.0, 1.0]])
    lists = Lists(Reranked(np.array([[5, 6, 7]]), s0, s1, x0, x0), *[np.zeros(0)] * 4)
    assert first_items(lists, "det", 0.0).tolist() == [[7, 6, 5]]
    assert first_items(lists, "tapr", 0.0).tolist() == [[5, 6, 7]]
    assert first_items(lists, "fused", 1.0).tolist() == [[6, 5, 7]]


def test_roles_are_read_out_of_a_description():
    text = "It has a role as a plant metabolite, an antioxidant and a drug. It has roles as toxin."
    assert roles(text) == ["plant metabolite", "antioxidant", "drug", "toxin"]
    assert roles("It is a steroid.") == []


def test_slices_know_what_training_had():
    train = ["It has a role as a drug."] * 6 + ["It has a role as a toxin."]
    texts = ["It has a role as a drug.", "It has a role as a toxin and so on and on.", "a ring"]
    parts = slices(texts, ["c1ccccc1", "", "C1CC1"], TrainingSeen(train, {"c1ccccc1", ""}))
    assert parts["scaffold unseen in training"].tolist() == [False, False, True]
    assert parts["a role of at most 5 training texts"].tolist() == [False, True, False]
    assert parts["longest tenth of the texts"].tolist() == [False, True, False]
    found = sliced(Ranking(np.array([0, 3, 1]), np.zeros(3, int), 9), parts)
    assert found["all"]["queries"] == 3
    assert found["scaffold unseen in training"]["hits@1"] == 0.0
