"""Properties of molecules in textbooks, and each functional group on one that has it."""

from __future__ import annotations

import pytest

from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.features.properties import (
    CLASSES,
    GROUPS,
    MASKS,
    joined,
    mask_of,
    masks,
    names_of,
    parts,
    properties,
)


def groups(smiles: str) -> set[str]:
    return {name for names in shown(smiles).values() for name in names}


def shown(smiles: str) -> dict[str, list[str]]:
    return names_of(dict(zip(MASKS, masks(parse_smiles(smiles)), strict=True)))


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
        # classes
        ("NCC(=O)NCC(=O)NCC(=O)O", {"dipeptide"}),
        ("NC(C)C(=O)NC(CO)C(=O)O", {"tripeptide"}),
        # lupane: four six-membered rings in a row
        ("CC(C)C1CCC2(C)CCC3(C)C(CCC4C5(C)CCCC(C)(C)C5CCC43C)C12", {"steroid"}),
        ("OCC1OC(O)C(O)C(O)C1O", {"disaccharide", "sugar-phosphate", "glucuronide"}),
        ("Nc1ncnc2c1ncn2C1OC(COP(=O)(O)O)C(O)C1O", {"sugar-phosphate"}),
        ("O=c1c(-c2ccccc2)coc2ccccc12", {"flavone"}),
        ("c1ccc2cnccc2c1", {"quinoline"}),
        ("CCCCO", {"alkane"}),
        ("C[NH+](C)C", {"quaternary-ammonium"}),
        ("C[N+](C)(C)CC(=O)[O-]", {"quaternary-ammonium"}),
        ("CC(=O)NC(C)C(=O)NC(CO)C(=O)O", {"dipeptide"}),
        ("CC1(C)OB(c2ccccc2)OC1(C)C", {"boronic-acid"}),
        ("Clc1ccccc1", {"alkyl-chloride"}),
        ("CCCCCCCC(N)C(=O)O", {"fatty-acid"}),
        ("C1CCCCC1", {"alkane", "macrocycle"}),
        ("CC(=O)O", {"fatty-acid"}),
    ],
)
def test_groups_and_classes_have_bounds(smiles, absent):
    assert not groups(smiles) & absent


CLASS_EXAMPLES = {
    "steroid": "CC12CCC3C(CCC4CC(O)CCC34C)C1CCC2=O",
    "bile-acid": "CC(CCC(=O)O)C1CCC2C1(C)CCC1C2CCC2CC(O)CCC21C",
    "peptide": "NCC(=O)NCC(=O)NCC(=O)NCC(=O)O",
    "dipeptide": "NC(C)C(=O)NC(CO)C(=O)O",
    "tripeptide": "NCC(=O)NC(C)C(=O)NCC(=O)O",
    "amino-acid": "NC(Cc1ccccc1)C(=O)O",
    "fatty-acid": "CCCCCCCCCCCCCCCC(=O)O",
    "triglyceride": "CCCC(=O)OCC(OC(=O)CCC)COC(=O)CCC",
    "glycerophospholipid": "CCCCCC(=O)OCC(OC(=O)CCCCC)COP(=O)([O-])OCC[N+](C)(C)C",
    "ceramide": "CCCCCC(=O)NC(CO)C(O)C=CCCCCCCCCCCCCC",
    "sugar": "OCC1OC(O)C(O)C(O)C1O",
    "disaccharide": "OCC1OC(OC2C(O)C(O)C(O)OC2CO)C(O)C(O)C1O",
    "sugar-phosphate": "O=P(O)(O)OCC1OC(O)C(O)C(O)C1O",
    "glucuronide": "OC(=O)C1OC(Oc2ccccc2)C(O)C(O)C1O",
    "nucleoside": "Nc1ncnc2c1ncn2C1OC(CO)C(O)C1O",
    "nucleotide": "Nc1ncnc2c1ncn2C1OC(COP(=O)(O)O)C(O)C1O",
    "macrocycle": "O=C1CCCCCCCCCCCO1",
    "beta-lactam": "O=C1CCN1C",
    "penicillin": "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "cephalosporin": "CC1=C(C(=O)O)N2C(=O)C(N)C2SC1",
    "barbiturate": "CCC1(CC)C(=O)NC(=O)NC1=O",
    "benzodiazepine": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "flavonoid": "O=C1CC(c2ccccc2)Oc2ccccc21",
    "flavone": "O=c1cc(-c2ccccc2)oc2ccccc12",
    "isoflavone": "O=c1c(-c2ccccc2)coc2ccccc12",
    "coumarin": "O=c1ccc2ccccc2o1",
    "quinone": "CC1=CC(=O)C=CC1=O",
    "anthraquinone": "O=C1c2ccccc2C(=O)c2ccccc21",
    "porphyrin": "C1=CC2=NC1=CC1=CC=C(N1)C=C1C=CC(=N1)C=C1C=CC(=C2)N1",
    "carotenoid": "CC(C)=CC=CC(C)=CC=CC(C)=CC=CC=C(C)C=CC=C(C)C=CC=C(C)C",
    "alkane": "CCCCC(C)C",
    "tryptamine": "NCCc1c[nH]c2ccccc12",
    "phenethylamine": "CC(N)Cc1ccccc1",
    "indole": "c1ccc2[nH]ccc2c1",
    "quinoline": "c1ccc2ncccc2c1",
    "isoquinoline": "c1ccc2cnccc2c1",
    "pyridine": "c1ccncc1",
    "pyrimidine": "c1ccncn1",
    "pyrazine": "c1cnccn1",
    "purine": "c1ncc2nc[nH]c2n1",
    "pyrrole": "c1cc[nH]c1",
    "imidazole": "c1c[nH]cn1",
    "pyrazole": "c1cn[nH]c1",
    "triazole": "c1c[nH]nn1",
    "tetrazole": "c1nnn[nH]1",
    "thiazole": "c1cscn1",
    "oxazole": "c1cocn1",
    "thiophene": "c1ccsc1",
    "furan": "c1ccoc1",
    "piperidine": "C1CCNCC1",
    "piperazine": "C1CNCCN1",
    "morpholine": "C1COCCN1",
    "naphthalene": "c1ccc2ccccc2c1",
    "isothiocyanate": "CN=C=S",
    "hydroperoxide": "CCOO",
    "organoselenium": "C[Se]C",
    "organosilicon": "C[Si](C)(C)C",
    "quaternary-ammonium": "C[N+](C)(C)CCO.[Cl-]",
    "boronic-ester": "CC1(C)OB(c2ccccc2)OC1(C)C",
    "alkyl-chloride": "CCCl",
    "alkyl-bromide": "CCBr",
    "aryl-chloride": "Clc1ccccc1",
    "aryl-bromide": "Brc1ccccc1",
}


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_is_found_where_it_is(name):
    assert name in groups(CLASS_EXAMPLES[name])
    assert name not in groups("CC(=O)Nc1ccccc1")


def test_masks_and_names():
    mask = mask_of(["nitrile", "nitro", "steroid"])
    assert names_of(parts(mask)) == {"groups": ["nitrile", "nitro"], "classes": ["steroid"]}
    assert mask.bit_count() == 3 and joined(parts(mask)) == mask and mask_of([]) == 0
    every = parts(mask_of([*GROUPS, *CLASSES]))
    assert all(0 < part < 2**63 for part in every.values()) and list(every) == list(MASKS)
