"""Names for the parts of a molecule: ring systems, chains and substituents with their locants.

In: an RDKit molecule. Out: words such as "pyridine", "4-chlorobenzyl" or "octanoic acid", each
computed from the graph by the rules of systematic naming as far as a few pages of rules go; where
they do not reach, the answer is None and the caller says something weaker. Nothing here is looked
up by molecule, so every name is a fact about the graph.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from rdkit import Chem

# name -> SMARTS whose atoms stand in the order of the locants; a bare number n means 1..n
_RINGS = """
benzene c1ccccc1 6
pyridine n1ccccc1 6
pyridazine n1ncccc1 6
pyrimidine n1cnccc1 6
pyrazine n1ccncc1 6
1,3,5-triazine n1cncnc1 6
1,2,4-triazine n1ncncc1 6
pyrylium o1ccccc1 6
pyrrole n1cccc1 5
furan o1cccc1 5
thiophene s1cccc1 5
imidazole n1cncc1 5
pyrazole n1nccc1 5
1,3-oxazole o1cncc1 5
1,3-thiazole s1cncc1 5
1,2-oxazole o1nccc1 5
1,2-thiazole s1nccc1 5
1,2,4-triazole n1ncnc1 5
1,2,3-triazole n1nncc1 5
tetrazole n1nnnc1 5
1,3,4-thiadiazole s1cnnc1 5
1,3,4-oxadiazole o1cnnc1 5
1,2,4-oxadiazole o1ncnc1 5
1,2,4-thiadiazole s1ncnc1 5
naphthalene c1cccc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
quinoline n1cccc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
isoquinoline c1nccc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
quinazoline n1cncc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
quinoxaline n1ccnc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
phthalazine c1nncc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
cinnoline n1nccc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
1,8-naphthyridine n1cccc2cccnc12 1,2,3,4,4a,5,6,7,8,8a
pteridine n1cncc2nccnc12 1,2,3,4,4a,5,6,7,8,8a
chromene o1cccc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
indole n1ccc2ccccc12 1,2,3,3a,4,5,6,7,7a
1-benzofuran o1ccc2ccccc12 1,2,3,3a,4,5,6,7,7a
1-benzothiophene s1ccc2ccccc12 1,2,3,3a,4,5,6,7,7a
indazole n1ncc2ccccc12 1,2,3,3a,4,5,6,7,7a
benzimidazole n1cnc2ccccc12 1,2,3,3a,4,5,6,7,7a
1,3-benzoxazole o1cnc2ccccc12 1,2,3,3a,4,5,6,7,7a
1,3-benzothiazole s1cnc2ccccc12 1,2,3,3a,4,5,6,7,7a
benzotriazole n1nnc2ccccc12 1,2,3,3a,4,5,6,7,7a
purine n1cnc2c(c1)ncn2 9
pyrazolo[3,4-d]pyrimidine n1ncc2cncnc12 1,2,3,3a,4,5,6,7,7a
triazolo[4,5-d]pyrimidine n1nnc2cncnc12 1,2,3,3a,4,5,6,7,7a
anthracene c1cccc2cc3ccccc3cc12 1,2,3,4,4a,10,10a,5,6,7,8,8a,9,9a
9,10-dihydroanthracene c1cccc2Cc3ccccc3Cc12 1,2,3,4,4a,10,10a,5,6,7,8,8a,9,9a
phenanthrene c1cccc2c3ccccc3ccc12 1,2,3,4,4a,4b,5,6,7,8,8a,9,10,10a
acridine c1cccc2nc3ccccc3cc12 1,2,3,4,4a,10,10a,5,6,7,8,8a,9,9a
carbazole c1cccc2c3ccccc3nc12 1,2,3,4,4a,4b,5,6,7,8,8a,9,9a
dibenzofuran c1cccc2oc3ccccc3c12 1,2,3,4,4a,5,5a,6,7,8,9,9a,9b
dibenzothiophene c1cccc2sc3ccccc3c12 1,2,3,4,4a,5,5a,6,7,8,9,9a,9b
fluorene c1cccc2c3ccccc3Cc12 1,2,3,4,4a,4b,5,6,7,8,8a,9,9a
phenothiazine c1cccc2Sc3ccccc3Nc12 1,2,3,4,4a,5,5a,6,7,8,9,9a,10,10a
phenoxazine c1cccc2Oc3ccccc3Nc12 1,2,3,4,4a,5,5a,6,7,8,9,9a,10,10a
xanthene c1cccc2Oc3ccccc3Cc12 1,2,3,4,4a,10,10a,5,6,7,8,8a,9,9a
xanthene c1cccc2oc3ccccc3cc12 1,2,3,4,4a,10,10a,5,6,7,8,8a,9,9a
indoline N1CCc2ccccc12 1,2,3,3a,4,5,6,7,7a
isoindoline C1NCc2ccccc12 1,2,3,3a,4,5,6,7,7a
1,3-benzodioxole O1COc2ccccc12 1,2,3,3a,4,5,6,7,7a
1,3-dihydro-2-benzofuran C1OCc2ccccc12 1,2,3,3a,4,5,6,7,7a
indane C1CCc2ccccc12 1,2,3,3a,4,5,6,7,7a
tetralin C1CCCc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
1,4-dihydronaphthalene C1C=CCc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
chromane O1CCCc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
1,2,3,4-tetrahydroisoquinoline C1NCCc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
1,2,3,4-tetrahydroquinoline N1CCCc2ccccc12 1,2,3,4,4a,5,6,7,8,8a
1,4-benzodiazepine N1CCN=Cc2ccccc12 1,2,3,4,5,5a,6,7,8,9,9a
cyclohexa-1,4-diene C1=CCC=CC1 6
cyclohexene C1=CCCCC1 6
cyclopentene C1=CCCC1 5
cyclopropane C1CC1 3
cyclobutane C1CCC1 4
cyclopentane C1CCCC1 5
cyclohexane C1CCCCC1 6
cycloheptane C1CCCCCC1 7
cyclooctane C1CCCCCCC1 8
oxirane O1CC1 3
aziridine N1CC1 3
azetidine N1CCC1 4
pyrrolidine N1CCCC1 5
oxolane O1CCCC1 5
thiolane S1CCCC1 5
imidazolidine N1CNCC1 5
1,3-thiazolidine S1CNCC1 5
1,3-oxazolidine O1CNCC1 5
1,3-dioxolane O1COCC1 5
4,5-dihydropyrazole N1N=CCC1 5
piperidine N1CCCCC1 6
oxane O1CCCCC1 6
thiane S1CCCCC1 6
piperazine N1CCNCC1 6
morpholine O1CCNCC1 6
thiomorpholine S1CCNCC1 6
1,3-diazinane N1CNCCC1 6
1,3-dioxane O1COCCC1 6
1,4-dioxane O1CCOCC1 6
azepane N1CCCCCC1 7
decalin C1CCCC2CCCCC12 1,2,3,4,4a,5,6,7,8,8a
norbornane C12CCC(CC1)C2 7
adamantane C12CC3CC(CC(C1)C3)C2 1,2,3,4,5,6,7,8,10,9
tropane C12CCCC(CC1)N2 8
quinuclidine N12CCC(CC1)CC2 8
"""
# Carbons only, with any bonds: the nucleus keeps its name whatever is unsaturated in it.
_STEROID = """
steroid C1~C~C~C~C2~C~C~C3~C(~C~1~2)~C~C~C1~C~3~C~C~C~1 17
"""

_ALKANES = """
meth eth prop but pent hex hept oct non dec undec dodec tridec tetradec pentadec hexadec heptadec
octadec nonadec icos henicos docos tricos tetracos pentacos hexacos heptacos octacos
"""
ALKANE = tuple(_ALKANES.split())
HALO = {"F": "fluoro", "Cl": "chloro", "Br": "bromo", "I": "iodo"}
_MULTIPLIER = ["", "", "di", "tri", "tetra", "penta", "hexa", "hepta", "octa"]
_COMPOUND_MULTIPLIER = [
    "",
    "",
    "bis",
    "tris",
    "tetrakis",
    "pentakis",
    "hexakis",
    "heptakis",
    "octakis",
]
_CONTRACTED = {"methyl": "methoxy", "ethyl": "ethoxy", "propyl": "propoxy", "butyl": "butoxy"}
_CONTRACTED |= {"phenyl": "phenoxy"}
_ACYL = {"methyl": "acetyl", "ethyl": "propanoyl", "propyl": "butanoyl", "phenyl": "benzoyl"}
_SIMPLE = {f"{stem}yl" for stem in ALKANE} | set(HALO.values()) | set(_CONTRACTED.values())
_SIMPLE |= {"hydroxy", "oxo", "amino", "nitro", "cyano", "carboxy", "formyl", "acetyl", "benzoyl"}
_SIMPLE |= {"phenyl", "benzyl", "sulfo", "sulfanyl", "imino", "oxido", "deuterio", "azido"}
LONGEST_NAME = 48  # characters; a longer name is no longer a sentence's part


class Template(NamedTuple):
    name: str
    query: Chem.Mol
    locants: tuple[str, ...]


class System(NamedTuple):
    """One ring system: its atoms, its name ("" where unknown) and all its legal numberings."""

    atoms: frozenset[int]
    name: str
    numberings: tuple[dict[int, str], ...]


class View(NamedTuple):
    """A molecule with its ring systems found; `system_of` maps a ring atom to its system."""

    mol: Chem.Mol
    systems: tuple[System, ...]
    system_of: dict[int, System]


class Parent(NamedTuple):
    """What the description hangs on: a ring or a chain, and the named groups on it."""

    name: str
    groups: tuple[tuple[str, str | None], ...]  # (locant, name or None where no name was found)
    locants: dict[int, str]  # of the parent's own atoms
    is_ring: bool


def locant_key(locant: str) -> tuple[int, str]:
    """Sorts "4" before "4a" before "10"."""
    digits = "".join(c for c in locant if c.isdigit())
    return int(digits or 0), locant


def _templates() -> dict[tuple[int, str], list[Template]]:
    table: dict[tuple[int, str], list[Template]] = {}
    for line in (_RINGS + _STEROID.replace("C", "[#6]")).split("\n"):
        if not line:
            continue
        name, smarts, numbers = line.split()
        query = Chem.MolFromSmarts(smarts)
        plain = numbers.isdigit()
        locants = [str(i + 1) for i in range(int(numbers))] if plain else numbers.split(",")
        symbols = "".join(sorted(a.GetSymbol() for a in query.GetAtoms()))
        entry = Template(name, query, tuple(locants))
        table.setdefault((len(locants), symbols), []).append(entry)
    return table


_TEMPLATES = _templates()


def view(mol: Chem.Mol) -> View:
    """Finds and names the ring systems (rings that share an atom) of a molecule."""
    for atom, rank in zip(mol.GetAtoms(), Chem.CanonicalRankAtoms(mol), strict=True):
        atom.SetIntProp("_rank", rank)
    groups: list[set[int]] = []
    for ring in mol.GetRingInfo().AtomRings():
        joined, rest = set(ring), []
        for group in groups:
            if joined & group:
                joined |= group
            else:
                rest.append(group)
        groups = [*rest, joined]
    systems = tuple(_system(mol, frozenset(g)) for g in sorted(groups, key=min))
    return View(mol, systems, {atom: system for system in systems for atom in system.atoms})


def _system(mol: Chem.Mol, atoms: frozenset[int]) -> System:
    symbols = "".join(sorted(mol.GetAtomWithIdx(i).GetSymbol() for i in atoms))
    for template in _TEMPLATES.get((len(atoms), symbols), []):
        matches = mol.GetSubstructMatches(template.query, uniquify=False, maxMatches=500)
        inside = [m for m in matches if atoms.issuperset(m)]
        if inside:
            numberings = tuple(dict(zip(m, template.locants, strict=True)) for m in inside)
            return System(atoms, template.name, numberings)
    return System(atoms, "", ())


def yl(ring: str, locant: str) -> str:
    """The radical name of a ring: ("pyridine", "3") -> "pyridin-3-yl"."""
    if ring == "benzene":
        return "phenyl"
    if ring.startswith("cyclo") and ring.endswith("ane"):
        return ring.removesuffix("ane") + "yl"
    return f"{ring.removesuffix('e')}-{locant}-yl"


def multiplier(name: str, n: int) -> str:
    """ "di" before a simple name, "bis" before one of several parts: bis(methylamino) is not
    dimethylamino."""
    return (_MULTIPLIER if name in _SIMPLE else _COMPOUND_MULTIPLIER)[n]


def join_prefixes(groups: list[tuple[str, str]], locants: bool = True) -> str:
    """[("2", "chloro"), ("4", "chloro"), ("6", "methyl")] -> "2,4-dichloro-6-methyl"."""
    by_name: dict[str, list[str]] = {}
    for locant, name in groups:
        by_name.setdefault(name, []).append(locant)
    parts = []
    for name in sorted(by_name, key=lambda n: (n.lstrip("(0123456789,-"), n)):
        where = sorted(by_name[name], key=locant_key)
        if len(where) > 6:
            return ",".join(sorted(by_name))
        times = multiplier(name, len(where))
        plain = name in _SIMPLE or (name.isalpha() and len(where) == 1)
        word = times + (name if plain else f"({name})")
        parts.append(f"{','.join(where)}-{word}" if locants else word)
    return "-".join(parts) if locants else "".join(parts)


def group_name(v: View, atom: int, parent: int) -> str | None:
    """The prefix name of the substituent that starts at `atom`, seen from `parent`."""
    name = _group(v, v.mol.GetAtomWithIdx(atom), v.mol.GetAtomWithIdx(parent), 0)
    return name if name and len(name) <= LONGEST_NAME else None


def _group(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    if depth > 6:
        return None
    bond = v.mol.GetBondBetweenAtoms(atom.GetIdx(), parent.GetIdx()).GetBondTypeAsDouble()
    if bond == 2:
        return _double(v, atom, parent, depth)
    if bond != 1 or atom.GetNumRadicalElectrons():
        return None
    if atom.GetIdx() in v.system_of:
        return _ring_group(v, atom, parent, depth)
    symbol = atom.GetSymbol()
    if symbol in HALO:
        return HALO[symbol] if atom.GetDegree() == 1 and not atom.GetFormalCharge() else None
    if symbol == "H":
        return "deuterio" if atom.GetIsotope() == 2 else None
    if atom.GetIsotope():
        return None
    rule = {"O": _oxygen, "S": _sulfur, "N": _nitrogen, "C": _carbon, "P": _phosphorus}.get(symbol)
    return rule(v, atom, parent, depth) if rule else None


def _others(atom: Chem.Atom, parent: Chem.Atom | None) -> list[Chem.Atom]:
    """Neighbours but the parent."""
    away = -1 if parent is None else parent.GetIdx()
    return [n for n in atom.GetNeighbors() if n.GetIdx() != away]


def _order(v: View, a: Chem.Atom, b: Chem.Atom) -> float:
    return v.mol.GetBondBetweenAtoms(a.GetIdx(), b.GetIdx()).GetBondTypeAsDouble()


def _is_oxo(v: View, a: Chem.Atom, b: Chem.Atom) -> bool:
    return b.GetSymbol() == "O" and b.GetDegree() == 1 and _order(v, a, b) == 2


def _double(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    symbol = atom.GetSymbol()
    if atom.GetFormalCharge() or atom.GetIsotope() or atom.GetIdx() in v.system_of:
        return None
    if symbol == "O":
        return "oxo"
    if symbol == "S" and not rest:
        return "sulfanylidene"
    if symbol not in "NC" or len(rest) > 1:
        return None
    inner = _group(v, rest[0], atom, depth + 1) if rest else ""
    end = {"N": "imino", "C": "methylidene"}[symbol]
    return None if inner is None else (f"{bracket(inner)}{end}" if inner else end)


def bracket(name: str) -> str:
    return name if name.isalpha() and len(name) < 15 else f"({name})"


def _oxygen(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    if not rest:
        return {0: "hydroxy", -1: "oxido"}.get(atom.GetFormalCharge())
    if len(rest) > 1 or atom.GetFormalCharge():
        return None
    inner = _group(v, rest[0], atom, depth + 1)
    if inner == "benzyl":
        return "benzyloxy"
    return None if inner is None else _CONTRACTED.get(inner, f"{bracket(inner)}oxy")


def _sulfur(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    oxo = [n for n in rest if _is_oxo(v, atom, n)]
    rest = [n for n in rest if not _is_oxo(v, atom, n)]
    if atom.GetFormalCharge() or len(oxo) > 2 or len(rest) > 1:
        return None
    if not rest:
        return "sulfanyl" if not oxo else None
    other = rest[0]
    if len(oxo) == 2 and other.GetSymbol() == "O" and other.GetDegree() == 1:
        return "sulfo" if not other.GetFormalCharge() else "sulfonato"
    inner = _group(v, other, atom, depth + 1)
    if inner is None:
        return None
    if len(oxo) == 2 and inner == "amino":
        return "sulfamoyl"
    return bracket(inner) + ("sulfanyl", "sulfinyl", "sulfonyl")[len(oxo)]


def _nitrogen(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    symbols = sorted(n.GetSymbol() for n in rest)
    charge = atom.GetFormalCharge()
    if charge == 1 and symbols == ["O", "O"] and all(n.GetDegree() == 1 for n in rest):
        return "nitro"
    if charge == 0 and len(rest) == 1 and _order(v, atom, rest[0]) == 2:
        return _unsaturated_nitrogen(v, atom, rest[0], depth)
    if charge not in (0, 1) or any(_order(v, atom, n) != 1 for n in rest):
        return None
    if not charge and len(rest) == 1 and symbols == ["N"] and rest[0].GetDegree() == 1:
        return "hydrazinyl" if not rest[0].GetFormalCharge() else None
    end = "ammonio" if charge else "amino"
    names = [_group(v, n, atom, depth + 1) for n in rest]
    found = sorted(n for n in names if n)
    if len(found) < len(names):
        return None
    if len(set(found)) == 1:
        times = multiplier(found[0], len(found))
        return times + bracket(found[0]) + end
    return "".join(f"({n})" if i or not n.isalpha() else n for i, n in enumerate(found)) + end


def _unsaturated_nitrogen(v: View, atom: Chem.Atom, other: Chem.Atom, depth: int) -> str | None:
    if other.GetFormalCharge():
        return "azido" if other.GetSymbol() == "N" and other.GetDegree() == 2 else None
    if other.GetSymbol() == "O":
        return "nitroso"
    rest = _others(other, atom)
    if len(rest) > 1 or not rest or other.GetIdx() in v.system_of:
        return None
    inner = _group(v, rest[0], other, depth + 1)
    end = {"N": "diazenyl", "C": "methylideneamino"}.get(other.GetSymbol())
    return f"{bracket(inner)}{end}" if inner and end and _order(v, other, rest[0]) == 1 else None


def _phosphorus(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    plain = [n for n in rest if n.GetSymbol() == "O" and n.GetDegree() == 1]
    charged = any(n.GetFormalCharge() for n in plain)
    return "phosphono" if len(plain) == 3 == len(rest) and not charged else None


def _carbonyl(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = [n for n in _others(atom, parent) if not _is_oxo(v, atom, n)]
    if not rest:
        return "formyl" if atom.GetTotalNumHs() == 1 else None
    other = rest[0]
    inner = _group(v, other, atom, depth + 1)
    if inner is None:
        return None
    special = {"hydroxy": "carboxy", "oxido": "carboxylato", "amino": "carbamoyl"}
    if inner in special:
        return special[inner]
    if inner.endswith("amino") and other.GetSymbol() == "N":
        return inner.removesuffix("amino") + "carbamoyl"
    stem = inner.removesuffix("yl")
    if inner in _ACYL or other.GetSymbol() != "C":
        return _ACYL.get(inner, f"{bracket(inner)}carbonyl")
    return (
        f"{ALKANE[ALKANE.index(stem) + 1]}anoyl" if stem in ALKANE else f"{bracket(inner)}carbonyl"
    )


def _functional(v: View, atom: Chem.Atom, parent: Chem.Atom | None) -> bool:
    """A carbon that ends a chain as a group of its own: carboxy, cyano, carbamoyl, formyl."""
    rest = _others(atom, parent)
    if any(n.GetSymbol() == "N" and _order(v, atom, n) == 3 for n in rest):
        return True
    oxo = any(_is_oxo(v, atom, n) for n in rest)
    return oxo and sum(n.GetSymbol() == "C" for n in rest) == 0


def _carbon(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    rest = _others(atom, parent)
    if atom.GetFormalCharge():
        return None
    if len(rest) == 1 and _order(v, atom, rest[0]) == 3 and rest[0].GetSymbol() == "N":
        return "cyano"
    if any(_is_oxo(v, atom, n) for n in rest):
        return _carbonyl(v, atom, parent, depth)
    path = _longest(v, atom, parent)
    numbering = {a: str(i + 1) for i, a in enumerate(path)}
    groups = hung_groups(v, numbering, {parent.GetIdx()}, depth + 1)
    names = [(locant, name) for locant, name in groups if name]
    if len(names) < len(groups) or len(path) > len(ALKANE):
        return None
    return _alkyl(v, path, names)


def _alkyl(v: View, path: list[int], groups: list[tuple[str, str]]) -> str:
    """Retained names first (benzyl, propan-2-yl, tert-butyl), then the general rule."""
    known: dict[tuple[int, tuple[str, ...]], str] = {
        (1, ("phenyl",)): "benzyl",
        (2, ("methyl",)): "propan-2-yl",
        (2, ("methyl", "methyl")): "tert-butyl",
    }
    first = tuple(name for locant, name in groups if locant == "1")
    if len(first) == len(groups) and not unsaturation(v, path):
        if (len(path), first) in known:
            return known[len(path), first]
        if len(path) > 2 and first == ("methyl",):
            return f"{ALKANE[len(path)]}an-2-yl"
    middle = unsaturation(v, path)
    end = f"{middle}-1-yl" if middle else "yl"
    prefix = join_prefixes(groups, locants=len(path) > 1) if groups else ""
    return prefix + ALKANE[len(path) - 1] + end


def unsaturation(v: View, path: list[int]) -> str:
    """ "-2-en", "a-2,4-dien", "-3-yn" or "" for a chain given by its atoms in order."""
    parts = []
    for order, word in ((2, "en"), (3, "yn")):
        bonds = pairwise(path)
        where = [
            str(i + 1)
            for i, (a, b) in enumerate(bonds)
            if v.mol.GetBondBetweenAtoms(a, b).GetBondTypeAsDouble() == order
        ]
        if where:
            times = _MULTIPLIER[len(where)] if len(where) < 9 else "poly"
            parts.append(
                f"{'a' if len(where) > 1 and not parts else ''}-{','.join(where)}-{times}{word}"
            )
    return "".join(parts)


def _chain_atom(v: View, atom: Chem.Atom) -> bool:
    plain = atom.GetSymbol() == "C" and not atom.GetIsotope() and not atom.GetFormalCharge()
    return plain and atom.GetIdx() not in v.system_of


def _longest(v: View, start: Chem.Atom, parent: Chem.Atom | None) -> list[int]:
    """The longest chain of acyclic carbons from `start`; ties go to the lower canonical rank."""
    best: list[int] = []
    for n in _others(start, parent):
        if _chain_atom(v, n) and not (parent is not None and _functional(v, n, start)):
            path = _longest(v, n, start)
            better = (len(path), -_rank(n)) > (len(best), -_rank_at(v, best))
            best = path if better else best
    return [start.GetIdx(), *best]


def _rank(atom: Chem.Atom) -> int:
    return atom.GetIntProp("_rank")


def _rank_at(v: View, path: list[int]) -> int:
    return _rank(v.mol.GetAtomWithIdx(path[0])) if path else 1 << 30


def hung_groups(
    v: View, numbering: dict[int, str], skip: set[int], depth: int = 0
) -> list[tuple[str, str | None]]:
    """(locant, name) of everything attached to the numbered atoms, sorted by locant then name."""
    found: list[tuple[str, str | None]] = []
    for index, locant in numbering.items():
        atom = v.mol.GetAtomWithIdx(index)
        for n in atom.GetNeighbors():
            if n.GetIdx() not in numbering and n.GetIdx() not in skip:
                name = _group(v, n, atom, depth)
                found.append((locant, name if name and len(name) <= LONGEST_NAME else None))
    return sorted(found, key=lambda f: (locant_key(f[0]), f[1] or "~"))


def _ring_group(v: View, atom: Chem.Atom, parent: Chem.Atom, depth: int) -> str | None:
    system = v.system_of[atom.GetIdx()]
    if not system.name or any(v.mol.GetAtomWithIdx(i).GetFormalCharge() for i in system.atoms):
        return None
    numbering = best_numbering(v, system, anchor=atom.GetIdx(), skip=parent.GetIdx())
    groups = hung_groups(v, numbering, {parent.GetIdx()}, depth + 1)
    names = [(locant, name) for locant, name in groups if name]
    if len(names) < len(groups):
        return None
    prefix = join_prefixes(names) if names else ""
    return prefix + yl(system.name, numbering[atom.GetIdx()])


def best_numbering(v: View, system: System, anchor: int = -1, skip: int = -1) -> dict[int, str]:
    """The numbering with the lowest locants: of the anchor first, then of all the groups."""
    hung = []
    for index in system.atoms:
        for n in v.mol.GetAtomWithIdx(index).GetNeighbors():
            if n.GetIdx() not in system.atoms and n.GetIdx() != skip:
                hung.append((index, _rank(n)))

    def cost(numbering: dict[int, str]) -> tuple:
        first = locant_key(numbering[anchor]) if anchor >= 0 else (0, "")
        where = sorted(locant_key(numbering[i]) for i, _ in hung)
        return first, where, sorted((rank, locant_key(numbering[i])) for i, rank in hung)

    return min(system.numberings, key=cost)


def find_parent(v: View) -> Parent | None:
    """The ring or chain to describe first: the richest named ring system, else the chain."""
    named = [s for s in v.systems if s.name]
    if named:
        system = max(named, key=lambda s: _richness(v, s))
        numbering = best_numbering(v, system)
        groups = hung_groups(v, numbering, set())
        return Parent(system.name, tuple(groups), numbering, True)
    return _chain_parent(v) if not v.systems else None


def _richness(v: View, system: System) -> tuple:
    atoms = [v.mol.GetAtomWithIdx(i) for i in system.atoms]
    hung = sum(n.GetIdx() not in system.atoms for a in atoms for n in a.GetNeighbors())
    hetero = sum(a.GetSymbol() != "C" for a in atoms)
    return len(atoms) > 6, hetero > 0, hung, len(atoms), min(_rank(a) for a in atoms)


_SUFFIX = {"hydroxy": "oic acid", "oxido": "oate", "amino": "amide"}
_ESTER = {alkoxy: f"{alkyl} " for alkyl, alkoxy in _CONTRACTED.items()}


def _chain_parent(v: View) -> Parent | None:
    paths = [_longest(v, atom, None) for atom in v.mol.GetAtoms() if _chain_atom(v, atom)]
    length = max(map(len, paths), default=0)
    if not 2 <= length <= len(ALKANE):
        return None
    found = []
    for path in (p for p in paths if len(p) == length):
        numbering = {a: str(i + 1) for i, a in enumerate(path)}
        groups = hung_groups(v, numbering, set())
        before, ending, kept = _ending(groups)
        where = [locant_key(locant) for locant, _ in groups]
        cost = (ending == "e", where, _rank_at(v, path))
        found.append((cost, path, numbering, before, ending, kept))
    _, path, numbering, before, ending, kept = min(found, key=lambda f: f[0])
    middle = unsaturation(v, path)
    name = before + ALKANE[len(path) - 1] + (middle or "an") + ending
    return Parent(name, tuple(kept), numbering, False)


def _ending(
    groups: list[tuple[str, str | None]],
) -> tuple[str, str, list[tuple[str, str | None]]]:
    """What position 1 puts before and behind the chain's name, and the groups that remain."""
    here = [name for locant, name in groups if locant == "1"]
    rest = [g for g in groups if g[0] != "1"]
    other = [name or "" for name in here if name != "oxo"]
    if "oxo" in here and len(other) == 1 and other[0] in _SUFFIX:
        return "", _SUFFIX[other[0]], rest
    if "oxo" in here and len(other) == 1 and other[0] in _ESTER:
        return _ESTER[other[0]], "oate", rest
    return "", "e", groups
