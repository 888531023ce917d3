"""SMILES to arrays: columns and partitions by hand, invariance to writing, a thousand bad ones."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from rdkit import Chem

from tmr_jax.data.features import graph
from tmr_jax.data.features.graph import (
    COUNTS,
    EDGE_SIZES,
    ENVIRONMENT_SIZES,
    MAX_ATOMS,
    MAX_CHARACTERS,
    MAX_RINGS,
    NODE_SIZES,
    BadMolecule,
    atom_columns,
    bond_columns,
    brics_motifs,
    environment_columns,
    featurise,
    morgan1_identifiers,
    number_by_first,
    parse_smiles,
)

CIP, STEREO = 2, 1  # columns

MOLECULES = [
    "C",
    "CC",
    "[Na+].[Cl-]",
    "*",
    "*C(=O)*",
    "[H][H]",
    "C[C@H](N)C(=O)O",
    "C/C=C\\C=C/O",
    "C[C@H]1CC[C@@H](C)CC1",
    "O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@H](O)[C@@H]1O",
    "CC(=O)Nc1ccc(O)cc1",
    "C[N+](C)(C)CC([O-])=O.[2H]O[2H]",
    "C1C2CC3CC1CC(C2)C3",
    "[NH3]->[Cu+2]<-[NH3]",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@]12CCC(=O)C=C1CC[C@@H]3[C@@H]2C(=O)C[C@]4([C@H]3CC/C4=C/C(=O)OC)C",
]


def bytes_of(features) -> list[bytes]:
    return [a.tobytes() + str(a.shape).encode() for a in features]


def reason(smiles: str) -> str:
    with pytest.raises(BadMolecule) as caught:
        parse_smiles(smiles)
    return caught.value.reason


def test_ethanol_by_hand():
    f = featurise("CCO", "ogb", "none")
    assert f.nodes.shape == (3, len(NODE_SIZES)) and f.edges.shape == (4, len(EDGE_SIZES))
    assert sorted(f.nodes[:, 0]) == [6, 6, 8]
    middle = int(np.flatnonzero(f.nodes[:, 3] == 2)[0])
    others = [i for i in range(3) if i != middle]
    bonds = set(zip(f.senders.tolist(), f.receivers.tolist(), strict=True))
    assert bonds == {(middle, o) for o in others} | {(o, middle) for o in others}
    assert f.motif.tolist() == [0, 1, 2]


def test_each_bond_has_the_columns_of_its_own_ends():
    f = featurise("N#CC(C)C=O", "ogb", "none")
    elements = f.nodes[:, 0]
    for kind, sender, receiver in zip(f.edges[:, 0], f.senders, f.receivers, strict=True):
        pair = {int(elements[sender]), int(elements[receiver])}
        assert kind == (2 if 7 in pair else 1 if 8 in pair else 0)


def test_ethane_under_morgan1_has_both_golden_identifiers():
    f = featurise("CC", "morgan1", "none")
    assert sorted(f.nodes[:, 0].tolist()) == [2246728737, 3545175291]
    assert f.nodes.dtype == np.int64 and f.edges.shape == (2, 0)


@pytest.mark.parametrize("smiles", ["C", "[Na+].[Cl-]", "*"])
def test_molecules_without_a_bond(smiles):
    for molecule in ("morgan1", "ogb"):
        f = featurise(smiles, molecule, "brics")
        assert f.edges.shape[0] == len(f.senders) == len(f.receivers) == 0
        assert len(f.motif) == len(f.nodes)


def test_brics_motifs_follow_their_atoms():
    f = featurise("CC(=O)NC", "ogb", "brics")
    nitrogen = int(np.flatnonzero(f.nodes[:, 0] == 7)[0])
    oxygen = int(np.flatnonzero(f.nodes[:, 0] == 8)[0])
    assert f.motif[nitrogen] != f.motif[oxygen]
    assert sorted(np.bincount(f.motif).tolist()) == [2, 3]
    assert f.motif[0] == 0


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize(
    ("molecule", "motif"), [("ogb", "brics"), ("ogb_morgan", "none"), ("morgan1", "none")]
)
def test_the_writing_cannot_be_seen(smiles, molecule, motif):
    expected = bytes_of(featurise(smiles, molecule, motif))
    mol = Chem.MolFromSmiles(smiles)
    for seed in range(8):
        order = list(range(mol.GetNumAtoms()))
        random.Random(seed).shuffle(order)
        written = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
        assert bytes_of(featurise(written, molecule, motif)) == expected


def test_kekule_and_aromatic_writing_are_one_molecule():
    kekule, aromatic = featurise("C1=CC=CC=C1", "ogb", "none"), featurise("c1ccccc1", "ogb", "none")
    assert bytes_of(kekule) == bytes_of(aromatic)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"),
        ("C/C=C/C", "C/C=C\\C"),
        ("C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1"),
    ],
)
def test_stereo_twins_differ_under_ogb_and_are_equal_under_morgan1(one, other):
    assert bytes_of(featurise(one, "ogb", "none")) != bytes_of(featurise(other, "ogb", "none"))
    left, right = (bytes_of(featurise(s, "morgan1", "none")) for s in (one, other))
    assert left == right


def test_carbon_13_is_invisible_to_morgan1_and_visible_to_ogb():
    plain, labelled = "CCO", "C[13CH2]O"
    for molecule, equal in (("morgan1", True), ("ogb", False)):
        same = bytes_of(featurise(plain, molecule, "none")) == bytes_of(
            featurise(labelled, molecule, "none")
        )
        assert same is equal


def test_cip_labels_by_name():
    def labels(smiles):
        return sorted(featurise(smiles, "ogb", "none").nodes[:, CIP].tolist())[-1]

    assert labels("C[C@@H](C(=O)O)N") == 2  # L-alanine is S
    assert labels("C[C@H](C(=O)O)N") == 1
    assert labels("C[C@H]1CC[C@@H](C)CC1") == 4  # pseudo-asymmetric s


def test_where_the_cip_rules_do_not_apply_the_parsers_labels_stay(monkeypatch):
    smiles = "C[C@H](CC~C)CCC"  # a bond of no integer order
    assert sorted(featurise(smiles, "ogb", "none").nodes[:, CIP].tolist())[-1] in (1, 2)
    monkeypatch.setattr(graph, "_CIP_EFFORT", 1)
    assert sorted(featurise("C[C@@H](C(=O)O)N", "ogb", "none").nodes[:, CIP].tolist())[-1] == 2


def test_e_and_z_by_name():
    def stereo(smiles):
        return featurise(smiles, "ogb", "none").edges[:, STEREO].max()

    assert stereo("OC(=O)/C=C\\C(=O)O") == 1  # maleic acid is Z
    assert stereo("OC(=O)/C=C/C(=O)O") == 2  # fumaric acid is E
    assert stereo("C=C") == 0


def test_a_molecule_of_600_atoms():
    f = featurise("NC(C)C(=O)" * 120 + "O", "ogb", "brics")
    assert len(f.nodes) == 601 and f.receivers.max() == 600
    assert (np.diff(f.receivers) >= 0).all()


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("C\0C", "control-characters"),
        ("C\u202eC", "not-ascii"),
        ("CCO ethanol", "whitespace"),
        ("C" * (MAX_CHARACTERS + 1), "too-long"),
        ("C" * 5000, "too-many-atoms"),
        ("C1CC", "unparsable"),
        ("not a molecule".replace(" ", "-"), "unparsable"),
        ("CN(C)(C)(C)C", "impossible-chemistry"),
        ("c1cccc1", "impossible-chemistry"),
        (".", "unparsable"),
    ],
)
def test_every_refusal_has_its_reason(smiles, expected):
    assert reason(smiles) == expected


def test_a_ring_bomb_is_refused_before_its_rings_are_sought():
    atoms = 22  # a complete graph of dummy atoms: 210 independent rings
    bomb = Chem.RWMol()
    for i in range(atoms):
        bomb.AddAtom(Chem.Atom(0))
        for j in range(i):
            bomb.AddBond(i, j, Chem.BondType.SINGLE)
    smiles = Chem.MolToSmiles(bomb)
    assert atoms * (atoms - 1) // 2 - atoms + 1 > MAX_RINGS
    start = time.perf_counter()
    assert reason(smiles) == "too-many-rings"
    assert time.perf_counter() - start < 2


def test_the_message_has_what_came_and_what_to_do_and_stays_short():
    with pytest.raises(BadMolecule) as caught:
        parse_smiles("C" * 10**6)
    assert f"{MAX_ATOMS:,} atoms" in str(caught.value) and "too-long" in str(caught.value)
    assert len(str(caught.value)) < 300


def fuzzed(count: int) -> list[str]:
    """Broken, huge and odd SMILES made of good ones; the same every time."""
    rng = random.Random(0)
    odd = "CNOSc1234567890()[]=#@/\\+-.%*:>~H \0\t\u202e\u200b\U0001f9ea"
    specials = [
        "C" * 10**6,
        "C1" * 2000,
        "(" * 2500,
        "[" * 2500,
        "C(" * 1500 + "C" + ")" * 1500,
        "C" * 999,
        ".".join(["[Na+].[Cl-]"] * 400),
        "[Fe]" * 500,
        "*" * 900,
        "[C@H](F)" * 300 + "C",
        "C/C=C/" * 250 + "C",
        "c1" + "c" * 996 + "c1",
        "C%99CC%99",
        "[2H]" * 3,
        "[238U+6]",
        "[Xe]",
        "F[U](F)(F)(F)(F)F",
        "\ud800",
    ]
    made = []
    while len(made) < count - len(specials):
        smiles = rng.choice(MOLECULES)
        kind = rng.randrange(5)
        at = rng.randrange(len(smiles))
        if kind == 0:
            made.append(smiles[:at])
        elif kind == 1:
            made.append(smiles[:at] + rng.choice(odd) + smiles[at + 1 :])
        elif kind == 2:
            made.append(smiles[:at] + rng.choice(MOLECULES) + smiles[at:])
        elif kind == 3:
            made.append(".".join([smiles] * rng.randint(2, 12)))
        else:
            made.append("".join(rng.choices(odd, k=rng.randint(1, 50))))
    return made + specials


def test_a_thousand_fuzzed_smiles_are_features_or_a_reason():
    good = bytes_of(featurise(MOLECULES[-1], "ogb", "brics"))
    outcomes = {"": 0}
    for i, smiles in enumerate(fuzzed(1000)):
        start = time.process_time()
        try:
            f = featurise(smiles, "ogb", "brics")
            outcomes[""] += 1
            assert (f.nodes >= 0).all() and (f.nodes < NODE_SIZES).all()
            assert (f.edges >= 0).all() and (f.edges < EDGE_SIZES).all()
        except BadMolecule as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
        assert time.process_time() - start < 2, smiles[:80]
        if i % 100 == 0:
            assert bytes_of(featurise(MOLECULES[-1], "ogb", "brics")) == good
    assert sum(outcomes.values()) == 1000 and outcomes[""] > 100
    assert {"unparsable", "not-ascii", "control-characters", "too-long"} <= set(outcomes)


def test_refusals_are_silent(capfd):
    for smiles in ("C1CC", "CN(C)(C)(C)C", "c1cccc1"):
        with pytest.raises(BadMolecule):
            featurise(smiles, "ogb", "none")
    assert capfd.readouterr() == ("", "")


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


def test_fragments_count_what_layers_cannot_reach():
    def counts(smiles):
        return featurise(smiles, "ogb_counts", "none").counts

    chains = [counts("C" * n) for n in (16, 18)]
    assert chains[0].shape == (1, COUNTS) and (chains[0] != chains[1]).sum() > 10
    np.testing.assert_array_equal(counts("OCC"), counts("CCO"))
    assert featurise("CCO", "ogb_morgan", "none").counts.shape == (1, 0)
    # 300 carbons have one environment 296 times: no count is above 255.
    assert counts("C" * 300).max() == 255
