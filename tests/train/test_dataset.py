"""The training set: what is skipped, what is equal, and contradictions answered before training."""

import numpy as np
import pytest

from tests.tiny_pairs import PAIRS, TINY, with_section
from tmr_jax.train.dataset import model_and_dataset, other_texts
from tmr_jax.types import Pair


def test_refused_molecules_leave_and_equal_ones_share_a_group():
    _, data, _ = model_and_dataset(TINY, PAIRS)
    assert data.ids == ("p0", "p1", "p2", "p4", "p5", "p6", "p7")
    assert [(r.index, r.reason) for r in data.refused] == [(3, "unparsable")]
    group = data.mol_group
    assert group[0] == group[1] == group[6]
    assert len(set(group.tolist())) == 5  # the stereo-isomers are two molecules
    assert data.text_group[0] == data.text_group[6]
    assert len(set(data.text_group.tolist())) == 6


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (with_section("features", max_tokens=500), "at most 128"),
        (with_section("train", text_buckets=(32, 64)), "add 96 to --train.text-buckets"),
        (
            with_section("features", molecule="morgan1"),
            "bond features for the residual graph encoder",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_errors(config, told):
    with pytest.raises(ValueError, match=told):
        model_and_dataset(config, PAIRS)


def test_no_training_pairs_is_an_error():
    with pytest.raises(ValueError, match="expected training pairs"):
        model_and_dataset(TINY, [p._replace(split="test") for p in PAIRS])


def test_a_pair_has_a_row_for_each_sentence_and_clause():
    told = "The molecule is an alcohol. It has a role as a toxin and a drug."
    pairs = [Pair("a", told, "CCO", "train"), Pair("b", "a toxin", "CO", "train")]
    config = with_section("train", levels=(0.5, 0.25, 0.25), batch_size=2)
    _, data, _ = model_and_dataset(config, pairs)
    assert data.ids == ("a",) * 6 + ("b",) and data.pairs == 2
    np.testing.assert_array_equal(data.composition.levels.starts, [[0, 1, 3, 6], [6, 7, 7, 7]])
    assert data.mol_group.tolist() == [0] * 6 + [1]
    # "a toxin" describes both molecules: neither is a negative of it.
    shared = data.text_group[6]
    assert data.described.tolist() == [[shared]] * 7
    batch = data.batch(np.array([0, 6]), 0)
    np.testing.assert_array_equal(batch.described, [[shared], [shared]])


def test_other_texts_are_those_that_two_pairs_have():
    groups, starts = np.array([5, 6, 6, 7, 6, 7, 8]), np.array([[0, 1, 3], [3, 4, 5], [5, 6, 7]])
    wanted = [[6, -1]] * 3 + [[6, 7]] * 2 + [[7, -1]] * 2
    np.testing.assert_array_equal(other_texts(groups, starts), wanted)


def test_mined_pairs_of_one_connectivity_are_no_negatives():
    config = with_section("train", mined=2, texts="packed", batch_size=2)
    _, data, _ = model_and_dataset(config, PAIRS)
    assert data.mol_group[3] == data.mol_group[4] and len(set(data.mol_group.tolist())) == 4
    near = data.composition.mined
    np.testing.assert_array_equal(near.kinds, np.stack([data.mol_group, data.text_group], 1))
    assert near.rows.dtype == np.int8 and len(near.rows) == 7
    told = PAIRS[0]._replace(text="It is an alcohol. It is a toxin.")
    levels = with_section("train", levels=(0.5, 0.25, 0.25), mined=2, texts="packed", batch_size=2)
    _, data, _ = model_and_dataset(levels, [told, *PAIRS[1:]])
    assert len(data.ids) == 11 and len(data.composition.mined.rows) == 7  # a row of a pair


@pytest.mark.parametrize(
    "texts, size, told",
    [
        ("buckets", 2, "packed with --train.mined"),
        ("packed", 3, "divides the 4"),
        ("packed", 1, ""),
    ],
)
def test_groups_that_cannot_be_are_refused(texts, size, told):
    with pytest.raises(ValueError, match=told or "at least 2"):
        model_and_dataset(with_section("train", mined=size, texts=texts), PAIRS)


@pytest.mark.parametrize("levels", [(1.0,), (0.5, 0.6, 0.1), (1.5, -0.5, 0.0)])
def test_shares_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="three shares that sum to 1"):
        model_and_dataset(with_section("train", levels=levels), PAIRS)


def test_budgets_hold_each_molecule_once_whatever_its_texts():
    told = "The molecule is an acid. It has a role as a toxin. It is a drug. It derives from a fat."
    large, small = Pair("a", told, "C" * 60, "train"), Pair("b", "a gas", "C", "train")
    config = with_section("train", levels=(0.5, 0.25, 0.25), batch_size=2)
    _, data, _ = model_and_dataset(config, [large, small])
    assert data.shapes.nodes == (64,)  # copies of the large one would need 128
