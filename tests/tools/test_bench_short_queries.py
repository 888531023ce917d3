"""The list of short queries: what it holds, what each rule decides, and how hits are counted."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from tmr_jax.data.features.facts import FACTS, PLACE
from tmr_jax.eval.facts import STATED, STATES, FactsTable
from tmr_jax.models.encode import Encoded

TOOL = importlib.import_module("tools.bench.short_queries")
QUERIES = {query.text: query for query in TOOL.short_queries()}

GIVEN = """a steroid with a ketone; an aromatic amine with a chlorine atom; a dipeptide;
a fatty acid with 18 carbons and two double bonds; a sulfonamide antibiotic; a sulfonamide;
a nitrile; a benzodiazepine; a sugar phosphate; a chlorinated aromatic amine; a thiol;
a quaternary ammonium salt; a macrocycle; a boronic acid; an alkyl bromide"""
# A phenol, a fatty acid, an organophosphate and a lactone are too common in the pool.
NARROWED = """a phenol with a nitro group; a fatty acid with a hydroxy group;
an organophosphate triester; a macrocyclic lactone"""

TESTOSTERONE = "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O"
ESTRADIOL = "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc34)[C@@H]1CC[C@@H]2O"
HOPANONE = "CC1(C)C(=O)CCC2(C)C1CCC1(C)C2CCC2C3C(C(C)C)CCC3(C)CCC12C"
DEXAMETHASONE = "CC1CC2C3CCC4=CC(=O)C=CC4(C)C3(F)C(O)CC2(C)C1(O)C(=O)CO"
LITHOCHOLIC = "CC(CCC(=O)O)C1CCC2C1(C)CCC1C2CCC2CC(O)CCC12C"
SULFANILAMIDE = "Nc1ccc(cc1)S(=O)(=O)N"
AMPRENAVIR = "CC(C)CN(CC(O)C)S(=O)(=O)c1ccc(N)cc1"  # its sulfonamide, cut
GLUCOSE = "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O"
MALTOSE = "OC[C@H]1O[C@H](O[C@H]2[C@H](O)[C@@H](O)C(O)O[C@@H]2CO)[C@H](O)[C@@H](O)[C@@H]1O"
GENTIOBIOSE = "OCC1OC(OCC2OC(O)C(O)C(O)C2O)C(O)C(O)C1O"
ADENOSINE = "Nc1ncnc2c1ncn2[C@@H]1O[C@H](CO)[C@@H](O)[C@H]1O"
AMP = "Nc1ncnc2c1ncn2[C@@H]1O[C@H](COP(=O)(O)O)[C@@H](O)[C@H]1O"
PHENYL_GLUCURONIDE = "O=C(O)[C@H]1O[C@@H](Oc2ccccc2)[C@H](O)[C@@H](O)[C@@H]1O"
PHENYL_GALACTURONIDE = "O=C(O)[C@H]1O[C@@H](Oc2ccccc2)[C@H](O)[C@@H](O)[C@H]1O"
GENISTEIN = "O=c1c(-c2ccc(O)cc2)coc2cc(O)cc(O)c12"
APIGENIN = "O=c1cc(-c2ccc(O)cc2)oc2cc(O)cc(O)c12"
CHRYSIN = "O=c1cc(-c2ccccc2)oc2cc(O)cc(O)c12"
AMPICILLIN = "CC1(C)SC2C(NC(=O)C(N)c3ccccc3)C(=O)N2C1C(=O)O"
CEPHALEXIN = "CC1=C(C(=O)O)N2C(SC1)C(NC(=O)C(N)c1ccccc1)C2=O"
PORPHINE = "C1=CC2=CC3=CC=C(N3)C=C3C=CC(=N3)C=C3C=CC(N3)=CC1=N2"
CHLORIN = "C1CC2=NC1=CC1=CC=C(N1)C=C1C=CC(=N1)C=C1C=CC(=C2)N1"
CAROTENE = "CC1=C(C(C)(C)CCC1)C=CC(C)=CC=CC(C)=CC=CC=C(C)C=CC=C(C)C=CC1=C(C)CCCC1(C)C"
RETINOL = "CC1=C(C(C)(C)CCC1)C=CC(C)=CC=CC(C)=CCO"
CERAMIDE = "CCCCCCCCCCCCCC=CC(O)C(CO)NC(=O)CCCCCCCCCCCCCCC"
SPHINGOSINE = "CCCCCCCCCCCCCC=CC(O)C(CO)N"
TRIOLEIN = "CCCCCCCCC=CCCCCCCCC(=O)OCC(OC(=O)CCCCC)COC(=O)CCCCC"
# Molecules that are right, and that are not, by eye.
DECIDED = {
    "a steroid with a ketone": ([TESTOSTERONE, DEXAMETHASONE], [ESTRADIOL, HOPANONE, "CC(C)=O"]),
    "a steroid with a fluorine atom": ([DEXAMETHASONE], [TESTOSTERONE, "CCF"]),
    "an aromatic amine with a chlorine atom": (
        ["Nc1ccc(Cl)cc1", "ClCCNc1ccccc1"],
        ["Nc1ccccc1.Cl", "CC(=O)Nc1ccc(Cl)cc1", "NCc1ccc(Cl)cc1"],
    ),
    "a chlorinated aromatic amine": (["CN(C)c1ccccc1Cl"], ["ClCCNc1ccccc1", "Clc1ccccc1"]),
    "a dipeptide": (
        ["NCC(=O)NCC(=O)O", "C[C@H]([NH3+])C(=O)N1CCC[C@H]1C(=O)[O-]", "NC(CCC(=O)NCC(=O)O)C(=O)O"],
        ["NCC(=O)O", "NCC(=O)NCC(=O)NCC(=O)O", "CC(=O)NCC(=O)O", AMPICILLIN],
    ),
    "a tripeptide": (
        ["NCC(=O)NCC(=O)NCC(=O)O", "NC(CCC(=O)NC(CS)C(=O)NCC(=O)O)C(=O)O"],
        ["NCC(=O)NCC(=O)O", "NCC(=O)NCC(=O)NCC(=O)NCC(=O)O"],
    ),
    "a fatty acid with 18 carbons and two double bonds": (
        ["CCCCCC=CCC=CCCCCCCCC(=O)O", "CCCCCC(O)C=CC=CCCCCCCCC(=O)[O-]"],
        ["CCCCCCCCC=CCCCCCCCC(=O)O", "CCCCCC=CCC=CCCCCCCCC(=O)OC", "CCCCCC=CCC=CCCCCCCCCCC(=O)O"],
    ),
    "a fatty acid with a hydroxy group": (
        ["CCCCCCC(O)CCCCC(=O)O", "OCCCCCCCCC(=O)[O-]"],
        ["CCCCCCCCC(=O)O", "CC(O)C(=O)O", "OC1CCCCC1C(=O)O", "OCC(O)C(O)C(O)C(O)C(O)C(O)C(=O)O"],
    ),
    "a sulfonamide": (["CS(=O)(=O)Nc1ccccc1", SULFANILAMIDE], ["CS(=O)(=O)C", "NS(=O)(=O)O"]),
    "a sulfonamide antibiotic": (
        [SULFANILAMIDE, "Nc1ccc(cc1)S(=O)(=O)[N-]c1ncccn1"],
        ["CS(=O)(=O)Nc1ccccc1", AMPRENAVIR],
    ),
    "a phenol with a nitro group": (
        ["Oc1ccc(cc1)[N+](=O)[O-]"],
        ["O=[N+]([O-])c1ccccc1", "Oc1ccccc1"],
    ),
    "a phenol with a bromine atom": (["Oc1ccccc1Br"], ["Brc1ccccc1", "OCc1ccccc1Br"]),
    "an isoflavone": ([GENISTEIN], [APIGENIN]),
    "a flavone with three hydroxy groups": ([APIGENIN], [CHRYSIN, GENISTEIN]),
    "a penicillin": ([AMPICILLIN], [CEPHALEXIN]),
    "a cephalosporin": ([CEPHALEXIN], [AMPICILLIN]),
    "a nitrile": (["CC#N", "N#Cc1ccccc1"], ["C[N+]#[C-]", "C#C", "NC#N"]),
    "a benzodiazepine": (
        ["CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12", "C1CNc2ccccc2NC1"],
        ["C1CCc2ccccc2NC1", "c1ccc2nccnc2c1"],
    ),
    "a sugar phosphate": (
        [
            "O=CC(O)C(O)C(O)C(O)COP(=O)(O)O",
            "OCC1OC(OP(=O)([O-])[O-])C(O)C(O)C1O",
            "O=C(CO)COP(=O)(O)O",
        ],
        [GLUCOSE, AMP, "OCC(O)COP(=O)(O)O"],
    ),
    "a quaternary ammonium salt": (
        ["C[N+](C)(C)C.[Cl-]", "C[N+](C)(C)CCO"],
        ["CC[NH+](CC)CC", "C[N+](C)(C)CC(=O)[O-]", "c1cc[nH+]cc1"],
    ),
    "an organophosphate triester": (
        ["COP(=O)(OC)OC", "CCOP(=S)(OCC)Oc1ccccc1"],
        ["COP(=O)(O)OC", AMP],
    ),
    "a thiol": (["CCS", "Sc1ccccc1"], ["CSC", "CC(=O)S", "CSSC"]),
    "a macrocyclic lactone": (["O=C1CCCCCCCCCCCO1"], ["O=C1CCCO1", "O=C1CCCCCCCCCCC1"]),
    "a macrocycle": (["C1CCCCCCCCCCC1", PORPHINE], ["C1CCCCCCCCCC1", "c1ccc2ccccc2c1"]),
    "a boronic acid": (["OB(O)c1ccccc1", "CCB(O)[O-]"], ["OB(O)O", "CB(C)C"]),
    "an alkyl bromide": (["CCBr", "BrCc1ccccc1"], ["Brc1ccccc1", "C=CBr", "[Br-].[Na+]"]),
    "an epoxide": (["C1OC1C"], ["C1COC1", "C1CC1"]),
    "a hydroperoxide": (["CCOO", "CO[O-]"], ["COOC", "OO"]),
    "an aromatic nitro compound": (["O=[N+]([O-])c1ccccc1"], ["C[N+](=O)[O-]", "O=Nc1ccccc1"]),
    "an azo dye with a sulfonic acid group": (
        ["Oc1ccc(cc1)N=Nc1ccc(cc1)S(=O)(=O)[O-]"],
        ["c1ccccc1N=Nc1ccccc1", "Nc1ccc(cc1)S(=O)(=O)O"],
    ),
    "an oxime": (["CC(C)=NO", "ON=Cc1ccccc1"], ["CON=CC", "NC(C)=NO", "C[N+]([O-])=CC"]),
    "an isothiocyanate": (["C=CCN=C=S"], ["CSC#N", "CN=C=O"]),
    "a disulfide": (["CSSC"], ["CSC", "CSSSC", "CSS"]),
    "a sulfoxide": (["CS(C)=O"], ["CS(C)(=O)=O", "CSC"]),
    "a phosphonic acid": (["CP(=O)(O)O", "CP(=O)([O-])O"], ["COP(=O)(O)O", "CP(=O)(OC)OC"]),
    "a terminal alkyne": (["C#CCO"], ["CC#CC", "C=CC"]),
    "a benzene ring with a trifluoromethyl group": (
        ["FC(F)(F)c1ccccc1"],
        ["FC(F)c1ccccc1", "FC(F)(F)c1ccccn1", "FC(F)(F)Cc1ccccc1"],
    ),
    "a molecule with three iodine atoms": (["IC(I)I"], ["ICI", "IC(I)(I)I", "CI"]),
    "an aromatic aldehyde": (["O=Cc1ccccc1", "O=Cc1ccco1"], ["CC=O", "CC(=O)c1ccccc1"]),
    "a carbamate ester": (["CNC(=O)OC"], ["CNC(=O)NC", "CNC(=O)O", "COC(=O)OC"]),
    "an organoselenium compound": (["C[Se]C"], ["CSC", "O=[Se](=O)=O"]),
    "a quinoline": (["c1ccc2ncccc2c1"], ["c1ccc2cnccc2c1", "c1ccncc1"]),
    "a tryptamine": (
        ["NCCc1c[nH]c2ccccc12", "CN(C)CCc1c[nH]c2ccc(O)cc12"],
        ["NCc1c[nH]c2ccccc12", "c1ccc2c(c1)[nH]c1c2CCNC1"],
    ),
    "a tetrazole": (["c1nnn[nH]1"], ["c1ncn[nH]1"]),
    "a thiophene": (["Cc1cccs1"], ["c1ccc2sccc2c1", "c1ccoc1", "C1CCSC1"]),
    "a morpholine": (["C1COCCN1", "CN1CCOCC1"], ["C1CNCCN1", "C1CSCCN1", "C1COCCO1"]),
    "a barbiturate": (
        ["CCC1(CC)C(=O)NC(=O)NC1=O", "CCC1(CC)C(=O)NC([O-])=NC1=O"],
        ["O=c1cc[nH]c(=O)[nH]1", "O=C1CC(=O)NC1"],
    ),
    "a dicarboxylic acid with six carbons": (
        ["O=C(O)CCCCC(=O)O", "O=C([O-])C=CC=CC(=O)[O-]"],
        ["O=C(O)CCCC(=O)O", "CCCCCC(=O)O"],
    ),
    "a porphyrin": ([PORPHINE], [CHLORIN, "c1cc[nH]c1"]),
    "an anthraquinone": (
        ["O=C1c2ccccc2C(=O)c2ccccc12"],
        ["O=C1C=CC(=O)c2ccccc12", "c1ccc2cc3ccccc3cc2c1"],
    ),
    "a coumarin": (["O=c1ccc2ccccc2o1"], ["O=c1ccoc2ccccc12", "O=C1CCc2ccccc2O1"]),
    "a carotenoid": ([CAROTENE], [RETINOL]),
    "a bile acid": ([LITHOCHOLIC], [TESTOSTERONE, LITHOCHOLIC.replace("(=O)O)", "(=O)NCC(=O)O)")]),
    "a disaccharide": (
        [MALTOSE, GENTIOBIOSE],
        [GLUCOSE, ADENOSINE, "OCC1OC(Oc2ccccc2)C(O)C(O)C1O"],
    ),
    "a glucuronide": ([PHENYL_GLUCURONIDE], [PHENYL_GALACTURONIDE, GLUCOSE]),
    "a polycyclic aromatic hydrocarbon": (
        ["c1ccc2ccccc2c1", "c1ccc2cc3ccccc3cc2c1"],
        ["c1ccccc1", "Oc1cccc2ccccc12"],
    ),
    "a straight-chain alkane": (["CCCCCC", "CC"], ["CC(C)C", "CCC=C", "C1CCCCC1", "CCO", "C"]),
    "a triglyceride": ([TRIOLEIN], ["CCCC(=O)OCC(O)COC(=O)CCC", "CCCC(=O)OCC"]),
    "a ceramide": ([CERAMIDE], [SPHINGOSINE, CERAMIDE.replace("(CO)", "(COP(=O)(O)O)")]),
    "a purine nucleoside": (
        [ADENOSINE],
        [AMP, "Nc1ncnc2[nH]cnc12", "O=c1ccn(C2CCC(CO)O2)c(=O)[nH]1"],
    ),
}


def test_sixty_queries_of_more_than_forty_kinds() -> None:
    given = [" ".join(text.split()) for text in f"{GIVEN}; {NARROWED}".split(";")]
    assert len(QUERIES) == 60 and QUERIES.keys() >= {*given}
    kinds = Counter(query.kind for query in QUERIES.values())
    assert len(kinds) >= 40 and max(kinds.values()) <= 2


def test_the_halves_are_by_the_rule_and_share_every_kind_of_two() -> None:
    def place(query) -> tuple[str, str]:
        return tuple(hashlib.sha256(word.encode()).hexdigest() for word in (query.kind, query.text))

    ordered = sorted(QUERIES.values(), key=place)
    assert [query.half for query in ordered] == ["tune", "look-once"] * 30
    halves = {(query.kind, query.half) for query in QUERIES.values()}
    assert len(halves) == 60
    assert len(TOOL.short_queries("tune")) == len(TOOL.short_queries("look-once")) == 30


@pytest.mark.parametrize("text", QUERIES)
def test_each_rule_by_hand(text: str) -> None:
    right, wrong = DECIDED[text]
    check = TOOL.rule(QUERIES[text])
    found = {smiles: check(TOOL.parse_smiles(smiles)) for smiles in (*right, *wrong)}
    assert found == dict.fromkeys(right, True) | dict.fromkeys(wrong, False)


def test_counts_and_alternatives_of_a_rule() -> None:
    query = TOOL.ShortQuery(
        "x", "x", "tune", all=("O",), any=("N", "S"), none=("F",), count={"C": (1, 2)}
    )
    check = TOOL.rule(query)
    words = ("OCN", "OCCS", "OCCCN", "OC", "CN", "OCNF")
    assert [check(TOOL.parse_smiles(s)) for s in words] == [True, True, False, False, False, False]
    with pytest.raises(ValueError, match="which RDKit cannot parse as SMARTS"):
        TOOL.rule(query._replace(none=("C(",)))


def test_precision_counts_ties_by_chance() -> None:
    scores = np.float32([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5]])
    right = np.array([[True, False, True, True], [True, False, False, False]])
    assert TOOL.precision(scores, right, 2).tolist() == [0.5, 0.25]
    assert TOOL.precision(scores, right, 10).tolist() == [0.75, 0.25]


class Model:
    """Answers "a thiol" with what has sulfur, as cosines of 1 and 0."""

    checkpoint: ClassVar = {"which": "best", "step": 7, "sha256": "0"}

    def texts(self, texts):
        rows = np.float32([[text == "a thiol", text != "a thiol"] for text in texts])
        return Encoded(rows, np.arange(len(texts)))

    def molecules(self, smiles):
        valid = np.array([i for i, one in enumerate(smiles) if one != "?"])
        rows = np.float32([["S" in smiles[i], "S" not in smiles[i]] for i in valid])
        return Encoded(rows, np.arange(len(valid))), valid


def test_a_run_has_a_figure_chance_and_a_line_for_each_query(tmp_path, monkeypatch, capsys) -> None:
    library = tmp_path / "few.smi"
    alcohols = [f"{'C' * n}O" for n in range(1, 9)]
    library.write_text("\n".join(["CCS", "CCS", "CCCS", "CSC", *alcohols, "?"]) + "\n")
    monkeypatch.setattr(TOOL, "open_run", lambda run, which: Model())
    monkeypatch.setattr(TOOL, "read_config", lambda run: None)
    assert TOOL.main(["--run", str(tmp_path), "--library", str(library), "--verbose"]) == 0
    record = json.loads((tmp_path / "short_tune.json").read_text())
    assert (record["molecules"], record["refused"]) == (11, 1)
    thiol = next(one for one in record["queries"] if one["text"] == "a thiol")
    assert (thiol["precision"], thiol["right"]) == (0.2, 2)  # two of the first ten
    assert record["chance"] == 2 / 11 / 30
    shown = capsys.readouterr().out.splitlines()
    assert "30 short queries, tune" in shown[0]
    assert shown[1].startswith(f"precision@10 {0.2 / 30:.3f} (") and shown[1].endswith("by det")
    assert shown[2].startswith(f"precision@10 {2 / 11 / 30:.4f} by chance")
    assert "11 molecules, invalid and skipped: 1; ties: expected under random order" in shown[3]
    assert "     0.20              2  a thiol" in shown and len(shown) == 35


def test_facts_reorder_the_shortlist_alone(monkeypatch) -> None:
    monkeypatch.setattr(TOOL, "SHORTLIST", 2)
    worth = np.zeros((len(FACTS), STATES), np.float32)
    worth[PLACE["Cl"], STATED // 2] = 1.0  # the text states as many as there are
    scores = np.float32([0.9, 0.8, 0.7])
    again = TOOL.reordered(FactsTable(worth, 1.0), "a chloro one", scores, ["C", "CCl", "CCCl"])
    assert np.argsort(-again).tolist() == [1, 0, 2]
    assert scores.tolist() == np.float32([0.9, 0.8, 0.7]).tolist()


def test_a_run_with_facts_has_both_stages() -> None:
    """The facts put ten thiols before five sulfides, which are as near by cosine."""
    worth = np.zeros((len(FACTS), STATES), np.float32)
    worth[PLACE["thiol"], STATED // 2] = 1.0
    query = QUERIES["a thiol"]
    smiles = [*(f"{'C' * n}SC" for n in range(1, 6)), *(f"{'C' * n}S" for n in range(1, 11))]
    record = TOOL.measure(Model(), [query], smiles, FactsTable(worth, 1.0))
    assert record["stages"]["facts"]["precision"] == 1.0
    assert record["stages"]["det"]["precision"] == pytest.approx(10 / 15)
    assert record["queries"][0]["precision"] == 1.0


@pytest.mark.real_data
@pytest.mark.slow
def test_each_query_holds_for_ten_molecules_to_three_per_cent_of_the_pool() -> None:
    _, smiles, _ = TOOL.candidates("")
    right = TOOL.decide([*QUERIES.values()], smiles).sum(1)
    counts = dict(zip(QUERIES, right.tolist(), strict=True))
    assert len(smiles) == 33_008
    assert not {text: n for text, n in counts.items() if not 10 <= n <= 0.03 * len(smiles)}
