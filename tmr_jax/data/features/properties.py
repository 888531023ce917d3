"""What a chemist filters a library by: properties in numbers, functional groups as bits of a mask.

In: a sanitised molecule of RDKit. Out: plain numbers. The groups are an index to filter by, not a
nomenclature: one atom may belong to several of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, get_type_hints

from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors


class Properties(NamedTuple):
    """Of the whole molecule as written, counter-ions included."""

    mw: float  # average molecular weight, g/mol
    logp: float  # Crippen's estimate
    tpsa: float  # topological polar surface area, square angstroms
    hbd: int  # donors of hydrogen bonds
    hba: int  # acceptors
    rings: int  # of the smallest set of smallest rings
    charge: int
    heavy_atoms: int


FLOATS = tuple(name for name, kind in get_type_hints(Properties).items() if kind is float)
INTEGERS = tuple(name for name in Properties._fields if name not in FLOATS)

# Bit i of the mask is the i-th of these. Never reorder: indexes on disk hold the masks. At most
# 63, so that a mask is a signed 64-bit integer in every engine.
GROUPS = {
    "alcohol": "[OX2H][CX4]",
    "phenol": "[OX2H]c",
    "enol": "[OX2H][CX3]=[CX3]",
    "thiol": "[SX2H]",
    "ether": "[OX2]([#6;!$(C=[O,S,N])])[#6;!$(C=[O,S,N])]",
    "thioether": "[SX2]([#6;!$(C=[O,S,N])])[#6;!$(C=[O,S,N])]",
    "disulfide": "[SX2][SX2]",
    "peroxide": "[OX2,OX1-][OX2]",
    "epoxide": "C1OC1",
    "aldehyde": "[CX3H1](=O)[#6,#1]",
    "ketone": "[#6][CX3](=O)[#6]",
    "carboxylic-acid": "[CX3](=O)[OX2H1]",
    "carboxylate": "[CX3](=O)[OX1-]",
    "ester": "[#6][CX3](=O)[OX2][#6;!$(C=O)]",
    "lactone": "[#6;R][CX3;R](=O)[OX2;R]",
    "anhydride": "[CX3](=O)[OX2][CX3](=O)",
    "acyl-halide": "[CX3](=O)[F,Cl,Br,I]",
    "amide": "[NX3][CX3](=O)[#6]",
    "primary-amide": "[NX3H2][CX3](=O)[#6]",
    "lactam": "[NX3;R][CX3;R](=O)",
    "imide": "[CX3](=O)[NX3][CX3](=O)",
    "urea": "[NX3][CX3](=O)[NX3]",
    "carbamate": "[NX3][CX3](=O)[OX2]",
    "carbonate": "[OX2][CX3](=O)[OX2]",
    "thioester": "[#6][CX3](=O)[SX2]",
    "thioamide": "[NX3][CX3]=[SX1]",
    "primary-amine": "[NX3H2;!$(N[C,S,P]=[O,S,N]);!$(N[!#6])][#6]",
    "secondary-amine": "[NX3H1;!$(N[C,S,P]=[O,S,N]);!$(N[!#6])]([#6])[#6]",
    "tertiary-amine": "[NX3H0;!$(N[C,S,P]=[O,S,N]);!$(N[!#6])]([#6])([#6])[#6]",
    "aromatic-amine": "[NX3;!$(N[C,S,P]=[O,S,N])]c",
    "ammonium": "[NX4+]",
    "imine": "[CX3]=[NX2;!$(N[N,O])]",
    "amidine": "[NX3][CX3]=[NX2]",
    "guanidine": "[NX3][CX3](=[NX2,NX3+])[NX3]",
    "nitrile": "[CX2]#[NX1]",
    "isocyanate": "[NX2]=[CX2]=[OX1,SX1]",
    "azide": "[NX2]=[NX2+]=[NX1-]",
    "azo": "[#6][NX2]=[NX2][#6]",
    "hydrazine": "[NX3][NX3]",
    "hydrazone": "[NX3][NX2]=[CX3]",
    "oxime": "[CX3]=[NX2][OX2]",
    "hydroxylamine": "[NX3][OX2]",
    "nitro": "[$([NX3](=O)=O),$([NX3+](=O)[O-])]",
    "nitroso": "[NX2]=[OX1]",
    "n-oxide": "[#7+;!$([#7+]=O);!$([#7+](=O)[O-])][OX1-]",
    "sulfoxide": "[#6][SX3](=O)[#6]",
    "sulfone": "[#6][SX4](=O)(=O)[#6]",
    "sulfonamide": "[SX4](=O)(=O)[NX3]",
    "sulfonic-acid": "[#6][SX4](=O)(=O)[OX2H,OX1-]",
    "sulfate": "[OX2][SX4](=O)(=O)[OX2,OX1-]",
    "phosphate": "[PX4](=O)([OX2,OX1-])([OX2,OX1-])[OX2,OX1-]",
    "phosphonate": "[#6][PX4](=O)([OX2,OX1-])[OX2,OX1-]",
    "boronic-acid": "[BX3]([OX2])[OX2]",
    "fluoride": "[#6]F",
    "chloride": "[#6]Cl",
    "bromide": "[#6]Br",
    "iodide": "[#6]I",
    "trifluoromethyl": "[CX4](F)(F)F",
    "alkene": "[CX3]=[CX3]",
    "alkyne": "[CX2]#[CX2]",
    "arene": "c1ccccc1",
    "heteroarene": "[n,o,s]",
    "metal": "[!#1;!#2;!#5;!#6;!#7;!#8;!#9;!#10;!#14;!#15;!#16;!#17;!#18;!#33;!#34;!#35;!#36;"
    "!#52;!#53;!#54;!#85;!#0]",
}
assert len(GROUPS) <= 63


@cache
def _patterns() -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmarts(smarts) for smarts in GROUPS.values())


def properties(mol: Chem.Mol) -> Properties:
    """The properties of a sanitised molecule."""
    return Properties(
        Descriptors.MolWt(mol),  # type: ignore[attr-defined]  # made at import
        Crippen.MolLogP(mol),  # type: ignore[attr-defined]
        rdMolDescriptors.CalcTPSA(mol),
        rdMolDescriptors.CalcNumHBD(mol),
        rdMolDescriptors.CalcNumHBA(mol),
        rdMolDescriptors.CalcNumRings(mol),
        Chem.GetFormalCharge(mol),
        mol.GetNumHeavyAtoms(),
    )


def group_mask(mol: Chem.Mol) -> int:
    """Bit i is set where the molecule has the i-th of `GROUPS`."""
    return sum(1 << i for i, p in enumerate(_patterns()) if mol.HasSubstructMatch(p))


def mask_of(names: Iterable[str]) -> int:
    """The mask of groups by name."""
    wanted = set(names)
    return sum(1 << i for i, name in enumerate(GROUPS) if name in wanted)


def group_names(mask: int) -> list[str]:
    """The groups that a mask has."""
    return [name for i, name in enumerate(GROUPS) if mask >> i & 1]
