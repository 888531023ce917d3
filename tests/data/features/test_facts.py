"""Facts of texts and of molecules, counted by hand."""

from collections import Counter

import numpy as np
import pytest
from rdkit import Chem

from tmr_jax.data.features import facts
from tmr_jax.data.features.facts import (
    FACTS,
    PLACE,
    SUGARS,
    facts_of,
    molecule_facts,
    text_facts,
)
from tmr_jax.data.features.graph import BadMolecule

STATED = [
    # numbers: prefixes, words, positions, several mentions in one name
    ("a dihydroxy monocarboxylic acid", {"hydroxy": 2, "carboxy": 1}),
    ("hydroxy groups at positions 5, 7, 3' and 4'", {"hydroxy": 4}),
    ("two chloro substituents", {"Cl": 2}),
    ("3-hydroxy-N-(4-hydroxyphenyl)butanamide", {"hydroxy": 2, "amide": 1, "chain 4": 1}),
    ("bis(hydroxymethyl) and trimethyl", {"hydroxy": 2, "methyl": 3}),
    ("a hydroxyflavone that is a trihydroxyflavone", {"hydroxy": 3, "flavone": 1}),
    # charge
    ("It is a conjugate acid of a citrate(3-).", {"negative": 0, "positive": 0}),
    ("It is a conjugate acid of a pent-4-enoate.", {"negative": 0, "positive": 0}),
    ("It is a conjugate base of a spermidinium(3+).", {"negative": 0, "positive": 0}),
    ("a conjugate base of an acid and a conjugate acid of a carbonate", {"negative": 1}),
    ("a quaternary ammonium salt of an organic cation", {"positive": None}),
    ("It is a conjugate base of a benzoic acid.", {"negative": 1, "positive": 0}),
    ("It is a conjugate acid of a N-acetylputrescine.", {"negative": 0, "positive": 1}),
    ("an acyl-CoA(4-) that is the conjugate base of palmitoyl-CoA", {"negative": 4, "CoA": 1}),
    ("The molecule is a dicarboxylic acid dianion.", {"negative": 2, "positive": 0}),
    ("The molecule is an organic cation.", {"negative": 0, "positive": 1}),
    ("The molecule is a zwitterion.", {"negative": 0, "plus atoms": 1, "minus atoms": 1}),
    ("the medication with this indication", {"negative": None, "positive": None}),
    # salts and elements
    ("the dihydrochloride salt form of it", {"counter-ions": 2, "Cl": 1}),
    ("an organic sodium salt", {"Na": 1, "counter-ions": 1}),
    ("an acyl carbohydrate", {"counter-ions": None}),
    ("a trifluoromethyl group", {"F": 3}),
    ("a period of time", {"I": None}),
    # chains
    ("hexadecanoic acid", {"chain 16": 1, "double bonds": 0, "carboxy": 1}),
    ("(9Z,12Z)-octadeca-9,12-dienoic acid", {"chain 18": 1, "double bonds": 2, "Z bonds": 2}),
    ("icosa-5,8,11,14-tetraenoate", {"chain 20": 1, "double bonds": 4}),
    ("functionally related to a linoleic acid", {"chain 18": 1, "double bonds": 2}),
    ("a fatty acid 18:3", {"chain 18": 1, "double bonds": 3}),
    ("a fatty acid with 18 carbons and two double bonds", {"carbons": 18, "double bonds": 2}),
    ("a cyclohexane", {"chain 6": None, "cyclohexane": 1}),
    ("a sesquiterpenoid", {"carbons": 15}),
    ("a C28-steroid", {"carbons": 28, "steroid": 1}),
    # stereo
    ("(2R,3S,4S)-pentol", {"R centres": 1, "S centres": 2, "centres": 3}),
    ("It is an enantiomer of a (2R,3R)-tartaric acid.", {"S centres": 2, "R centres": None}),
    ("the (S)-enantiomer of linalool", {"S centres": 1}),
    ("an alanine that has R configuration", {"R centres": 1}),
    ("It is a leucine. It is an enantiomer of a D-leucine.", {"Leu": 1, "D": None}),
    ("a threonine that has L-configuration", {"L": 1, "Thr": 1}),
    ("(the 1R,2S-diastereomer) of S-adenosyl and N,S-bis", {"R centres": 1, "S centres": 1}),
    ("trans-2-butenal", {"E bonds": 1}),
    ("ditrans,octacis-undecaprenol", {"E bonds": 2, "Z bonds": 8}),
    ("9,13-di-cis-retinoic acid", {"Z bonds": 2, "E bonds": None}),
    ("a cisplatin transfer", {"Z bonds": None, "E bonds": None}),
    ("a racemate", {"centres": 0}),
    ("a 3beta,17alpha-dihydroxy steroid", {"steroid 3beta": 1, "steroid 17alpha": 1}),
    ("a 13beta-hydroxy-Delta(5)-steroid", {"steroid 3beta": None, "hydroxy": 1}),
    ("(-)-epigallocatechin", {"epicatechin": 1, "catechin": None}),
    ("L-alanyl-D-glutamic acid", {"L": 1, "D": 1, "Ala": 1, "Glu": 1}),
    # sugars, peptides, rings, isotopes
    ("alpha-L-Fuc-(1->2)-beta-D-Gal-(1->4)-beta-D-GlcNAc", {"alpha-L": 1, "beta-D": 2}),
    ("a linear trisaccharide", {"saccharide": 3}),
    ("a tetrapeptide", {"peptide": 4}),
    ("a heterotetracyclic compound", {"cycles": 4}),
    ("a macrolide", {"macrocycle": 1, "lactone": 1}),
    ("a deuterated drug", {"isotopes": 1, "mass number": None}),
    ("a polonium atom that has formula [201Po]", {"mass number": 201}),
    ("the isotope with relative atomic mass 204.981165", {"mass number": 205}),
    ("an iodine-131 labelled drug, at carbon-7 of it", {"mass number": 131}),
    ("a hydroxy group at carbon-17", {"mass number": None}),
    ("an N-acetyl-alpha-neuraminyl residue", {"alpha-sialic": 1, "beta-sialic": None}),
    ("a D-arabinose derivative", {"arabino": 1, "D-arabino": 1, "D sugar": 1, "L sugar": None}),
    (
        "a D-allopyranose of alpha-configuration at the anomeric centre",
        {"alpha anomer": 1, "D-allo": 1},
    ),
    (
        "L-threonine, D-threose and 6-O-acetyl-L-gulonic acid",
        {"D-threo": 1, "L-threo": None, "gulo": 1},
    ),
    ("a glucocorticoid, carboxylic, regular, D-alloisoleucine, idarubicin", dict.fromkeys(SUGARS)),
    ("riboflavin, erythromycin, D-allothreonine, inositol", dict.fromkeys(SUGARS)),
    # what other molecules are
    ("It has a role as a hydroxysteroid inhibitor.", {"hydroxy": None, "steroid": None}),
]


@pytest.mark.parametrize("text, stated", STATED, ids=[text[:40] for text, _ in STATED])
def test_what_a_text_states(text, stated):
    row = text_facts(text)
    assert {n: None if np.isnan(row[PLACE[n]]) else row[PLACE[n]] for n in stated} == stated


ALANINE, GLUCOSE = "C[C@H](N)C(=O)O", "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O"
CHOLIC = (
    "C[C@H](CCC(=O)O)[C@H]1CC[C@@H]2[C@@]1([C@H](C[C@H]3[C@H]2[C@@H](C[C@H]4"
    "[C@@]3(CC[C@H](C4)O)C)O)O)C"
)
SHOWN = [
    ("CC(=O)[O-].[Na+]", {"carboxy": 1, "counter-ions": 1, "Na": 1, "negative": 0}),
    ("CC(=O)[O-]", {"negative": 1, "positive": 0, "minus atoms": 1, "counter-ions": 0}),
    ("C[NH3+]", {"positive": 1, "ammonium": 1, "plus atoms": 1}),
    ("C[N+](C)(C)CC(=O)[O-]", {"quaternary": 1, "plus atoms": 1, "minus atoms": 1, "positive": 0}),
    ("O=[N+]([O-])c1ccccc1", {"nitro": 1, "plus atoms": 0, "phenyl": 1}),
    ("CCCCCCCCCCCCCCCC(=O)O", {"chain 16": 1, "double bonds": 0, "carbons": 16}),
    ("CCCCC/C=C\\C/C=C\\CCCCCCCC(=O)O", {"chain 18": 1, "double bonds": 2, "Z bonds": 2}),
    ("C/C=C/C(=O)O", {"E bonds": 1, "Z bonds": 0, "chain 4": 1}),
    ("CCCCCC(=O)OCCCC", {"chain 6": 1, "chain 4": 1, "ester": 1}),
    ("CCCCC(C)CC", {"chain 7": 1, "methyl": 3}),
    ("C1CCCCC1", {"chain 6": 0, "cyclohexane": 1, "cycles": 1}),
    ("OC(=O)[C@H](O)[C@@H](O)C(=O)O", {"R centres": 2, "S centres": 0, "hydroxy": 2}),
    ("OC(=O)C(O)C(O)C(=O)O", {"centres": 0, "carboxy": 2}),
    (ALANINE, {"L": 1, "D": 0, "Ala": 1, "S centres": 1}),
    ("C[C@@H](N)C(=O)O", {"L": 0, "D": 1, "Ala": 1}),
    ("N[C@@H](CS)C(=O)O", {"L": 1, "Cys": 1, "thiol": 1, "R centres": 1}),
    ("C[C@H](N)C(=O)NCC(=O)N[C@@H](CCCCN)C(=O)O", {"peptide": 3, "Gly": 1, "Lys": 1, "L": 2}),
    ("NCC(=O)O", {"peptide": 0, "Gly": 1}),
    (GLUCOSE, {"gluco": 1, "beta-D": 1, "alpha-D": 0, "saccharide": 1, "galacto": 0}),
    (GLUCOSE.replace("O[C@@H](O)", "O[C@H](O)"), {"beta-D": 0, "alpha anomer": 1, "D-gluco": 1}),
    ("C[C@@H]1O[C@@H](OC)[C@H](O)[C@H](O)[C@H]1O", {"rhamno": 1, "alpha-L": 1, "beta-L": 0}),
    ("OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O", {"ribo": 1, "purine": 1, "beta-D": 1}),
    ("c1ccc2ncccc2c1", {"quinoline": 1, "isoquinoline": 0, "cycles": 2}),
    ("c1ccc2cnccc2c1", {"quinoline": 0, "isoquinoline": 1}),
    ("C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@H]2O", {"steroid": 1, "cycles": 4}),
    (CHOLIC, {f"steroid {face}": 1 for face in ("3alpha", "5beta", "7alpha", "12alpha")}),
    (CHOLIC, {f"steroid {face}": 0 for face in ("3beta", "5alpha", "7beta", "12beta", "17beta")}),
    ("O[C@@H]1Cc2c(O)cc(O)cc2O[C@@H]1c1ccc(O)c(O)c1", {"epicatechin": 1, "catechin": 0}),
    ("O=c1cc(-c2ccccc2)oc2ccccc12", {"flavone": 1, "isoflavone": 0, "chromene": 1}),
    ("c1ccccc1-c1ccccc1", {"biphenyl": 1, "cycles": 1, "phenyl": 2}),
    ("C1CCCCCCCCCCCCC1", {"macrocycle": 1}),
    ("C1CC2CCC1C2", {"cycles": 2}),
    ("Clc1ccc(Br)cc1", {"Cl": 1, "Br": 1, "F": 0}),
    ("FC(F)(F)c1ccccc1", {"F": 3}),
    ("NS(=O)(=O)c1ccccc1", {"sulfonamide": 1, "S": 1}),
    ("COP(=O)(O)O", {"phosphate": 1, "P": 1}),
    ("CSSC", {"disulfide": 1, "S": 2}),
    ("COc1ccccc1OC", {"methoxy": 2, "phenol": 0}),
    ("CC(C)=O", {"ketone": 1, "aldehyde": 0}),
    ("CC=O", {"ketone": 0, "aldehyde": 1}),
    ("CCNC(=O)N", {"urea": 1}),
    ("[2H]C([2H])([2H])O", {"isotopes": 3}),
    ("[13CH4]", {"isotopes": 1, "mass number": 13}),
    ("C[Se]C", {"Se": 1}),
]


@pytest.mark.parametrize("smiles, shown", SHOWN, ids=[smiles for smiles, _ in SHOWN])
def test_what_a_molecule_shows(smiles, shown):
    row = molecule_facts(smiles)
    assert {name: row[PLACE[name]] for name in shown} == shown


def test_every_fact_is_declared_once_and_can_be_read():
    names = [name for group, name, *_ in facts.ROWS if group[0] != "="] + [*facts.COMPUTED]
    names += [f"{hand}{name}" for hand in ("", "D-", "L-") for name in SUGARS]
    names += ["D sugar", "L sugar"]
    assert len(FACTS) == len(names) == len({*names})
    assert all(pattern for _, pattern, _ in facts._patterns())
    counted = molecule_facts("CC(=O)[O-].[Na+]").shape == text_facts("a salt").shape
    assert counted and len({fact.group for fact in FACTS.values()}) == 10


def test_facts_do_not_depend_on_how_a_molecule_is_written():
    for smiles, _ in SHOWN:
        mol = Chem.MolFromSmiles(smiles)
        other = Chem.MolToSmiles(mol, doRandom=True, canonical=False)
        assert molecule_facts(other).tolist() == molecule_facts(smiles).tolist()


def test_the_screen_by_fingerprint_loses_no_match():
    for smiles, _ in SHOWN:
        mol, row = Chem.MolFromSmiles(smiles), molecule_facts(smiles)
        found = Counter()
        for name, pattern, _ in facts._patterns():
            found[name] += len(mol.GetSubstructMatches(pattern, useChirality=True))
        del found["peptide"]  # which counts residues, not links
        assert {name: row[PLACE[name]] for name in found} == found


def test_many_are_cached_and_equal_ones_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(facts, "CACHE_FROM", 2)
    asked = []

    def one(text):
        asked.append(text)
        return text_facts(text)

    texts = ["an alcohol", "a trihydroxy", "an alcohol"]
    first, second = (facts_of(one, texts, "facts of texts") for _ in range(2))
    assert asked == texts[:2] and len(list(tmp_path.glob("facts-*.npz"))) == 1
    assert np.array_equal(first, second, equal_nan=True)
    assert first[:, PLACE["hydroxy"]].tolist() == [1, 3, 1]


def test_a_bad_molecule_is_refused():
    with pytest.raises(BadMolecule):
        facts_of(molecule_facts, ["CCO", "no molecule"], "facts of molecules")
