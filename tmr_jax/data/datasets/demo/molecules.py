"""Molecules without a download: the NCI sample inside RDKit, and more put together from parts.

In: how many, and a random stream. Out: canonical isomeric SMILES, none twice. The enumerated ones
are plausible small molecules of known kinds: substituted ring systems, two rings on a linker,
chains with double bonds, amino acids and peptides, sugars, steroids, salts, stereo-isomers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rdkit import Chem, RDConfig, rdBase

from tmr_jax.data.datasets.demo.text import Draw


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ELEMENTS = frozenset(
    ("H", "B", "C", "N", "O", "F", "Na", "Si", "P", "S", "Cl", "K", "Se", "Br", "I")
)
MAX_ATOMS = 45  # heavy atoms; a demo has to train in minutes
NCI_SHARE = 0.6  # of all molecules, as long as the sample lasts

_CORES = _parts(
    "c1ccccc1 c1ccccc1 c1ccccc1 c1ccncc1 c1cncnc1 c1cnccn1 c1ccc2ncccc2c1 c1ccc2cnccc2c1 "
    "c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2sccc2c1 c1ccc2[nH]cnc2c1 c1ccc2ocnc2c1 c1ccc2scnc2c1 "
    "c1ccc2ccccc2c1 c1ccoc1 c1ccsc1 c1c[nH]cc1 c1cocn1 c1cscn1 c1c[nH]cn1 c1cn[nH]c1 c1ncc[nH]1 "
    "O=c1ccc2ccccc2o1 O=c1ccoc2ccccc12 c1ncc2nc[nH]c2n1 c1ccc2c(c1)[nH]c1ccccc12 c1ccc2OCOc2c1 "
    "c1ccc2ncncc2c1 c1ccc2nccnc2c1 O=C1c2ccccc2C(=O)c2ccccc12 c1ccc2CCCc2c1 c1ccc2c(c1)CCN2 "
    "C1CCCCC1 C1CCCC1 C1CCNCC1 C1CCNC1 C1COCCN1 C1CNCCN1 C1CCOCC1 C1CCOC1 C1CC1 C1CCC1 "
    "O=C1CCCCC1 O=C1CCCN1 O=C1CCCO1 C1CC2CCC1C2 C1CCC2CCCCC2C1 C1C2CC3CC1CC(C2)C3 C1=CCCCC1"
)
_GROUPS = _parts(  # the first atom is the one that is attached
    "C C C CC CCC C(C)C C(C)(C)C CCCC F F Cl Cl Cl Br Br I O O O OC OC OCC N N N(C)C NC "
    "[N+](=O)[O-] C#N C(=O)O C(=O)O C(=O)OC C(=O)OCC C(=O)N C(=O)NC C=O C(C)=O C(F)(F)F OC(F)(F)F "
    "S SC S(C)(=O)=O S(N)(=O)=O CO CN CCO CCN CC(=O)O NC(C)=O OC(C)=O C=C C#C CC=C CBr CCl "
    "N=[N+]=[N-] c1ccccc1 Cc1ccccc1 Oc1ccccc1 C1CCCCC1 N1CCOCC1 N1CCCCC1 C([2H])([2H])[2H] "
    "[13CH3] C(O)C C(C)N C(O)C(=O)O CCCCCC OCCCC P(=O)(O)O B(O)O NC(N)=O N=C=S"
)
_LINKS = _parts(  # from the left ring to the right one
    "C(=O)N C(=O)N C(=O)O C(=O) O S OC CO N CN CC /C=C/ /C=C\\ /C=C/C(=O) N=N S(=O)(=O)N "
    "NC(=O)N OCC(=O)N CNC(=O) C(O) C(N) CCC(=O)N S(=O)(=O) SC C#C /C=N/ C(=O)NCC NC(=S)N"
)
_SIDE_CHAINS = _parts(
    "[H] C C(C)C CC(C)C [C@@H](C)CC CO [C@H](O)C CS CCSC CC(=O)O CC(=O)N CCC(=O)O CCC(=O)N CCCCN "
    "Cc1ccccc1 Cc1ccc(O)cc1 Cc1c[nH]c2ccccc12 Cc1cnc[nH]1 CCCNC(N)=N CC CCC c1ccccc1 CCO CCCN"
)
_PYRANOSES = _parts(  # {} is what the anomeric oxygen carries
    "OC[C@H]1O[C@@H](O{})[C@H](O)[C@@H](O)[C@@H]1O OC[C@H]1O[C@H](O{})[C@H](O)[C@@H](O)[C@@H]1O "
    "OC[C@H]1O[C@@H](O{})[C@H](O)[C@@H](O)[C@H]1O OC[C@H]1O[C@H](O{})[C@H](O)[C@@H](O)[C@H]1O "
    "OC[C@H]1O[C@@H](O{})[C@@H](O)[C@@H](O)[C@@H]1O OC[C@H]1O[C@H](O{})[C@@H](O)[C@@H](O)[C@@H]1O "
    "OC[C@H]1O[C@@H](O{})[C@H](NC(C)=O)[C@@H](O)[C@@H]1O O[C@@H]1CO[C@@H](O{})[C@H](O)[C@H]1O"
)
_STEROIDS = (  # {3} and {17} are whole substituents of those positions
    "C[C@]12CC[C@H]3[C@@H](CC=C4CC{3}CC[C@]34C)[C@@H]1CC{17}2",
    "C[C@]12CC[C@H]3[C@@H](CC[C@H]4CC{3}CC[C@]34C)[C@@H]1CC{17}2",
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC{17}2",
    "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc34)[C@@H]1CC{17}2",
    "C[C@]12CC[C@H]3[C@@H](CCc4cc(OC)ccc34)[C@@H]1CC{17}2",
)
_AT_STEROID = _parts(
    "[C@H](O) [C@@H](O) C(=O) [C@@H](OC(C)=O) [C@H](C(C)=O) [C@@H](C(=O)O) C(C) [C@H](N) [C@H](Cl) "
    "[C@@H](F) [C@H](OC) C(CC) [C@H](OC(=O)CC) C(=NO)"
)


def nci_molecules(count: int, draw: Draw) -> list[Chem.Mol]:
    """Up to `count` molecules of RDKit's NCI sample: organic, 4 to 45 heavy atoms, no radicals."""
    path = os.path.join(RDConfig.RDDataDir, "NCI", "first_5K.smi")
    with open(path, encoding="utf-8") as file:
        lines = draw.shuffled(file.read().split("\n"))
    found: dict[str, Chem.Mol] = {}
    with rdBase.BlockLogs():
        for line in lines:
            if len(found) == count:
                break
            mol = _usable(line.split("\t")[0].split(" ")[0])
            if mol is not None:
                found.setdefault(Chem.MolToSmiles(mol), mol)
    return list(found.values())


def enumerated_molecules(draw: Draw) -> Iterator[Chem.Mol]:
    """An endless stream of molecules made from parts; repeats occur, the caller drops them."""
    families = (_substituted, _substituted, _linked, _linked, _chain, _amino_acid, _sugar, _steroid)
    while True:
        with rdBase.BlockLogs():
            mol = _usable(draw.pick(families)(draw))
            made = [] if mol is None else _variants(mol, draw)
        yield from made


def _usable(smiles: str) -> Chem.Mol | None:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or not 4 <= mol.GetNumHeavyAtoms() <= MAX_ATOMS:
        return None
    atoms = list(mol.GetAtoms())
    odd = any(a.GetSymbol() not in _ELEMENTS or a.GetNumRadicalElectrons() for a in atoms)
    return None if odd or not any(a.GetSymbol() == "C" for a in atoms) else mol


def _variants(mol: Chem.Mol, draw: Draw) -> list[Chem.Mol]:
    """The molecule with its open stereocentres set, now and then another isomer, or as a salt."""
    first = _with_stereo(mol, draw) if draw.chance(0.8) else mol
    made = [first]
    if draw.chance(0.25):
        made.append(_with_stereo(mol, draw))
    if draw.chance(0.2):
        salt = _usable(_ionised(first, draw))
        made = [*made, salt] if draw.chance(0.4) and salt else [salt or first]
    return made


def _with_stereo(mol: Chem.Mol, draw: Draw) -> Chem.Mol:
    copy = Chem.Mol(mol)
    tags = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
    for index, code in Chem.FindMolChiralCenters(
        mol, includeUnassigned=True, useLegacyImplementation=True
    ):
        if code == "?":
            copy.GetAtomWithIdx(index).SetChiralTag(draw.pick(tags))
    return Chem.MolFromSmiles(Chem.MolToSmiles(copy)) or mol


_AMINE = Chem.MolFromSmarts(
    "[NX3;H2,H1,H0;!$(N*=[O,S,N]);!$(N*#N);!$(Nc);!$(N[#7,#8,#16,#15])]([CX4])"
)
_ACID = Chem.MolFromSmarts("[CX3](=O)[OX2H]")


def _ionised(mol: Chem.Mol, draw: Draw) -> str:
    """A hydrohalide, ammonium, alkali or zwitterionic form where the molecule has the groups."""
    copy = Chem.RWMol(mol)
    amine, acid = mol.GetSubstructMatch(_AMINE), mol.GetSubstructMatch(_ACID)
    end = ""
    if amine and (not acid or draw.chance(0.7)):
        end = draw.pick((".[Cl-]", ".[Br-]", "")) if not acid else ""
        if not acid and draw.chance(0.4):
            return Chem.MolToSmiles(mol) + draw.pick((".Cl", ".Br", ".Cl", ".O"))
        atom = copy.GetAtomWithIdx(amine[0])
        atom.SetFormalCharge(1)
        atom.SetNumExplicitHs(atom.GetTotalNumHs() + 1)
    if acid and (not amine or copy.GetAtomWithIdx(amine[0]).GetFormalCharge() or draw.chance(0.5)):
        copy.GetAtomWithIdx(acid[2]).SetFormalCharge(-1)
        end = draw.pick((".[Na+]", ".[K+]", ".[NH4+]", "")) if not amine else ""
    return Chem.MolToSmiles(copy) + end


def _bonded(left: Chem.Mol, at: int, right: Chem.Mol, to: int) -> Chem.Mol | None:
    """Both molecules with a single bond between left's atom `at` and right's atom `to`."""
    both = Chem.RWMol(Chem.CombineMols(left, right))
    for index in (at, left.GetNumAtoms() + to):
        atom = both.GetAtomWithIdx(index)
        if atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    both.AddBond(at, left.GetNumAtoms() + to, Chem.BondType.SINGLE)
    made = both.GetMol()
    return None if Chem.SanitizeMol(made, catchErrors=True) else made


def _free(mol: Chem.Mol) -> list[int]:
    return [a.GetIdx() for a in mol.GetAtoms() if a.IsInRing() and a.GetTotalNumHs()]


def _decorated(draw: Draw, most: int) -> Chem.Mol:
    """A ring system with one to `most` groups in place of ring hydrogens."""
    mol = Chem.MolFromSmiles(draw.pick(_CORES))
    for _ in range(1 + draw.below(most)):
        free = _free(mol)
        group = Chem.MolFromSmiles(draw.pick(_GROUPS))
        mol = (_bonded(mol, draw.pick(free), group, 0) if free else None) or mol
    return mol


def _substituted(draw: Draw) -> str:
    return Chem.MolToSmiles(_decorated(draw, 4))


def _linked(draw: Draw) -> str:
    """Two rings, each with up to two groups, on the two ends of a linker; "" where none fits."""
    left, right = _decorated(draw, 2), _decorated(draw, 2)
    link = Chem.MolFromSmiles(f"*{draw.pick(_LINKS)}*")
    for ring in (left, right):
        end = next(a for a in link.GetAtoms() if a.GetAtomicNum() == 0)
        free = _free(ring)
        if not free:
            return ""
        at = draw.pick(free)
        atom = ring.GetAtomWithIdx(at)
        joined = Chem.RWMol(Chem.CombineMols(link, ring))
        if atom.GetNumExplicitHs():
            moved = joined.GetAtomWithIdx(link.GetNumAtoms() + at)
            moved.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
        neighbour = end.GetNeighbors()[0].GetIdx()
        joined.AddBond(neighbour, link.GetNumAtoms() + at, Chem.BondType.SINGLE)
        joined.RemoveAtom(end.GetIdx())
        link = joined.GetMol()
        if Chem.SanitizeMol(link, catchErrors=True):
            return ""
    return Chem.MolToSmiles(link)


def _chain(draw: Draw) -> str:
    """An aliphatic chain with a head group, perhaps a double bond, a branch or a second group."""
    heads = _parts(
        "C(=O)O C(=O)O C(=O)OC C(=O)OCC C(=O)N CO CO CN C=O C(C)=O C#N CCl CBr CS C(=O)NC "
        "C(=O)[O-] COC(C)=O COC C(=O)OCC(O)CO COP(=O)(O)O C[N+](C)(C)C CN(C)C C(C)O CSC"
    )
    middles = _parts("C(O) C(C) C(N) C(=O) C(Cl) C(F) C(O)C(O) C(CC) O S C(OC) C1CC1")
    bonds = ("/C=C/", "/C=C\\", "/C=C/", "C#C", "/C=C\\C/C=C\\", "/C=C/C=C/")
    parts = ["C" * (1 + draw.below(9))]
    for _ in range(1 + draw.below(2)):
        parts.append(draw.pick(bonds) if draw.chance(0.5) else draw.pick(middles))
        parts.append("C" * (1 + draw.below(7)))
    return "".join(parts) + draw.pick(heads)


def _amino_acid(draw: Draw) -> str:
    """One to three residues with free or blocked ends."""
    start = draw.pick(("N", "N", "N", "CC(=O)N", "O=C(c1ccccc1)N", "CN", "CC(C)(C)OC(=O)N"))
    end = draw.pick(("O", "O", "O", "OC", "OCC", "N", "NC", "Nc1ccccc1"))
    residues = []
    for _ in range(draw.pick((1, 1, 2, 2, 3))):
        side = draw.pick(_SIDE_CHAINS)
        mark = "@" if draw.chance(0.25) else "@@"
        residues.append("CC(=O)" if side == "[H]" else f"[C{mark}H]({side})C(=O)")
    return start + "N".join(residues) + end


def _sugar(draw: Draw) -> str:
    aglycones = _parts(
        "C CC CCCCCCC c2ccccc2 c2ccc([N+](=O)[O-])cc2 c2ccc(O)cc2 Cc2ccccc2 c2ccc3ccc(=O)oc3c2 CCN "
        "CCCC CCCCCC C(C)C c2ccc(OC)cc2 c2ccccc2C=O CC=C CCO CCBr P(=O)(O)O C(C)=O c2ccc(C)cc2"
    )
    return draw.pick(_PYRANOSES).format(draw.pick(("", *aglycones)))


def _steroid(draw: Draw) -> str:
    shape = draw.pick(_STEROIDS)
    return shape.replace("{3}", draw.pick(_AT_STEROID)).replace("{17}", draw.pick(_AT_STEROID))
