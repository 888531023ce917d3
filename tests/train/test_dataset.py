"""The training set: what is skipped, what is equal, and contradictions answered before training."""

import pytest

from tests.tiny_pairs import PAIRS, TINY, with_section
from tmr_jax.train.dataset import model_and_dataset


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
