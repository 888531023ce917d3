"""BRICS partitions by hand."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

from tmr_jax.data.features.motifs import brics_motifs, number_by_first


def motifs(smiles: str) -> list[int]:
    return brics_motifs(Chem.MolFromSmiles(smiles)).tolist()


def test_an_amide_is_cut_between_carbonyl_and_nitrogen():
    assert motifs("CC(=O)NC") == [0, 0, 0, 1, 1]


def test_nothing_to_cut_is_one_motif():
    assert motifs("c1ccccc1") == [0] * 6
    assert motifs("C") == [0]


def test_components_are_motifs_of_their_own():
    assert motifs("[Na+].[Cl-]") == [0, 1]
    assert motifs("CC(=O)NC.O") == [0, 0, 0, 1, 1, 2]


def test_dummy_atoms_of_the_input_are_no_cut_points():
    assert len(motifs("*c1ccccc1")) == 7


def test_every_atom_of_a_large_molecule_has_a_motif():
    found = brics_motifs(Chem.MolFromSmiles("NC(C)C(=O)" * 120 + "O"))
    assert len(found) == 601 and found.max() > 100
    assert set(found.tolist()) == set(range(found.max() + 1))


def test_parts_are_numbered_by_their_first_members():
    assert number_by_first(np.array([7, 3, 7, 1, 3])).tolist() == [0, 1, 0, 2, 1]
