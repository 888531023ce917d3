"""One SMILES in, the arrays of one molecule out; no files, no jax arrays.

Atoms come in an order that depends on the features alone: two writings of one molecule, and two
molecules that the features cannot tell apart, give equal arrays, byte for byte.

Each column of the `ogb` features is an index into a table of its own; whatever a column has no slot
for lands in its last slot, so that no atom of any molecule can raise. The columns follow the Open
Graph Benchmark, with three more that the published encoders lack (docs/papers.md#atom-features):
the CIP label, which unlike the chirality tag does not depend on the order in which a molecule is
written, the isotope, and the size of the smallest ring.
"""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS, rdCIPLabeler, rdFingerprintGenerator

from tmr_jax.types import MolFeatures, UserError

Molecule = Literal["morgan1", "ogb", "ogb_morgan", "ogb_counts"]
Motif = Literal["none", "brics"]

# Limits are checked before anything whose time grows faster than the molecule. The largest of
# ChEBI-20 and PCdes: 1,598 characters, 574 atoms, 63 rings.
MAX_CHARACTERS = 5000
MAX_ATOMS = 1000
MAX_RINGS = 150
_BOND_KINDS = [Chem.BondType.values[i] for i in range(1, 21)]
_CIP_EFFORT = 100_000  # about 0.1 s; ordinary molecules need fewer than 10,000 comparisons

_ADVICE = {
    "empty": "give a SMILES such as CCO",
    "control-characters": "remove the invisible characters",
    "not-ascii": "SMILES are plain ASCII: remove or replace the other characters",
    "whitespace": "give one SMILES only, without a name after it",
    "bad-extension": "check the part between the bars, or remove it",
    "too-long": "give one molecule, not a polymer or a file",
    "unparsable": "check brackets and ring-closure digits",
    "too-many-atoms": "leave this molecule out",
    "too-many-rings": "leave this molecule out",
    "impossible-chemistry": "check valences, charges and aromatic rings",
}


class BadMolecule(UserError):
    """An invalid SMILES; `reason` is a short code, one of a fixed list."""

    def __init__(self, reason: str, smiles: str):
        self.reason = reason
        shown = smiles if len(smiles) <= 60 else smiles[:57] + "..."
        super().__init__(
            f"expected a SMILES of 1 to {MAX_ATOMS:,} atoms, got {shown!r} ({reason}); "
            f"{_ADVICE[reason]}"
        )


def _check_text(smiles: str) -> str:
    smiles = smiles.strip(" \t\r\n")
    if not smiles:
        raise BadMolecule("empty", smiles)
    if len(smiles) > MAX_CHARACTERS:
        raise BadMolecule("too-long", smiles)
    if not smiles.isascii():
        raise BadMolecule("not-ascii", smiles)
    plain, *extension = smiles.split(maxsplit=1)
    if extension and not (len(extension[0]) > 1 and extension[0][0] == extension[0][-1] == "|"):
        raise BadMolecule("whitespace", smiles)
    if not "".join([plain, *extension]).isprintable():
        raise BadMolecule("control-characters", smiles)
    return " ".join([plain, *extension])


def _check_size(smiles: str) -> None:
    """Atoms and rings are counted on a parse that skips ring search and aromaticity."""
    draft = Chem.MolFromSmiles(smiles, sanitize=False)
    if draft is None or not draft.GetNumAtoms():
        raise BadMolecule("unparsable", smiles)
    atoms, bonds = draft.GetNumAtoms(), draft.GetNumBonds()
    if atoms > MAX_ATOMS:
        raise BadMolecule("too-many-atoms", smiles)
    if bonds - atoms + len(Chem.GetMolFrags(draft)) > MAX_RINGS:
        raise BadMolecule("too-many-rings", smiles)


def parse_smiles(smiles: str) -> Chem.Mol:
    """The sanitised molecule without explicit hydrogens; `BadMolecule` with a reason otherwise.

    A CXSMILES (an extension between bars after the SMILES) is read with its enhanced stereo.
    """
    smiles = _check_text(smiles)
    with rdBase.BlockLogs():
        # So few characters cannot write too many atoms or rings (a ring closure takes two).
        if len(smiles) > 2 * MAX_RINGS:
            _check_size(smiles.partition(" ")[0])
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumAtoms():
            _check_size(smiles.partition(" ")[0])
            cause = "bad-extension" if " " in smiles else "impossible-chemistry"
            raise BadMolecule(cause, smiles)
    return mol


def smiles_of_inchi(text: str) -> str | None:
    """The canonical SMILES of an InChI; None for one that RDKit refuses."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromInchi(text)
        return Chem.MolToSmiles(mol) if mol else None


def is_molecule(text: str) -> bool:
    """Whether `parse_smiles` takes a text."""
    try:
        return bool(parse_smiles(text))
    except BadMolecule:
        return False


def written(mol: Chem.Mol) -> str:
    """Canonical SMILES; with enhanced stereo (a racemate, say) canonical CXSMILES."""
    if not mol.GetStereoGroups():
        return Chem.MolToSmiles(mol)
    mol = Chem.RWMol(mol)
    absolute = Chem.StereoGroupType.STEREO_ABSOLUTE  # which says nothing that SMILES do not
    mol.SetStereoGroups([g for g in mol.GetStereoGroups() if g.GetGroupType() != absolute])
    Chem.CanonicalizeEnhancedStereo(mol)
    kept = Chem.CXSmilesFields.CX_ENHANCEDSTEREO
    return Chem.MolToCXSmiles(mol, Chem.SmilesWriteParams(), kept)


# Columns of atoms and bonds


def _slots(values: dict, *names: str) -> dict:
    """RDKit's enumeration -> slot, for the members that have one."""
    return {values[name]: slot for slot, name in enumerate(names)}


_CHIRALITY = _slots(
    Chem.ChiralType.names, "CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW"
)
_HYBRIDISATION = _slots(Chem.HybridizationType.names, "S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
_BOND = _slots(Chem.BondType.names, "SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "DATIVE")
_CIP = {"": 0, "R": 1, "S": 2, "r": 3, "s": 4}  # lower case: pseudo-asymmetric
_BOND_STEREO = {"": 0, "Z": 1, "E": 2}
_PARSER_STEREO = {
    Chem.BondStereo.STEREONONE: "",
    Chem.BondStereo.STEREOZ: "Z",
    Chem.BondStereo.STEREOE: "E",
}
_MAX_ELEMENT, _MAX_DEGREE, _MAX_CHARGE, _MAX_HYDROGENS, _MAX_RADICALS = 118, 10, 5, 8, 4
NODE_SIZES: tuple[int, ...] = (
    _MAX_ELEMENT + 2,  # atomic number
    len(_CHIRALITY) + 1,  # chirality tag
    len(_CIP) + 1,  # CIP label
    _MAX_DEGREE + 2,  # degree
    2 * _MAX_CHARGE + 2,  # formal charge
    _MAX_HYDROGENS + 2,  # hydrogens
    _MAX_RADICALS + 2,  # radical electrons
    len(_HYBRIDISATION) + 1,  # hybridisation
    2,  # aromatic
    2,  # in a ring
    8,  # isotope
    8,  # smallest ring
)
EDGE_SIZES: tuple[int, ...] = (
    len(_BOND) + 1,  # bond type
    len(_BOND_STEREO) + 1,  # stereo
    2,  # conjugated
    2,  # in a ring
)

# Slots for the hashed Morgan environments of radius 1 and of radius 2 (`ogb_morgan`). Collisions
# are few: 3,138 radius-1 identifiers cover ChEBI-20 but for 0.65 % of its atoms.
ENVIRONMENT_SIZES: tuple[int, ...] = (4096, 4096)

# Fragments that `ogb_counts` counts, hashed: environments up to radius 2, chains of four atoms, and
# pairs of atoms with the bonds between them, which tell a chain of 16 carbons from one of 18 and
# position 3 of a steroid from position 17, further apart than layers of a graph encoder reach.
_COUNTED = [
    rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024),
    rdFingerprintGenerator.GetTopologicalTorsionGenerator(fpSize=1024),
    rdFingerprintGenerator.GetAtomPairGenerator(fpSize=2048),
]
COUNTS = 4096
NO_COUNTS = np.zeros((1, 0), np.uint8)

_ENVIRONMENTS = rdFingerprintGenerator.GetMorganGenerator(
    radius=2, includeChirality=False, includeRedundantEnvironments=True
)
_MORGAN1 = rdFingerprintGenerator.GetMorganGenerator(radius=1, includeChirality=False)
_TABLE = Chem.GetPeriodicTable()


def _up_to(value: int, largest: int) -> int:
    """0..largest as they are, anything else in the slot after them."""
    return value if 0 <= value <= largest else largest + 1


def _isotope(atom: Chem.Atom) -> int:
    """0 no label; 1..6 mass minus the usual mass is 0, 1, 2, 3 or more, -1, -2; 7 lighter still."""
    isotope = atom.GetIsotope()
    if not isotope:
        return 0
    excess = isotope - _TABLE.GetMostCommonIsotope(atom.GetAtomicNum())
    return {-1: 5, -2: 6}.get(excess, 7) if excess < 0 else 1 + min(excess, 3)


def _smallest_ring(rings: Chem.RingInfo, atom: int) -> int:
    """0 no ring; 1..6 a ring of 3..8 atoms; 7 a larger one."""
    size = rings.MinAtomRingSize(atom)
    return 0 if size == 0 else min(size, 9) - 2


def atom_columns(atom: Chem.Atom, rings: Chem.RingInfo) -> tuple[int, ...]:
    """One row of `NODE_SIZES`' columns."""
    cip = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""
    return (
        _up_to(atom.GetAtomicNum(), _MAX_ELEMENT),
        _CHIRALITY.get(atom.GetChiralTag(), len(_CHIRALITY)),
        _CIP.get(cip, len(_CIP)),
        _up_to(atom.GetDegree(), _MAX_DEGREE),
        _up_to(atom.GetFormalCharge() + _MAX_CHARGE, 2 * _MAX_CHARGE),
        _up_to(atom.GetTotalNumHs(), _MAX_HYDROGENS),
        _up_to(atom.GetNumRadicalElectrons(), _MAX_RADICALS),
        _HYBRIDISATION.get(atom.GetHybridization(), len(_HYBRIDISATION)),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
        _isotope(atom),
        _smallest_ring(rings, atom.GetIdx()),
    )


def bond_columns(bond: Chem.Bond) -> tuple[int, ...]:
    """One row of `EDGE_SIZES`' columns; E and Z come from the CIP rules, not from the writing."""
    if bond.HasProp("_CIPCode"):
        label = bond.GetProp("_CIPCode")
    else:
        label = _PARSER_STEREO.get(bond.GetStereo(), "other")
    return (
        _BOND.get(bond.GetBondType(), len(_BOND)),
        _BOND_STEREO.get(label, len(_BOND_STEREO)),
        int(bond.GetIsConjugated()),
        int(bond.IsInRing()),
    )


def _environments(
    mol: Chem.Mol, generator: rdFingerprintGenerator.FingerprintGenerator64
) -> list[tuple[int, int, int]]:
    """Radius, atom and identifier of each Morgan environment."""
    output = rdFingerprintGenerator.AdditionalOutput()
    output.AllocateBitInfoMap()
    generator.GetSparseCountFingerprint(mol, additionalOutput=output)
    places = output.GetBitInfoMap()
    return [(radius, atom, key) for key in places for atom, radius in places[key]]


def environment_columns(mol: Chem.Mol) -> list[tuple[int, ...]]:
    """Each atom's Morgan environments of radius 1 and 2, hashed into `ENVIRONMENT_SIZES` slots.

    Slot 0 is an atom without a bond. Unlike `morgan1`, no environment is dropped as a duplicate.
    """
    columns = [[0] * mol.GetNumAtoms() for _ in ENVIRONMENT_SIZES]
    for radius, atom, identifier in _environments(mol, _ENVIRONMENTS):
        if radius:
            columns[radius - 1][atom] = 1 + identifier % (ENVIRONMENT_SIZES[radius - 1] - 1)
    return list(zip(*columns, strict=True))


def fragment_counts(mol: Chem.Mol) -> np.ndarray:
    """How often the molecule has each of `COUNTS` hashed fragments, at most 255: uint8 [1, C]."""
    counts = np.concatenate([g.GetCountFingerprintAsNumPy(mol) for g in _COUNTED])
    return np.minimum(counts, 255).astype(np.uint8)[None]


def morgan1_identifiers(mol: Chem.Mol) -> list[int]:
    """The radius-1 Morgan identifier of each atom, as the Text2Mol family uses it.

    An atom without a radius-1 environment (an ion, water), or whose environment RDKit drops as a
    duplicate (ethane's second carbon), gets its radius-0 identifier. Unhashed 32-bit numbers,
    default invariants, bond types on, chirality off.
    """
    identifiers = [0] * mol.GetNumAtoms()
    environments = _environments(mol, _MORGAN1)
    for _, atom, identifier in sorted(environments, key=itemgetter(0)):  # 1 overwrites 0
        identifiers[atom] = identifier
    return identifiers


# Motifs (docs/papers.md#motifs): which group of atoms each atom belongs to


def brics_motifs(mol: Chem.Mol) -> np.ndarray:
    """Motif of each atom, int32 [n]: the pieces left when every BRICS bond is cut.

    Motifs are numbered in the order of their first atoms. A molecule without a BRICS bond is one
    motif for each of its connected components.
    """
    bonds = [mol.GetBondBetweenAtoms(*atoms).GetIdx() for atoms, _ in BRICS.FindBRICSBonds(mol)]
    pieces = Chem.FragmentOnBonds(mol, sorted(set(bonds)), addDummies=False) if bonds else mol
    motif = np.zeros(mol.GetNumAtoms(), np.int32)
    for number, atoms in enumerate(Chem.GetMolFrags(pieces)):
        motif[list(atoms)] = number
    return number_by_first(motif)


def number_by_first(labels: np.ndarray) -> np.ndarray:
    """The same partition with its parts numbered 0, 1, ... in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


# The arrays


def featurise(smiles: str, molecule: Molecule, motif: Motif) -> MolFeatures:
    """Arrays of one molecule; `BadMolecule` where it is refused.

    `morgan1`: nodes [n, 1] are raw 32-bit identifiers (a vocabulary maps them later), edges [e, 0].
    `ogb`: nodes and edges are the columns of `NODE_SIZES` and `EDGE_SIZES`; `ogb_morgan`: the same
    with two more atom columns, of `ENVIRONMENT_SIZES`; `ogb_counts`: with fragments counted, too.
    """
    return featurise_mol(parse_smiles(smiles), molecule, motif)


def featurise_mol(mol: Chem.Mol, molecule: Molecule, motif: Motif) -> MolFeatures:
    """The same arrays from what `parse_smiles` has returned."""
    return _featurised(mol, molecule, motif)[0]


def atom_order(smiles: str, molecule: Molecule) -> tuple[str, np.ndarray]:
    """A SMILES of the same molecule, and which of its atoms each row of `nodes` is, int64 [n].

    Atoms are numbered from 0 as that SMILES writes them; drawings number them in that way too.
    """
    _, mol, order = _featurised(parse_smiles(smiles), molecule, "none")
    with rdBase.BlockLogs():
        written = Chem.MolToSmiles(mol)
    place = np.argsort(list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]))
    return written, place[order]


def _featurised(
    mol: Chem.Mol, molecule: Molecule, motif: Motif
) -> tuple[MolFeatures, Chem.Mol, np.ndarray]:
    """The features, the molecule that they are read from, and its atoms in their order."""
    with rdBase.BlockLogs():
        if molecule == "morgan1":
            nodes = np.array(morgan1_identifiers(mol), np.int64)[:, None]
            bonds = np.zeros((mol.GetNumBonds(), 0), np.int64)
        else:
            nodes, bonds = _ogb(mol := _rewritten(mol))
        if molecule in ("ogb_morgan", "ogb_counts"):
            nodes = np.concatenate([nodes, np.array(environment_columns(mol), np.int64)], axis=1)
        between = map(mol.GetBondWithIdx, range(mol.GetNumBonds()))
        ends = np.array(
            [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in between], np.int32
        ).reshape(-1, 2)
        motifs = brics_motifs(mol) if motif == "brics" else np.arange(len(nodes), dtype=np.int32)
        rank = _canonical_rank(nodes, bonds, ends)
        counts = fragment_counts(mol) if molecule == "ogb_counts" else NO_COUNTS
    arrays = _arranged(nodes, bonds, ends, motifs, rank)._replace(counts=counts)
    return arrays, mol, np.argsort(rank)


def _rewritten(mol: Chem.Mol) -> Chem.Mol:
    """The molecule as its canonical SMILES writes it: chirality tags depend on the writing."""
    atoms = map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))
    if all(atom.GetChiralTag() == Chem.CHI_UNSPECIFIED for atom in atoms):
        return mol  # nothing else does, as a test on thousands of molecules says
    again = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    # A few metal complexes cannot be read back; their tags then follow the given writing.
    return mol if again is None else again


def _ogb(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    _label_stereo(mol)
    rings = mol.GetRingInfo()
    # By number: the sequences that RDKit returns ask for their length at every item.
    nodes = [atom_columns(mol.GetAtomWithIdx(i), rings) for i in range(mol.GetNumAtoms())]
    bonds = [bond_columns(mol.GetBondWithIdx(i)) for i in range(mol.GetNumBonds())]
    return (
        np.array(nodes, np.int64).reshape(-1, len(NODE_SIZES)),
        np.array(bonds, np.int64).reshape(-1, len(EDGE_SIZES)),
    )


def _label_stereo(mol: Chem.Mol) -> None:
    """R/S and E/Z by the full CIP rules; by the parser's simpler ones where those do not apply.

    They do not to bonds of no integer order, nor where they would take too long (cages of hundreds
    of like atoms).
    """
    atoms = map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))
    bonds = map(mol.GetBondWithIdx, range(mol.GetNumBonds()))
    centres = [a.GetIdx() for a in atoms if a.GetChiralTag() != Chem.CHI_UNSPECIFIED]
    double = [b.GetIdx() for b in bonds if b.GetStereo() > Chem.BondStereo.STEREOANY]
    if not centres and not double:
        return
    try:
        rdCIPLabeler.AssignCIPLabels(mol, centres, double, _CIP_EFFORT)
    except (RuntimeError, ValueError):
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _canonical_rank(nodes: np.ndarray, bonds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Rank of each atom in an order that depends on the labelled graph alone, int [n].

    RDKit ranks the atoms of a stand-in: a dummy atom for each atom, whose isotope says which
    features it has, and a bond whose type says which features the bond has.
    """
    stand_in = Chem.RWMol()
    for kind in _classes(nodes):
        stand_in.AddAtom(_stand_in_atom(kind))
    for (begin, end), kind in zip(ends.tolist(), _classes(bonds), strict=True):
        stand_in.AddBond(begin, end, _BOND_KINDS[min(kind, len(_BOND_KINDS) - 1)])
    stand_in.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(stand_in)
    return np.array(Chem.CanonicalRankAtoms(stand_in, breakTies=True), np.int64)


def _classes(rows: np.ndarray) -> list[int]:
    """Place of each row among the distinct rows in their order."""
    listed = [tuple(row) for row in rows.tolist()]  # molecules are small: faster than np.unique
    place = {row: i for i, row in enumerate(sorted(set(listed)))}
    return [place[row] for row in listed]


@cache
def _stand_in_atom(kind: int) -> Chem.Atom:
    atom = Chem.Atom(0)
    atom.SetIsotope(kind + 1)
    atom.SetNoImplicit(True)
    return atom


def canonical(features: MolFeatures) -> MolFeatures:
    """The same molecule in the order of its features, for features that changed since.

    Two unequal identifiers, for one, may both have become "unknown".
    """
    once = features.senders < features.receivers
    ends = np.stack([features.senders[once], features.receivers[once]], axis=1)
    rank = _canonical_rank(features.nodes, features.edges[once], ends)
    arrays = _arranged(features.nodes, features.edges[once], ends, features.motif, rank)
    return arrays._replace(counts=features.counts)


def _arranged(
    nodes: np.ndarray, bonds: np.ndarray, ends: np.ndarray, motifs: np.ndarray, rank: np.ndarray
) -> MolFeatures:
    """Atoms in rank order; each bond in both directions, sorted by receiver, then sender."""
    order = np.argsort(rank)
    place = np.argsort(order).astype(np.int32)
    senders = place[np.concatenate([ends[:, 0], ends[:, 1]])]
    receivers = place[np.concatenate([ends[:, 1], ends[:, 0]])]
    by_receiver = np.lexsort((senders, receivers))
    return MolFeatures(
        nodes=nodes[order],
        edges=np.concatenate([bonds, bonds])[by_receiver],
        senders=senders[by_receiver],
        receivers=receivers[by_receiver],
        motif=number_by_first(motifs[order]),
        counts=NO_COUNTS,
    )
