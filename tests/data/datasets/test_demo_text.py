"""What the descriptions say, checked by hand on known molecules and recomputed from the words."""

from __future__ import annotations

import re

import pytest
from rdkit import Chem

from tmr_jax.data.datasets.demo.facts import NUMBER, compute_facts
from tmr_jax.data.datasets.demo.names import find_parent, group_name, view
from tmr_jax.data.datasets.demo.pairs import demo_pairs
from tmr_jax.data.datasets.demo.text import Draw, article, describe
from tmr_jax.types import Pair


@pytest.mark.parametrize(
    ("smiles", "name", "groups"),
    [
        ("Clc1ccncc1", "pyridine", [("4", "chloro")]),
        ("Cc1ccc2ccccc2n1", "quinoline", [("2", "methyl")]),
        ("Cn1cnc2c1c(=O)n(C)c(=O)n2C", "purine", None),  # caffeine
        ("CC(=O)Oc1ccccc1C(=O)O", "benzene", [("1", "acetyloxy"), ("2", "carboxy")]),
        ("COc1cc(C=O)ccc1O", "benzene", [("1", "hydroxy"), ("2", "methoxy"), ("4", "formyl")]),
        ("CCCCCCCC/C=C\\CCCCCCCC(=O)O", "octadec-9-enoic acid", []),
        ("CC(C)CC(N)C(=O)O", "pentanoic acid", [("2", "amino"), ("4", "methyl")]),
        ("OCC(O)CO", "propane", [("1", "hydroxy"), ("2", "hydroxy"), ("3", "hydroxy")]),
        ("C/C=C/C=C/C(=O)OCC", "ethyl hexa-2,4-dienoate", []),
        ("O=C1CCCCC1", "cyclohexane", [("1", "oxo")]),
        ("C1CN(CCO1)S(=O)(=O)c1ccccc1", "morpholine", [("4", "phenylsulfonyl")]),
    ],
)
def test_parents_by_hand(smiles: str, name: str, groups: list | None) -> None:
    parent = find_parent(view(Chem.MolFromSmiles(smiles)))
    assert parent is not None
    assert parent.name == name
    if groups is not None:
        assert sorted(parent.groups) == sorted(groups)


@pytest.mark.parametrize(
    ("smiles", "name"),
    [
        ("CC(C)(C)c1ccccc1", "tert-butyl"),
        ("CC(C)c1ccccc1", "propan-2-yl"),
        ("NNc1ccccc1", "hydrazinyl"),
        ("CN(C)c1ccccc1", "dimethylamino"),
        ("FC(F)(F)c1ccccc1", "trifluoromethyl"),
        ("[O-][N+](=O)c1ccccc1", "nitro"),
        ("[2H]C([2H])([2H])c1ccccc1", "trideuteriomethyl"),
        ("OP(=O)(O)Oc1ccccc1", "phosphonooxy"),
        ("C=CCc1ccccc1", "prop-2-en-1-yl"),
        ("NS(=O)(=O)c1ccccc1", "sulfamoyl"),
        ("CCCC(=O)c1ccccc1", "butanoyl"),
        ("OCCN(CCO)c1ccccc1", "bis(2-hydroxyethyl)amino"),
        ("CNC(NC)c1ccccc1", "bis(methylamino)methyl"),
    ],
)
def test_groups_by_hand(smiles: str, name: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    ring = mol.GetRingInfo().AtomRings()[0]
    bond = next(
        b for b in mol.GetBonds() if (b.GetBeginAtomIdx() in ring) != (b.GetEndAtomIdx() in ring)
    )
    ends = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    outside, inside = ends if ends[1] in ring else ends[::-1]
    assert group_name(view(mol), outside, inside) == name


@pytest.mark.parametrize(
    ("smiles", "held", "broken"),
    [
        ("C[C@H](N)C(=O)O", {"stereo:2S", "class:alpha-amino acid", "class:monocarboxylic acid"},
         {"class:ketone", "no:N", "class:primary alcohol"}),
        ("[NH3+]CC(=O)[O-]", {"zwitterion", "class:carboxylate", "no:ring"}, {"charge:0"}),
        ("C[N+](C)(C)C.[Cl-]", {"ion:chloride", "class:quaternary ammonium"}, {"zwitterion"}),
        ("O=[N+]([O-])c1ccccc1", {"class:C-nitro", "rings=1", "aromatic=1"}, {"zwitterion"}),
        ("CC(=O)NC", {"class:secondary amide"}, {"class:secondary amine", "class:tertiary amide"}),
        ("CC(=O)OC", {"class:carboxylic ester", "class:methyl ester"},
         {"class:dialkyl ether", "class:ketone", "class:monocarboxylic acid"}),
        ("C/C=C/Cl", {"geometry:E=1", "class:organochlorine"}, {"geometry:Z=1", "no:halogen"}),
        ("OC(=O)CC(=O)O", {"class:dicarboxylic acid"}, {"class:monocarboxylic acid"}),
        ("Oc1ccc(Cl)cc1", {"class:phenols", "relation:para"}, {"relation:meta", "class:aldehyde"}),
        ("Nc1cccc(O)c1", {"relation:meta", "class:aromatic amine"}, {"class:primary amine"}),
    ],
)  # fmt: skip
def test_facts_by_hand(smiles: str, held: set[str], broken: set[str]) -> None:
    keys = compute_facts(Chem.MolFromSmiles(smiles)).keys()
    assert held <= keys
    assert not broken & keys


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return demo_pairs(300, 0, 0, seed=11)


def value(word: str) -> int:
    return NUMBER.index(word) if word in NUMBER else int(word)


def atoms(mol: Chem.Mol, symbol: str) -> int:
    return len(mol.GetSubstructMatches(Chem.MolFromSmarts(f"[#{symbol}]"), maxMatches=999))


ELEMENT = {"fluorine": "9", "chlorine": "17", "bromine": "35", "iodine": "53", "sulfur": "16"}
ELEMENT |= {"nitrogen": "7", "oxygen": "8", "carbon": "6"}


def test_counts_in_the_words_are_those_of_the_molecule(pairs: list[Pair]) -> None:
    checked = 0
    for pair in pairs:
        mol = Chem.MolFromSmiles(pair.smiles)
        for count, name in re.findall(r"(\w+) (\w+) atoms?\b", pair.text):
            if name in ELEMENT:
                assert value(count) == atoms(mol, ELEMENT[name]), pair
                checked += 1
        for count in re.findall(r"(\w+) non-hydrogen atoms?\b", pair.text):
            assert value(count) == sum(a.GetAtomicNum() > 1 for a in mol.GetAtoms()), pair
        for count in re.findall(
            r"(?:has|contains|comprises|possesses|and|,) (\w+) rings?\b", pair.text
        ):
            if count in NUMBER or count.isdigit():
                bonds, parts = mol.GetNumBonds(), len(Chem.GetMolFrags(mol))
                assert value(count) == bonds - mol.GetNumAtoms() + parts, pair
                checked += 1
    assert checked > 100


def test_what_is_absent_is_absent(pairs: list[Pair]) -> None:
    marks = {"halogens": "[F,Cl,Br,I]", "nitrogen": "[#7]", "sulfur": "[#16]", "oxygen": "[#8]"}
    marks |= {"aromatic rings": "a"}
    checked = 0
    for pair in pairs:
        mol = Chem.MolFromSmiles(pair.smiles)
        said = re.findall(
            r"(?:lacks|has no|is free of|not contain|contains neither) ([^.]*)\.", pair.text
        )
        for name, smarts in marks.items():
            if any(re.search(rf"(?:^|, |or |nor ){name}", part) for part in said):
                assert not mol.HasSubstructMatch(Chem.MolFromSmarts(smarts)), pair
                checked += 1
    assert checked > 50


def test_halogens_and_charges_in_the_words(pairs: list[Pair]) -> None:
    for pair in pairs:
        mol = Chem.MolFromSmiles(pair.smiles)
        for stem, smarts in (("chloro", "[#17]"), ("bromo", "[#35]"), ("iodo", "[#53]")):
            if re.search(stem, pair.text.replace("iodoso", "")):
                assert mol.HasSubstructMatch(Chem.MolFromSmarts(smarts)), pair
        charge = re.search(r"charge of (\d)([+-])", pair.text)
        if charge:
            assert Chem.GetFormalCharge(mol) == int(charge[2] + charge[1]), pair


def test_double_bond_geometry_in_the_words(pairs: list[Pair]) -> None:
    """No more of them than RDKit's other stereo code finds marked."""
    checked = 0
    for pair in pairs:
        said = re.findall(r"(\w+) double bonds? of [EZ] conf", pair.text)
        if said:
            found = Chem.FindPotentialStereo(Chem.MolFromSmiles(pair.smiles))
            bonds = [s for s in found if s.type == Chem.StereoType.Bond_Double]
            marked = sum(s.specified == Chem.StereoSpecified.Specified for s in bonds)
            assert sum(map(value, said)) <= marked, pair
            checked += 1
    assert checked


def test_every_claim_is_among_the_facts() -> None:
    for number, pair in enumerate(demo_pairs(80, 0, 0, seed=2)):
        facts = compute_facts(Chem.MolFromSmiles(pair.smiles))
        for variant in range(5):
            assert describe(facts, Draw(f"{number}:{variant}")).claims <= facts.keys()


def test_most_texts_fit_one_molecule_only() -> None:
    """Of 400; the text's claims are looked up among all that holds for each of the others."""
    facts = [compute_facts(Chem.MolFromSmiles(p.smiles)) for p in demo_pairs(0, 0, 400, seed=5)]
    keys = [f.keys() for f in facts]
    told = [describe(f, Draw(str(i))).claims for i, f in enumerate(facts)]
    alone = sum(sum(claims <= other for other in keys) == 1 for claims in told)
    assert alone / len(facts) > 0.85


def test_wording_varies_but_the_molecule_does_not_depend_on_atom_order() -> None:
    texts = set()
    for smiles in ("CC(=O)Nc1ccc(O)cc1", "c1(O)ccc(cc1)NC(C)=O"):
        facts = compute_facts(Chem.MolFromSmiles(smiles))
        assert describe(facts, Draw("x")).claims  # a text can be drawn from either
        texts.add(frozenset(facts.keys()))
    assert len(texts) == 1
    facts = compute_facts(Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1"))
    assert len({describe(facts, Draw(str(i))).text for i in range(20)}) > 15


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("oxane", "an oxane"),
        ("chloro", "a chloro"),
        ("2-amino", "a 2-amino"),
        ("8-oxo", "an 8-oxo"),
    ],
)
def test_articles(word: str, expected: str) -> None:
    assert article(word) == expected
