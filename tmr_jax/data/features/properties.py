"""What a chemist filters a library by: properties in numbers, groups and classes as bits of masks.

In: a sanitised molecule of RDKit. Out: plain numbers. Functional groups and structural classes are
an index to filter by, not a nomenclature: one atom may belong to several of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, get_type_hints

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

BITS = 63  # of a mask, which is a signed 64-bit integer in every engine

# Bit i of its mask is the i-th name. Never reorder: indexes on disk hold the masks.
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
    "boronic-acid": "[#6][BX3]([OX2H1,OX1-])[OX2H1,OX1-]",
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
_CHAIN = "~".join(["[C;!R]"] * 6)
_RESIDUE = "[NX3,NX4+][CX4]C(=O)"
_AMINE = "[NX3,NX4+;!$(N[C,S,P]=[O,S])]"
_ACID = "[OX2H1,OX1-]"
_GONANE = (
    "[#6]1~[#6]~[#6]~[#6]2~[#6](~[#6]~1)~[#6]~[#6]~[#6]1~[#6]~2~[#6]~[#6]~[#6]2~[#6]~1~[#6]~[#6]"
)
_PYRANOSE = "[CX4]1([O,N,S])O[CX4][CX4]([O,N])[CX4]([O,N])[CX4]1[O,N]"
_FURANOSE = "[CX4]1([O,N,S,n])O[CX4]([CX4])[CX4]([O,N])[CX4]1"
_ANOMERIC = f"[$({_PYRANOSE}),$({_FURANOSE}),$([CX4]1(C)([O,N,S])O[CX4][CX4](O)[CX4]1O)]"
_DIAZEPINES = (
    "[#7]~*~*~[#7]~*",
    "[#7]~*~*~*~[#7]",
    "*~[#7]~[#7]~*~*",
    "[#7]~[#7]~*~*~*",
    "[#7]~*~[#7]~*~*",
)
_BENZODIAZEPINE = ",".join(f"$(c1ccc2c(c1)~{ring}~2)" for ring in _DIAZEPINES)

# A molecule of a class matches all of its SMARTS, and none of those after a "!". They are tried in
# order: a short one that few molecules match goes first.
CLASSES = {
    "steroid": f"[C;x3,x4] {_GONANE}~[#6]~2 !{_GONANE}~[#6]~[#6]~2",
    "bile-acid": f"[C;x3,x4] {_GONANE}~[#6]~2[CH]([CH3])CCC(=O)[O,N]",
    "peptide": _RESIDUE * 2,
    "dipeptide": f"{_AMINE}[CX4]C(=O)[NX3][CX4]C(=O){_ACID} !{_RESIDUE * 3} !O=C1CCN1",
    "tripeptide": f"{_RESIDUE * 3}{_ACID} !{_RESIDUE * 4}",
    "amino-acid": f"{_AMINE}[CX4]C(=O){_ACID}",
    "fatty-acid": f"{_ACID}C(=O){_CHAIN} ![R] ![!#6;!#8] !C(=O)O[#6]",
    "triglyceride": "[#6]C(=O)O[CH2][CH](OC(=O)[#6])[CH2]OC(=O)[#6]",
    "glycerophospholipid": "[CX3](=O)O[CH2][CH](O)[CH2]OP(=O)([O])[O]",
    "ceramide": f"[#6]C(=O)[NX3H1][CH]([CH2]O)[CH](O){_CHAIN} !P",
    "sugar": f"[C;R]([O,N,S,n])O[C;R] {_ANOMERIC}",
    "disaccharide": f"[C;R](O)O {_ANOMERIC}.{_ANOMERIC} {_ANOMERIC}[OX2;!R][CX4] "
    f"!{_ANOMERIC}.{_ANOMERIC}.{_ANOMERIC} !P",
    "sugar-phosphate": f"[CX4]OP(=O)({_ACID}){_ACID} !a !C(=O){_ACID} "
    f"[$({_ANOMERIC}),$([CX3;!$(C[O,N])](=O)[CX4]O)]",
    "glucuronide": f"O=C({_ACID})C1OC([O,N])C(O)C(O)C1O",
    "nucleoside": "n[CX4]1O[CX4]([CX4]O)[CX4][CX4]1",
    "nucleotide": "n[CX4]1O[CX4]([CX4]OP(=O)([OX2,OX1-])[OX2,OX1-])[CX4][CX4]1",
    "macrocycle": "[r{12-}]",
    "beta-lactam": "O=C1CCN1",
    "penicillin": "[#16;r5] O=C1CC2SCCN12",
    "cephalosporin": "[#16;r6] O=C1CC2SCC=CN12",
    "barbiturate": "O=C1[CX4]C(=O)[#7]C(=[O,S])[#7]1",
    "benzodiazepine": f"[r7] [{_BENZODIAZEPINE}]",
    "flavonoid": "c1ccc[c;x3]c1[O,o] [$(O1c2ccccc2CCC1c1ccccc1),"
    "$([#8]1~c2ccccc2~C(=O)~[#6]~[#6]~1c1ccccc1),$(o1c2ccccc2c(=O)cc1-c1ccccc1),$(o1c2ccccc2c(=O)c(c1)-c1ccccc1)]",
    "flavone": "[c;x3]o O=c1cc(-c2ccccc2)oc2ccccc12",
    "isoflavone": "[c;x3]o O=c1c(-c2ccccc2)coc2ccccc12",
    "coumarin": "[c;x3]o O=c1ccc2ccccc2o1",
    "quinone": "O=C1[#6]~[#6]C(=O)[#6]~[#6]1",
    "anthraquinone": "[c;x3] O=C1c2ccccc2C(=O)c2ccccc21",
    "porphyrin": "[#7;r5]~[#6]~[#6;!r5]~[#6]~[#7;r5] "
    "[#7]1~[#6]2~[#6]~[#6]~[#6]~1~[#6]~[#6]1~[#6]~[#6]~[#6](~[#7]~1)~[#6]~"
    "[#6]1~[#6]~[#6]~[#6](~[#7]~1)~[#6]~[#6]1~[#6]~[#6]~[#6](~[#7]~1)~[#6]~2",
    "carotenoid": "C=CC=CC(C)=CC=CC=C(C)C=CC=C",
    "alkane": "C ![!#6] ![!CX4] ![R]",
    "tryptamine": "[c;x3] [NX3,NX4+][CX4][CX4]c1c[nH]c2ccccc12",
    "phenethylamine": f"{_AMINE}[CX4][CX4]c1ccccc1",
    "indole": "[c;x3] c1ccc2[nX3]ccc2c1",
    "quinoline": "[c;x3]n c1ccc2ncccc2c1",
    "isoquinoline": "[c;x3]cn c1ccc2cnccc2c1",
    "pyridine": "n1ccccc1",
    "pyrimidine": "n1cnccc1",
    "pyrazine": "n1ccncc1",
    "purine": "[#6;x3]~[#7] [#7]1~[#6]~[#7]~[#6]2~[#6]~1~[#7]~[#6]~[#7]~[#6]~2",
    "pyrrole": "[nX3]1cccc1",
    "imidazole": "[nX3]1cncc1",
    "pyrazole": "[nX3]1nccc1",
    "triazole": "nn [$([nX3]1nncc1),$([nX3]1ncnc1),$([nX3]1cnnc1),$(n1[nX3]ncc1)]",
    "tetrazole": "n1nnnc1",
    "thiazole": "s1cncc1",
    "oxazole": "o1cncc1",
    "thiophene": "s1cccc1",
    "furan": "o1cccc1",
    "piperidine": "[NX3,NX4+]1[CX4][CX4][CX4][CX4][CX4]1",
    "piperazine": "[NX3,NX4+]1[CX4][CX4][NX3,NX4+][CX4][CX4]1",
    "morpholine": "[NX3,NX4+]1[CX4][CX4]O[CX4][CX4]1",
    "naphthalene": "[c;x3] c1ccc2ccccc2c1",
    "isothiocyanate": "[NX2]=C=S",
    "hydroperoxide": "[OX2H][OX2]",
    "organoselenium": "[#6][Se,se]",
    "organosilicon": "[#6][Si]",
    # No inner salt, as betaines and phosphocholines are.
    "quaternary-ammonium": "[NX4+]([#6])([#6])([#6])[#6] ![C,P,S][OX1-]",
    "alkyl-chloride": "[CX4]Cl",
    "alkyl-bromide": "[CX4]Br",
    "aryl-chloride": "cCl",
    "aryl-bromide": "cBr",
    "boronic-ester": "[#6][BX3]([OX2][#6])[OX2][#6]",
}


MASKS: dict[str, tuple[str, ...]] = {"groups": tuple(GROUPS), "classes": tuple(CLASSES)}
NAMED = {
    name: column * BITS + bit
    for column, names in enumerate(MASKS.values())
    for bit, name in enumerate(names)
}  # the bit of each name in one number of all masks
assert all(len(names) <= BITS for names in MASKS.values())
assert len(NAMED) == len(GROUPS) + len(CLASSES)
RULES = hashlib.sha256(repr((GROUPS, CLASSES)).encode()).hexdigest()  # what masks depend on


@cache
def _rules() -> tuple[list[list[tuple[Chem.Mol, bool]]], ...]:
    """Of each mask and name the SMARTS, and whether a molecule has them."""
    return tuple(
        [[(Chem.MolFromSmarts(s.removeprefix("!")), s[0] != "!") for s in r.split()] for r in rules]
        for rules in (GROUPS.values(), CLASSES.values())
    )


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


def masks(mol: Chem.Mol) -> tuple[int, ...]:
    """One for `GROUPS` and one for `CLASSES`: bit i is set where the molecule has the i-th."""
    return tuple(
        sum(1 << i for i, r in enumerate(rules) if all(mol.HasSubstructMatch(s) == w for s, w in r))
        for rules in _rules()
    )


def mask_of(names: Iterable[str]) -> int:
    """One number for groups and classes by name.

    >>> parts(mask_of(["nitrile", "steroid"])) == {"groups": mask_of(["nitrile"]), "classes": 1}
    True
    """
    return sum(1 << NAMED[name] for name in set(names))


def parts(mask: int) -> dict[str, int]:
    """The mask of each column of `MASKS` in one number for all."""
    return {name: mask >> i * BITS & (1 << BITS) - 1 for i, name in enumerate(MASKS)}


def joined(columns: Mapping[str, Any]) -> int:
    """One number for the masks of a molecule that has these columns: the inverse of `parts`."""
    return sum(int(columns[name]) << i * BITS for i, name in enumerate(MASKS))


def names_of(columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """The groups and the classes of a molecule that has these columns.

    >>> names_of({"groups": mask_of(["nitrile"]), "classes": 1})
    {'groups': ['nitrile'], 'classes': ['steroid']}
    """
    return {
        column: [name for bit, name in enumerate(names) if int(columns[column]) >> bit & 1]
        for column, names in MASKS.items()
    }
