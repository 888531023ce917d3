"""Integer columns of atoms and bonds (`ogb` features), and the Morgan identifiers of `morgan1`.

Each column is an index into a table of its own; whatever a column has no slot for lands in its
last slot, so that no atom of any molecule can raise. The columns follow the Open Graph Benchmark,
with three more that the published encoders lack (docs/papers.md#atom-features): the CIP label,
which unlike the chirality tag does not depend on the order in which a molecule is written, the
isotope, and the size of the smallest ring.
"""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

_CHIRALITY = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")
_CIP = ("", "R", "S", "r", "s")  # lower case: pseudo-asymmetric
_HYBRIDISATION = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
_BOND = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "DATIVE")
_BOND_STEREO = ("", "Z", "E")
_MAX_ELEMENT, _MAX_DEGREE, _MAX_CHARGE, _MAX_HYDROGENS, _MAX_RADICALS = 118, 10, 5, 8, 4

# The columns of `ogb`:
# atomic number, chirality tag, CIP label, degree, formal charge, hydrogens, radical electrons,
# hybridisation, aromatic, in a ring, isotope, smallest ring
NODE_SIZES: tuple[int, ...] = (
    _MAX_ELEMENT + 2,
    len(_CHIRALITY) + 1,
    len(_CIP) + 1,
    _MAX_DEGREE + 2,
    2 * _MAX_CHARGE + 2,
    _MAX_HYDROGENS + 2,
    _MAX_RADICALS + 2,
    len(_HYBRIDISATION) + 1,
    2,
    2,
    8,
    8,
)
# bond type, stereo, conjugated, in a ring
EDGE_SIZES: tuple[int, ...] = (len(_BOND) + 1, len(_BOND_STEREO) + 1, 2, 2)

# Slots for the hashed Morgan environments of radius 1 and of radius 2 (`ogb_morgan`). Collisions
# are few: 3,138 radius-1 identifiers cover ChEBI-20 but for 0.65 % of its atoms.
ENVIRONMENT_SIZES: tuple[int, ...] = (4096, 4096)

_ENVIRONMENTS = [
    rdFingerprintGenerator.GetMorganGenerator(
        radius=radius, includeChirality=False, includeRedundantEnvironments=True
    )
    for radius in (1, 2)
]
_MORGAN1 = rdFingerprintGenerator.GetMorganGenerator(radius=1, includeChirality=False)
_PARSER_STEREO = {
    Chem.BondStereo.STEREONONE: "",
    Chem.BondStereo.STEREOZ: "Z",
    Chem.BondStereo.STEREOE: "E",
}
_TABLE = Chem.GetPeriodicTable()


def _slots(names: tuple[str, ...], values: dict) -> dict:
    """RDKit's enumeration -> slot, for the members that have one."""
    return {values[name]: slot for slot, name in enumerate(names)}


_CHIRALITY_SLOT = _slots(_CHIRALITY, Chem.ChiralType.names)
_HYBRIDISATION_SLOT = _slots(_HYBRIDISATION, Chem.HybridizationType.names)
_BOND_SLOT = _slots(_BOND, Chem.BondType.names)
_CIP_SLOT = {label: slot for slot, label in enumerate(_CIP)}
_BOND_STEREO_SLOT = {label: slot for slot, label in enumerate(_BOND_STEREO)}


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
        _CHIRALITY_SLOT.get(atom.GetChiralTag(), len(_CHIRALITY)),
        _CIP_SLOT.get(cip, len(_CIP)),
        _up_to(atom.GetDegree(), _MAX_DEGREE),
        _up_to(atom.GetFormalCharge() + _MAX_CHARGE, 2 * _MAX_CHARGE),
        _up_to(atom.GetTotalNumHs(), _MAX_HYDROGENS),
        _up_to(atom.GetNumRadicalElectrons(), _MAX_RADICALS),
        _HYBRIDISATION_SLOT.get(atom.GetHybridization(), len(_HYBRIDISATION)),
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
        _BOND_SLOT.get(bond.GetBondType(), len(_BOND)),
        _BOND_STEREO_SLOT.get(label, len(_BOND_STEREO)),
        int(bond.GetIsConjugated()),
        int(bond.IsInRing()),
    )


def environment_columns(mol: Chem.Mol) -> list[tuple[int, ...]]:
    """Each atom's Morgan environments of radius 1 and 2, hashed into `ENVIRONMENT_SIZES` slots.

    Slot 0 is an atom without a bond. Unlike `morgan1`, no environment is dropped as a duplicate.
    """
    columns = []
    for radius, (generator, size) in enumerate(
        zip(_ENVIRONMENTS, ENVIRONMENT_SIZES, strict=True), start=1
    ):
        output = rdFingerprintGenerator.AdditionalOutput()
        output.AllocateBitInfoMap()
        generator.GetSparseCountFingerprint(mol, additionalOutput=output)
        column = [0] * mol.GetNumAtoms()
        for identifier, places in output.GetBitInfoMap().items():
            for atom, reached in places:
                if reached == radius:
                    column[atom] = 1 + identifier % (size - 1)
        columns.append(column)
    return list(zip(*columns, strict=True))


def morgan1_identifiers(mol: Chem.Mol) -> list[int]:
    """The radius-1 Morgan identifier of each atom, as the Text2Mol family uses it.

    An atom without a radius-1 environment (an ion, water), or whose environment RDKit drops as a
    duplicate (ethane's second carbon), gets its radius-0 identifier. Unhashed 32-bit numbers,
    default invariants, bond types on, chirality off.
    """
    output = rdFingerprintGenerator.AdditionalOutput()
    output.AllocateBitInfoMap()
    _MORGAN1.GetSparseCountFingerprint(mol, additionalOutput=output)
    identifiers = [0] * mol.GetNumAtoms()
    by_radius: tuple[list, list] = ([], [])
    for identifier, places in output.GetBitInfoMap().items():
        for atom, radius in places:
            by_radius[radius].append((atom, identifier))
    for places in by_radius:  # radius 1 overwrites radius 0
        for atom, identifier in places:
            identifiers[atom] = identifier
    return identifiers
