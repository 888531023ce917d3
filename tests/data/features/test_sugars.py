"""Names of sugars in chains and rings, by hand."""

from __future__ import annotations

import pytest
from rdkit import Chem

from tmr_jax.data.features.sugars import sugars

ADENOSINE = "Nc1ncnc2c1ncn2[C@@H]1O[C@H](CO)[C@@H](O)[C@H]1O"
LACTOSE = "OC[C@H]1O[C@@H](O[C@H]2[C@H](O)[C@@H](O)C(O)O[C@@H]2CO)[C@H](O)[C@@H](O)[C@H]1O"
SUCROSE = "OC[C@H]1O[C@@](CO)(O[C@H]2O[C@H](CO)[C@@H](O)[C@H](O)[C@H]2O)[C@@H](O)[C@@H]1O"
NAMED = [
    # chains: an aldehyde, a ketone, an acid, a polyol read from both ends, a meso one
    ("aldehydo-D-glucose", "O=C[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO", "D-gluco"),
    ("aldehydo-L-arabinose", "O=C[C@H](O)[C@@H](O)[C@@H](O)CO", "L-arabino"),
    ("aldehydo-D-ribose", "O=C[C@H](O)[C@H](O)[C@H](O)CO", "D-ribo"),
    ("keto-D-fructose", "OCC(=O)[C@@H](O)[C@H](O)[C@H](O)CO", "D-fructo"),
    ("D-xylulose", "OCC(=O)[C@@H](O)[C@H](O)CO", "D-xylulo"),
    ("D-gluconate", "OC[C@@H](O)[C@@H](O)[C@H](O)[C@@H](O)C(=O)[O-]", "D-gluco"),
    ("D-glucitol", "OC[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO", "D-gluco L-gulo"),
    ("D-mannitol", "OC[C@@H](O)[C@@H](O)[C@H](O)[C@H](O)CO", "D-manno"),
    ("ribitol", "OC[C@H](O)[C@H](O)[C@H](O)CO", "D-ribo L-ribo"),
    ("2-deoxy-D-ribose 5-phosphate", "O=CC[C@H](O)[C@H](O)COP(=O)(O)O", "D-ribo"),
    # rings of six and five, with anomers
    ("alpha-D-glucose", "OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "D-gluco alpha-D"),
    ("beta-D-glucose", "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "D-gluco beta-D"),
    ("N-acetyl-D-glucosamine", "CC(=O)N[C@H]1C(O)O[C@H](CO)[C@@H](O)[C@@H]1O", "D-gluco"),
    ("beta-D-glucuronic acid", "O[C@@H]1O[C@@H]([C@@H](O)[C@H](O)[C@H]1O)C(O)=O", "D-gluco beta-D"),
    ("alpha-L-fucose", "C[C@@H]1O[C@@H](O)[C@@H](O)[C@H](O)[C@@H]1O", "L-fuco alpha-L"),
    ("alpha-L-idofuranose", "OC[C@H](O)[C@H]1O[C@@H](O)[C@H](O)[C@H]1O", "L-ido alpha-L"),
    ("alpha-D-fructofuranose", "OC[C@H]1O[C@@](O)(CO)[C@@H](O)[C@@H]1O", "D-fructo alpha-D"),
    ("adenosine", ADENOSINE, "D-ribo beta-D"),
    ("lactose", LACTOSE, "D-galacto beta-D D-gluco"),
    ("sucrose", SUCROSE, "D-fructo beta-D D-gluco alpha-D"),
    # none
    ("glucose without marks", "OCC1OC(O)C(O)C(O)C1O", ""),
    ("myo-inositol", "O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@H](O)[C@@H]1O", ""),
    ("benzene", "c1ccccc1", ""),
]


@pytest.mark.parametrize("smiles, names", [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_sugars_have_their_names(smiles: str, names: str) -> None:
    found = sugars(Chem.MolFromSmiles(smiles))
    assert sorted(n for n in found if "-" in n) == sorted(names.split())
    hands = [n.split("-") for n in names.split() if n[0] in "DL"]
    assert {name for name in found if "-" not in name} == {
        *(name for _, name in hands),
        *(f"{hand} sugar" for hand, _ in hands),
    }


@pytest.mark.parametrize("smiles", [row[1] for row in NAMED], ids=[row[0] for row in NAMED])
def test_a_mirror_image_has_the_other_hand(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    found = sugars(mol)
    for atom in mol.GetAtoms():
        atom.InvertChirality()
    other = str.maketrans("DL", "LD")
    assert sugars(mol) == {name.translate(other): number for name, number in found.items()}


def test_two_of_a_kind_are_counted() -> None:
    assert sugars(Chem.MolFromSmiles(SUCROSE))["D sugar"] == 2
