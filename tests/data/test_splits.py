"""Splits are pure functions, and scaffolds stay whole."""

from __future__ import annotations

import pytest

from tmr_jax.data.splits import check_fractions, random_split, scaffold_splits

SHARES = (0.8, 0.1, 0.1)


def test_a_random_split_depends_on_seed_and_id_only() -> None:
    names = [f"row-{i}" for i in range(5_000)]
    found = [random_split(name, SHARES, 0) for name in names]
    assert found == [random_split(name, SHARES, 0) for name in names]
    assert abs(found.count("train") / 5_000 - 0.8) < 0.02
    assert abs(found.count("validation") / 5_000 - 0.1) < 0.02
    other = [random_split(name, SHARES, 1) for name in names]
    assert 0.2 < sum(a != b for a, b in zip(found, other, strict=True)) / 5_000 < 0.5
    # recorded: a split must not move between versions or machines
    recorded = "validation validation validation test"
    assert [random_split(n, (0.4, 0.3, 0.3), 7) for n in "abcd"] == recorded.split()


def test_no_scaffold_is_in_two_splits() -> None:
    rings = ["c1ccccc1", "C1CCCC1", "c1ccncc1", "c1ccoc1", "C1CCNCC1", "c1ccsc1", ""]
    smiles = [f"{'C' * n}O{ring}" for ring in rings for n in range(1, 12)]
    found = scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=0)
    for ring in rings[:-1]:
        assert len({s for m, s in zip(smiles, found, strict=True) if m.endswith(ring)}) == 1
    acyclic = {s for m, s in zip(smiles, found, strict=True) if m.endswith("O")}
    assert len(acyclic) == 1
    assert set(found) == {"train", "validation", "test"}
    assert found.count("train") == 44 and found.count("test") in (11, 22)
    assert found == scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=0)
    assert any(found != scaffold_splits(smiles, (0.6, 0.2, 0.2), seed=s) for s in (1, 2, 3))


def test_all_in_training_is_a_split_too() -> None:
    assert scaffold_splits(["C", "c1ccccc1"], (1.0, 0.0, 0.0), 0) == ["train", "train"]


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.1, -0.1), ()])
def test_fractions_that_are_none_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="three fractions"):
        check_fractions(wrong)
