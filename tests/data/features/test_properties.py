"""Properties of molecules in textbooks, and each functional group on one that has it."""

from __future__ import annotations

import pytest

from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.features.properties import GROUPS, group_mask, group_names, mask_of, properties


def groups(smiles: str) -> set[str]:
    return set(group_names(group_mask(parse_smiles(smiles))))


def test_aspirin():
    found = properties(parse_smiles("CC(=O)Oc1ccccc1C(=O)O"))
    assert found.mw == pytest.approx(180.16, abs=0.01)
    assert found.tpsa == pytest.approx(63.6, abs=0.1)
    assert found.logp == pytest.approx(1.31, abs=0.01)
    assert (found.hbd, found.hba, found.rings, found.charge, found.heavy_atoms) == (1, 3, 1, 0, 13)
    assert groups("CC(=O)Oc1ccccc1C(=O)O") == {"ester", "carboxylic-acid", "arene"}


def test_a_salt_is_counted_whole():
    found = properties(parse_smiles("CC(=O)[O-].[Na+]"))
    assert found.charge == 0 and found.heavy_atoms == 5
    assert groups("CC(=O)[O-].[Na+]") == {"carboxylate", "metal"}


EXAMPLES = {
    "alcohol": "CCO",
    "phenol": "Oc1ccccc1",
    "enol": "OC=C",
    "thiol": "CS",
    "ether": "COC",
    "thioether": "CSC",
    "disulfide": "CSSC",
    "peroxide": "COOC",
    "epoxide": "C1CO1",
    "aldehyde": "CC=O",
    "ketone": "CC(C)=O",
    "carboxylic-acid": "CC(=O)O",
    "carboxylate": "CC(=O)[O-]",
    "ester": "CC(=O)OC",
    "lactone": "O=C1CCCO1",
    "anhydride": "CC(=O)OC(C)=O",
    "acyl-halide": "CC(=O)Cl",
    "amide": "CC(=O)NC",
    "primary-amide": "CC(N)=O",
    "lactam": "O=C1CCCN1",
    "imide": "CC(=O)NC(C)=O",
    "urea": "NC(N)=O",
    "carbamate": "NC(=O)OC",
    "carbonate": "COC(=O)OC",
    "thioester": "CC(=O)SC",
    "thioamide": "CC(N)=S",
    "primary-amine": "CN",
    "secondary-amine": "CNC",
    "tertiary-amine": "CN(C)C",
    "aromatic-amine": "Nc1ccccc1",
    "ammonium": "C[N+](C)(C)C",
    "imine": "CC=NC",
    "amidine": "CC(=N)N",
    "guanidine": "NC(=N)N",
    "nitrile": "CC#N",
    "isocyanate": "CN=C=O",
    "azide": "CN=[N+]=[N-]",
    "azo": "CN=NC",
    "hydrazine": "CNN",
    "hydrazone": "CC=NN",
    "oxime": "CC=NO",
    "hydroxylamine": "CNO",
    "nitro": "C[N+](=O)[O-]",
    "nitroso": "CN=O",
    "n-oxide": "[O-][n+]1ccccc1",
    "sulfoxide": "CS(C)=O",
    "sulfone": "CS(C)(=O)=O",
    "sulfonamide": "CS(N)(=O)=O",
    "sulfonic-acid": "CS(=O)(=O)O",
    "sulfate": "COS(=O)(=O)O",
    "phosphate": "OP(=O)(O)O",
    "phosphonate": "CP(=O)(O)O",
    "boronic-acid": "CB(O)O",
    "fluoride": "CF",
    "chloride": "CCl",
    "bromide": "CBr",
    "iodide": "CI",
    "trifluoromethyl": "CC(F)(F)F",
    "alkene": "C=C",
    "alkyne": "C#C",
    "arene": "c1ccccc1",
    "heteroarene": "c1ccncc1",
    "metal": "[Fe]",
}


@pytest.mark.parametrize("name", GROUPS)
def test_each_group_is_found_where_it_is(name):
    assert name in groups(EXAMPLES[name])
    assert name not in groups("CCCC")


@pytest.mark.parametrize(
    ("smiles", "absent"),
    [
        ("CC(=O)OC", {"ether", "ketone", "aldehyde"}),
        ("CC(N)=O", {"primary-amine", "ketone"}),
        ("CC(=O)O", {"alcohol", "ketone"}),
        ("C[N+](=O)[O-]", {"nitroso", "n-oxide"}),
        ("CS(C)(=O)=O", {"sulfoxide", "thioether"}),
        ("[Si](C)(C)(C)C", {"metal"}),
    ],
)
def test_a_larger_group_is_not_its_parts(smiles, absent):
    assert not groups(smiles) & absent


def test_masks_and_names():
    mask = mask_of(["nitrile", "nitro"])
    assert group_names(mask) == ["nitrile", "nitro"] and mask.bit_count() == 2
    assert mask_of([]) == 0 and max(mask_of([name]) for name in GROUPS) < 2**63
