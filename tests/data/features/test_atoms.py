"""Columns of atoms and bonds on molecules whose columns are known by hand."""

from __future__ import annotations

import pytest
from rdkit import Chem

from tmr_jax.data.features.atoms import (
    EDGE_SIZES,
    ENVIRONMENT_SIZES,
    NODE_SIZES,
    atom_columns,
    bond_columns,
    environment_columns,
    morgan1_identifiers,
)

ELEMENT, TAG, CIP, DEGREE, CHARGE, HYDROGENS, RADICALS = range(7)
HYBRIDISATION, AROMATIC, IN_RING, ISOTOPE, RING_SIZE = range(7, 12)


def columns(smiles: str, atom: int = 0) -> tuple[int, ...]:
    mol = Chem.MolFromSmiles(smiles)
    return atom_columns(mol.GetAtomWithIdx(atom), mol.GetRingInfo())


def test_every_column_of_a_methyl_carbon():
    assert columns("CO") == (6, 0, 0, 1, 5, 3, 0, 3, 0, 0, 0, 0)


def test_every_column_of_an_aromatic_carbon():
    assert columns("c1ccccc1") == (6, 0, 0, 2, 5, 1, 0, 2, 1, 1, 0, 4)


@pytest.mark.parametrize(
    ("smiles", "column", "value"),
    [
        ("*", ELEMENT, 0),
        ("[Na+]", CHARGE, 6),
        ("[O-2]", CHARGE, 3),
        ("[CH3]", RADICALS, 1),
        ("C#N", HYBRIDISATION, 1),
        ("[13CH4]", ISOTOPE, 2),
        ("[12CH4]", ISOTOPE, 1),
        ("[14CH4]", ISOTOPE, 3),
        ("[11CH4]", ISOTOPE, 5),
        ("[10CH4]", ISOTOPE, 6),
        ("[8CH4]", ISOTOPE, 7),
        ("[99CH4]", ISOTOPE, 4),
        ("C1CC1", RING_SIZE, 1),
        ("C1CCCCCCC1", RING_SIZE, 6),
        ("C1CCCCCCCCCCC1", RING_SIZE, 7),
    ],
)
def test_one_column(smiles, column, value):
    assert columns(smiles)[column] == value


def test_deuterium_has_an_isotope():
    mol = Chem.MolFromSmiles("[2H]O[2H]")
    assert [columns("[2H]O[2H]", i)[ISOTOPE] for i in range(mol.GetNumAtoms())] == [2, 0, 2]


@pytest.mark.parametrize(
    ("smiles", "column"),
    [("[Fe+9]", CHARGE), ("[Fe-9]", CHARGE), ("[FeH12]", HYDROGENS), ("*", HYBRIDISATION)],
)
def test_values_without_a_slot_share_the_last_one(smiles, column):
    assert columns(smiles)[column] == NODE_SIZES[column] - 1


def test_a_degree_beyond_the_table_goes_to_other():
    star = "*(" + ")(".join("C" * 12) + ")C"
    mol = Chem.MolFromSmiles(star, sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    assert atom_columns(mol.GetAtomWithIdx(0), mol.GetRingInfo())[DEGREE] == NODE_SIZES[DEGREE] - 1


def test_bond_columns_of_a_diene_by_hand():
    mol = Chem.MolFromSmiles("C/C=C/C=C")
    assert [bond_columns(bond) for bond in mol.GetBonds()] == [
        (0, 0, 0, 0),
        (1, 2, 1, 0),  # E
        (0, 0, 1, 0),
        (1, 0, 1, 0),
    ]


def test_the_parsers_z_is_z():
    mol = Chem.MolFromSmiles("C/C=C\\C")
    assert bond_columns(mol.GetBondWithIdx(1)) == (1, 1, 0, 0)


def test_hashed_environments_reach_radius_1_and_2():
    columns = environment_columns(Chem.MolFromSmiles("CCCCCCCC.[Na+].CC"))
    assert all(0 <= a < ENVIRONMENT_SIZES[0] and 0 <= b < ENVIRONMENT_SIZES[1] for a, b in columns)
    octane, sodium, ethane = columns[:8], columns[8], columns[9:]
    assert octane == octane[::-1] and sodium == (0, 0)
    # Ends, their neighbours, the rest; radius 2 tells two kinds of the rest apart.
    assert len({a for a, _ in octane}) == 3 and len({b for _, b in octane}) == 4
    assert ethane[0] == ethane[1] != (0, 0)


def test_a_bond_without_a_slot_goes_to_other():
    mol = Chem.MolFromSmiles("C~C")
    assert bond_columns(mol.GetBondWithIdx(0))[0] == EDGE_SIZES[0] - 1
    dative = Chem.MolFromSmiles("[NH3]->[Cu]")
    assert bond_columns(dative.GetBondWithIdx(0))[0] == 4


def test_morgan1_golden_identifiers():
    # ethane's second environment is the first one's duplicate.
    assert morgan1_identifiers(Chem.MolFromSmiles("CC")) == [3545175291, 2246728737]
    assert morgan1_identifiers(Chem.MolFromSmiles("C")) == [2246733040]


def test_morgan1_falls_back_to_radius_0_on_ions_and_water():
    salt = morgan1_identifiers(Chem.MolFromSmiles("[Na+].[Cl-].O"))
    assert len(set(salt)) == 3 and 0 not in salt


def test_morgan1_is_blind_to_stereo_but_sees_deuterium():
    left, right = (
        morgan1_identifiers(Chem.MolFromSmiles(s)) for s in ("C[C@H](N)O", "C[C@@H](N)O")
    )
    assert left == right
    light, heavy = (morgan1_identifiers(Chem.MolFromSmiles(s)) for s in ("CO", "CO[2H]"))
    assert set(heavy) - set(light)
