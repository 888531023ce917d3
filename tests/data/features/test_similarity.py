"""Equal and like molecules: keys of duplicates, and neighbours in an order of structures."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tmr_jax.data.features import similarity
from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.data.features.similarity import (
    fingerprints,
    molecule_groups,
    molecule_key,
    molecule_keys,
    skeleton_key,
    structure_place,
)

L_ALANINE, D_ALANINE = "C[C@@H](C(=O)O)N", "C[C@H](C(=O)O)N"


def test_ethanol_has_its_published_key():
    assert molecule_key("CCO") == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"


def test_writing_does_not_matter_and_stereo_does():
    assert molecule_key("OCC") == molecule_key("C(O)C")
    assert molecule_key(L_ALANINE) != molecule_key(D_ALANINE)
    assert skeleton_key(L_ALANINE) == skeleton_key(D_ALANINE) == molecule_key(L_ALANINE)[:14]


def test_dummy_atoms_fall_back_to_canonical_smiles():
    assert molecule_key("*CC") == molecule_key("CC*") == "SMI:*CC"
    assert skeleton_key("*[C@H](C)O") == skeleton_key("*[C@@H](C)O")
    assert molecule_key("*[C@H](C)O") != molecule_key("*[C@@H](C)O")


def test_a_giant_conjugated_ring_does_not_stall():
    start = time.perf_counter()
    assert molecule_key("c1" + "c" * 996 + "c1").startswith("SMI:")
    assert time.perf_counter() - start < 2


def test_no_molecule_is_refused_with_its_reason():
    with pytest.raises(BadMolecule) as caught:
        molecule_key("C1CC")
    assert caught.value.reason == "unparsable"


def test_keys_of_many_molecules_are_cached_and_a_damaged_file_is_computed_again(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(similarity, "CACHE_FROM", 2)
    smiles = ["CCO", "CN", "OCC", "broken("]
    wanted = [molecule_key(s) for s in smiles[:3]] + ["SMI:broken("]
    assert molecule_keys(smiles) == wanted
    assert molecule_groups(smiles).tolist() == [0, 1, 0, 2]
    (path,) = tmp_path.glob("keys-*.json")
    path.write_text('["a", "b", "a", "c"]')
    assert molecule_keys(smiles) == ["a", "b", "a", "c"]
    for damage in ("[", '["a"]', "[1, 2, 3, 4]"):
        path.write_text(damage)
        capsys.readouterr()
        assert molecule_keys(smiles) == wanted
        assert "computing it again" in capsys.readouterr().err


def test_another_rdkit_computes_keys_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(similarity, "CACHE_FROM", 1)
    molecule_keys(["C"])
    monkeypatch.setattr(similarity.rdBase, "rdkitVersion", "1")
    molecule_keys(["C"])
    assert len(list(tmp_path.iterdir())) == 2


def test_molecules_of_a_kind_are_neighbours():
    chains = [f"{'C' * n}O" for n in range(3, 43)]
    rings = [f"c1ccccc1{'C' * n}N(C)C" for n in range(3, 43)]
    smiles = [s for pair in zip(chains, rings, strict=True) for s in pair]
    place = structure_place(fingerprints(smiles))
    assert sorted(place) == list(range(80))
    halves = [set(place[i::2] < 40) for i in (0, 1)]
    assert halves in ([{True}, {False}], [{False}, {True}])
    assert np.array_equal(place, structure_place(fingerprints(smiles)))


def test_molecules_without_a_difference_keep_their_order():
    assert structure_place(np.ones((40, 8), np.float32)).tolist() == list(range(40))
