"""The demo set: the same everywhere, no molecule twice, no skeleton on both sides."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from rdkit import Chem

from tmr_jax.data.datasets.demo.pairs import LABEL, demo_pairs
from tmr_jax.data.features.similarity import skeleton_key
from tmr_jax.types import Pair

SIZES = (160, 40, 60)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return demo_pairs(*SIZES, seed=3)


def digest(pairs: list[Pair]) -> str:
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_other_processes_make_the_same_pairs(pairs: list[Pair], hash_seed: str) -> None:
    code = (
        "import hashlib; from tmr_jax.data.datasets.demo.pairs import demo_pairs; "
        f"print(hashlib.sha256(repr(demo_pairs{(*SIZES, 3)}).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": "C", "TZ": "Asia/Kathmandu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(pairs)


def test_sizes_and_order_of_the_splits(pairs: list[Pair]) -> None:
    splits = [p.split for p in pairs]
    assert splits == ["train"] * 160 + ["validation"] * 40 + ["test"] * 60
    assert len({p.id for p in pairs}) == len(pairs)


def test_no_molecule_twice(pairs: list[Pair]) -> None:
    canonical = [Chem.CanonSmiles(p.smiles) for p in pairs]
    assert canonical == [p.smiles for p in pairs]
    assert len(set(canonical)) == len(canonical)


def test_no_skeleton_in_two_splits(pairs: list[Pair]) -> None:
    """By the project's own identity, salts by each of their larger components too."""
    splits: dict[str, set[str]] = {}
    for pair in pairs:
        large = [s for s in pair.smiles.split(".") if Chem.MolFromSmiles(s).GetNumHeavyAtoms() > 6]
        for smiles in {pair.smiles, *large}:
            splits.setdefault(skeleton_key(smiles), set()).add(pair.split)
    assert all(len(found) == 1 for found in splits.values())


def test_molecules_of_many_kinds(pairs: list[Pair]) -> None:
    smiles = " ".join(p.smiles for p in demo_pairs(400, 0, 0, seed=0))
    for mark in ("@", "/C=C", "+]", "-]", ".", "c1", "Cl", "C1"):
        assert mark in smiles, mark


def test_another_seed_gives_other_pairs(pairs: list[Pair]) -> None:
    assert digest(demo_pairs(*SIZES, seed=4)) != digest(pairs)


def test_texts_are_short_and_hold_no_line_notation(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert pair.text.startswith("The molecule is ")
        assert pair.text.endswith(".")
        assert len(pair.text.split()) <= 90
        assert pair.smiles not in pair.text
        assert "InChI" not in pair.text
        assert not any(mark in pair.text for mark in ("None", "  ", "..", "( "))


def test_the_label_says_what_the_text_is() -> None:
    assert LABEL == "generated text"


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected demo sizes of at least 0; got -1, 0, 0"):
        demo_pairs(-1, 0, 0, seed=0)


def test_no_pairs_are_no_error() -> None:
    assert demo_pairs(0, 0, 0, seed=0) == []
