"""Facts computed on a molecule, each with the ways in which a sentence may put it.

In: an RDKit molecule. Out: `Facts`: the parent with its groups, and `Fact`s (classes, counts,
stereo descriptors, charge, absences) whose `key` says in one canonical string what is claimed.
Two texts claim the same thing exactly when their keys are equal, whatever the wording. Every fact
is computed from the graph; nothing about biology, origin or use is ever claimed.
"""

from __future__ import annotations

from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula, CalcNumAromaticRings

from tmr_jax.data.datasets.demo.names import Parent, View, find_parent, locant_key, view

# key | SMARTS | noun phrases, the first as ChEBI would put it
_CLASSES = """
carboxylic acid | [CX3](=O)[OX2H1] |
carboxylate | [CX3](=O)[O-] | a carboxylic acid anion; a compound with a carboxylate group
lactone | [C;R](=O)[O;R][#6;R] | a lactone; a cyclic ester
carboxylic ester | [CX3;!R]([#6,#1])(=O)[OX2;!R][#6;!$(C=[O,S,N])] | a carboxylic ester; an ester of a carboxylic acid
methyl ester | [CX3]([#6])(=O)[OX2][CH3] | a methyl ester
ethyl ester | [CX3]([#6])(=O)[OX2][CH2][CH3] | an ethyl ester
lactam | [C;R](=O)[N;R;!$(N(C=O)C=O)] | a lactam; a cyclic amide
imide | [CX3](=O)[NX3][CX3]=O | a dicarboximide; an imide
primary amide | [CX3]([#6])(=O)[NX3H2] | a primary carboxamide; an unsubstituted amide
secondary amide | [CX3;!R]([#6])(=O)[NX3H1][#6;!$(C=[O,S])] | a secondary carboxamide; an N-monosubstituted amide
tertiary amide | [CX3;!R]([#6])(=O)[NX3H0]([#6;!$(C=[O,S])])[#6;!$(C=[O,S])] | a tertiary carboxamide; an N,N-disubstituted amide
urea | [NX3][CX3](=O)[NX3] | a member of ureas; a urea derivative
thiourea | [NX3][CX3](=S)[NX3] | a member of thioureas; a thiourea derivative
carbamate ester | [NX3][CX3](=O)[OX2][#6] | a carbamate ester; a urethane
guanidines | [NX3][CX3](=[N,$([N+])])[NX3] | a member of guanidines; a guanidine derivative
primary alcohol | [CX4H2,CX4H3][OX2H] | a primary alcohol; a compound bearing a primary hydroxyl function
secondary alcohol | [CX4H1]([#6])([#6])[OX2H] | a secondary alcohol; a compound bearing a secondary hydroxyl function
tertiary alcohol | [CX4]([#6])([#6])([#6])[OX2H] | a tertiary alcohol; a compound bearing a tertiary hydroxyl function
phenols | c:1:c:c:c:c:c:1[OX2H] | a member of phenols; a phenolic compound
aromatic ether | c[OX2][#6;!$(C=[O,S,N])] | an aromatic ether; an aryl ether
dialkyl ether | [CX4;!$(C([OX2])[OX2,N,S])][OX2][CX4;!$(C([OX2])[OX2,N,S])] | an ether; an aliphatic ether
acetal | [CX4H1,CX4H2,CX4H0;!$(C(O)(O)O)]([OX2][#6])[OX2][#6;!$(C=O)] | an acetal; a compound with two alkoxy oxygens on one carbon
epoxide | C1OC1 | an epoxide; an oxirane
primary amine | [NX3H2][CX4] | a primary amino compound; an aliphatic primary amine
aromatic amine | [NX3;!$(N-[C,S,P,N]=[O,S,N]);!$(N[N,O])]c | an aromatic amine; an arylamine
secondary amine | [NX3H1]([CX4])[CX4] | a secondary amino compound; a dialkylamine
tertiary amine | [NX3H0]([CX4])([CX4])[CX4] | a tertiary amino compound; a trialkylamine
quaternary ammonium | [NX4H0+]([#6])([#6])([#6])[#6] | a quaternary ammonium ion; a tetraalkylammonium species
ammonium | [NX4;H1,H2,H3;+]([#6]) | an ammonium ion; a protonated amine
nitrile | [CX2]#[NX1] | a nitrile; a cyanide-bearing compound
C-nitro | [#6][N+](=O)[O-] | a C-nitro compound; a nitro derivative
aldehyde | [CX3H1](=O)[#6] | an aldehyde; a formyl compound
ketone | [#6][CX3;!$(C1C=CC(=O)C=C1)](=O)[#6] | a ketone; a compound with a keto function
aromatic ketone | c[CX3](=O)[#6] | an aromatic ketone; an aryl ketone
enone | [CX3]=[CX3][CX3](=O)[#6] | an enone; an alpha,beta-unsaturated ketone
quinone | O=C1C=CC(=O)C=C1 | a quinone; a para-quinone
thiol | [SX2H] | a thiol; a mercaptan
organic sulfide | [#6;!$(C=[O,S])][SX2][#6;!$(C=[O,S])] | an organic sulfide; a thioether
disulfide | [#6][SX2][SX2][#6] | an organic disulfide; a disulfide
sulfoxide | [#6][SX3](=O)[#6] | a sulfoxide
sulfone | [#6][SX4](=O)(=O)[#6] | a sulfone
sulfonamide | [#6][SX4](=O)(=O)[NX3] | a sulfonamide; a sulfonic acid amide
sulfonic acid | [#6][SX4](=O)(=O)[OX2H] | an organosulfonic acid; a sulfonic acid
imine | [#6][CX3](=[NX2][#6;!$(C=O)])[#6,#1] | an imine; a Schiff base
oxime | [CX3]=[NX2][OX2H] | an oxime; a hydroxyimino compound
hydrazone | [CX3]=[NX2][NX3] | a hydrazone; a hydrazone derivative
hydrazine | [NX3;!$(N=*);!$(N*=[N+])][NX3;!$(N=*);!$(N(=O))] | a hydrazine derivative; an N-N bonded compound
azo compound | [#6][NX2]=[NX2][#6] | an azo compound; a diazene
N-oxide | [n+][O-] | an N-oxide; an aromatic amine oxide
isothiocyanate | N=C=S | an isothiocyanate; a mustard oil
thiocyanate | [#6]SC#N | a thiocyanate
acyl halide | [CX3](=O)[F,Cl,Br,I] | an acyl halide; a carbonyl halide
anhydride | [CX3](=O)[OX2][CX3]=O | an acid anhydride; an anhydride
phosphate | [PX4](=O)([OX2])([OX2])[OX2] | an organic phosphate; a phosphoric acid ester
organophosphorus | [#6]P | an organophosphorus compound; a phosphorus-carbon bonded compound
organosilicon | [#6][Si] | an organosilicon compound; a silane derivative
organoboron | [#6]B | an organoboron compound
alkyne | C#C | an acetylenic compound; an alkyne
olefin | [C;!$(C=[O,N,S])]=[C;!$(C(=C)=C)] | an olefinic compound; an alkene
biphenyls | c1ccccc1-!@c1ccccc1 | a member of biphenyls; a biaryl
alpha-amino acid | [NX3H2,NX4H3+][CX4H1,CX4H2]C(=O)[OX2H,OX1-] | an alpha-amino acid; a 2-amino acid
glycoside | [C;R]1([OX2;!R][#6])[O;R][C;R][C;R][C;R][C;R]1 | a glycoside; an acetal of a pyranose
organofluorine | [#6]F | an organofluorine compound; a fluorinated organic compound
organochlorine | [#6]Cl | an organochlorine compound; a chlorinated organic compound
organobromine | [#6]Br | an organobromine compound; a brominated organic compound
organoiodine | [#6]I | an organoiodine compound; an iodinated organic compound
deuterated | [2H] | a deuterated compound; an isotopically labelled compound carrying deuterium
C-13 | [13C] | a (13)C-modified compound; an isotopologue with carbon-13
"""  # noqa: E501 (a table)
_ACIDS = ("", "monocarboxylic acid", "dicarboxylic acid", "tricarboxylic acid")
_ELEMENTS = {"F": "fluorine", "Cl": "chlorine", "Br": "bromine", "I": "iodine", "S": "sulfur"}
_ELEMENTS |= {"N": "nitrogen", "O": "oxygen", "C": "carbon"}
_IONS = {
    "[Na+]": ("sodium", "cation"), "[K+]": ("potassium", "cation"), "[Li+]": ("lithium", "cation"),
    "[NH4+]": ("ammonium", "cation"), "[Cl-]": ("chloride", "anion"), "[Br-]": ("bromide", "anion"),
    "[I-]": ("iodide", "anion"), "Cl": ("hydrogen chloride", "acid"),
    "Br": ("hydrogen bromide", "acid"), "I": ("hydrogen iodide", "acid"),
    "O": ("water", "solvent"),
}  # fmt: skip


class Fact(NamedTuple):
    """One claim: a canonical key, its kind, and the phrases that can state it."""

    key: str
    kind: str  # class, stereo, charge, salt, count, absence or size
    phrases: tuple[str, ...]


class Facts(NamedTuple):
    """All that a text may say of a molecule."""

    parent: Parent | None
    facts: tuple[Fact, ...]

    def keys(self) -> frozenset[str]:
        """Every claim that holds, those about the parent and its groups included."""
        return frozenset(f.key for f in self.facts) | parent_keys(self.parent)


class ClassRule(NamedTuple):
    key: str
    query: Chem.Mol
    elements: frozenset[int]  # atomic numbers without which the query can not match
    phrases: tuple[str, ...]


def _compile() -> list[ClassRule]:
    rules = []
    for line in _CLASSES.split("\n"):
        if line:
            key, smarts, text = (part.strip() for part in line.split("|"))
            query = Chem.MolFromSmarts(smarts)
            atoms = (a for a in query.GetAtoms() if "," not in a.GetSmarts())
            elements = frozenset(a.GetAtomicNum() for a in atoms)
            phrases = tuple(p.strip() for p in text.split(";"))
            rules.append(ClassRule(key, query, elements, phrases))
    return rules


_COMPILED = _compile()
_NUMBERS = "no one two three four five six seven eight nine ten eleven twelve"
NUMBER = tuple(_NUMBERS.split())


def number(n: int) -> str:
    return NUMBER[n] if n < len(NUMBER) else str(n)


def plural(n: int, noun: str) -> str:
    return noun if n == 1 else noun + "s"


def bare(name: str) -> str:
    """Letters only: "4-chlorobenzyl" -> "chlorobenzyl"."""
    return "".join(c for c in name if c.isalpha())


def grouped(parent: Parent) -> list[tuple[str, list[str]]]:
    """[("chloro", ["2", "6"]), ...]: where each kind of group sits; "" where it has no name."""
    where: dict[str, list[str]] = {}
    for locant, name in parent.groups:
        where.setdefault(name or "", []).append(locant)
    return [(name, sorted(where[name], key=locant_key)) for name in sorted(where)]


def parent_keys(parent: Parent | None) -> frozenset[str]:
    """The claims a sentence about the parent can make: its name, groups, positions, relations."""
    if parent is None:
        return frozenset()
    keys = {f"parent:{parent.name}", f"bare:{bare(parent.name)}"}
    for name, where in grouped(parent):
        keys |= {f"at:{name}:{','.join(where)}", f"has:{name}:{len(where)}"}
    places = sorted({locant for locant, _ in parent.groups}, key=locant_key)
    keys.add(f"places:{','.join(places)}")
    relation = benzene_relation(parent)
    return frozenset(keys | ({f"relation:{relation}"} if relation else set()))


def benzene_relation(parent: Parent) -> str:
    """ "ortho", "meta" or "para" for a benzene ring that carries exactly two groups, else ""."""
    if parent.name != "benzene" or len(parent.groups) != 2:
        return ""
    first, second = (int(locant) for locant, _ in parent.groups)
    return {1: "ortho", 2: "meta", 3: "para", 4: "meta", 5: "ortho"}[abs(first - second)]


def compute_facts(mol: Chem.Mol) -> Facts:
    """All facts of one sanitised molecule with assigned stereochemistry."""
    v = view(mol)
    parent = find_parent(v)
    facts = [
        *_class_facts(mol), *_ring_facts(v, parent), *_stereo_facts(mol, parent),
        *_charge_facts(mol), *_count_facts(mol), *_absences(mol),
    ]  # fmt: skip
    return Facts(parent, tuple(facts))


def _class_facts(mol: Chem.Mol) -> list[Fact]:
    facts = []
    present = {a.GetAtomicNum() for a in mol.GetAtoms()}
    for key, query, elements, phrases in _COMPILED:
        if not elements <= present:
            continue
        if key == "carboxylic acid":
            n = len(mol.GetSubstructMatches(query))
            if 0 < n < len(_ACIDS):
                groups = f"{number(n)} free carboxy {plural(n, 'group')}"
                words = (f"a {_ACIDS[n]}", f"an acid with {groups}")
                facts.append(Fact(f"class:{_ACIDS[n]}", "class", words))
        elif mol.HasSubstructMatch(query):
            facts.append(Fact(f"class:{key}", "class", phrases))
    return facts


def _ring_facts(v: View, parent: Parent | None) -> list[Fact]:
    """Named ring systems other than the parent, and the number of rings."""
    names = [s.name for s in v.systems if s.name]
    facts = []
    for name in sorted(set(names)):
        n = names.count(name)
        if n > 1:
            word = f"{name} {plural(n, 'unit')}"
            facts.append(Fact(f"rings:{name}={n}", "ring", (f"{number(n)} {word}", f"{n} {word}")))
        elif parent is None or name != parent.name:
            facts.append(Fact(f"ring:{name}", "ring", (f"a {name} ring", f"a {name} moiety")))
    for system in v.systems:
        if not system.name:
            facts.append(_unnamed(v, system.atoms))
    return facts


def _unnamed(v: View, atoms: frozenset[int]) -> Fact:
    symbols = [v.mol.GetAtomWithIdx(i).GetSymbol() for i in sorted(atoms)]
    hetero = sorted({s for s in symbols if s != "C"})
    inside = " and ".join(_ELEMENTS.get(s) or s for s in hetero) or "only carbon"
    phrases = (
        f"a {len(atoms)}-membered ring system containing {inside}",
        f"a ring skeleton of {len(atoms)} atoms with {inside}",
    )
    return Fact(f"skeleton:{len(atoms)}:{inside}", "ring", phrases)


def _stereo_facts(mol: Chem.Mol, parent: Parent | None) -> list[Fact]:
    codes = {a.GetIdx(): a.GetProp("_CIPCode") for a in mol.GetAtoms() if a.HasProp("_CIPCode")}
    locants = parent.locants if parent else {}
    facts = []
    if codes and len(codes) <= 4 and all(i in locants for i in codes):
        marks = sorted(((locants[i], c) for i, c in codes.items()), key=lambda m: locant_key(m[0]))
        label = ",".join(f"{where}{code}" for where, code in marks)
        phrases = (f"has ({label}) configuration", f"is the ({label})-stereoisomer")
        facts.append(Fact(f"stereo:{label}", "stereo", phrases))
    elif codes:
        facts.append(_centres(list(codes.values())))
    for code, word in (("E", "trans"), ("Z", "cis")):
        kind = {"E": Chem.BondStereo.STEREOE, "Z": Chem.BondStereo.STEREOZ}[code]
        n = sum(b.GetStereo() == kind for b in mol.GetBonds())
        if n:
            bonds = f"double {plural(n, 'bond')}"
            phrases = (
                f"has {number(n)} {bonds} of {code} configuration",
                f"contains {number(n)} ({code})-configured {bonds}",
                f"shows {code} ({word}-like) geometry at {number(n)} {bonds}",
            )
            facts.append(Fact(f"geometry:{code}={n}", "stereo", phrases))
    return facts


def _centres(codes: list[str]) -> Fact:
    r, s = codes.count("R"), codes.count("S")
    if not r or not s:
        code, n = ("R", r) if r else ("S", s)
        centres = plural(n, "stereocentre")
        phrases = (
            f"has {number(n)} {centres} of {code} configuration",
            f"is {code}-configured at {number(n)} {centres}",
        )
    else:
        phrases = (
            f"has {number(r)} R and {number(s)} S {plural(s, 'stereocentre')}",
            f"contains {number(r + s)} stereocentres, {number(r)} of them R and {number(s)} S",
        )
    return Fact(f"centres:R={r},S={s}", "stereo", phrases)


def _charged(mol: Chem.Mol) -> tuple[int, int]:
    """Positive and negative atoms, those of nitro groups, N-oxides and the like left out."""
    plus = minus = 0
    for atom in mol.GetAtoms():
        charge = atom.GetFormalCharge()
        if charge and not any(n.GetFormalCharge() * charge < 0 for n in atom.GetNeighbors()):
            plus, minus = plus + (charge > 0), minus + (charge < 0)
    return plus, minus


def _charge_facts(mol: Chem.Mol) -> list[Fact]:
    net = Chem.GetFormalCharge(mol)
    pieces = Chem.MolToSmiles(mol).split(".")
    facts = []
    plus, minus = _charged(mol)
    if net:
        word = "cation" if net > 0 else "anion"
        signed = f"{abs(net)}{'+' if net > 0 else '-'}"
        phrases = (f"is a {word} of charge {signed}", f"carries a net charge of {signed}")
        facts.append(Fact(f"charge:{net}", "charge", phrases))
    elif plus and minus and len(pieces) == 1:
        phrases = ("is a zwitterion", "is an inner salt with no net charge")
        facts.append(Fact("zwitterion", "charge", phrases))
    for piece in sorted(set(pieces)):
        n = pieces.count(piece)
        if len(pieces) > n and piece in _IONS:
            facts.append(_ion(piece, n))
    return facts


def _ion(piece: str, n: int) -> Fact:
    name, kind = _IONS[piece]
    times = f"{number(n)} " if n > 1 else ""
    phrases = {
        "cation": (
            f"is a {name} salt",
            f"is paired with {times or 'a '}{name} {plural(n, 'cation')}",
        ),
        "anion": (f"is a {name} salt", f"has {times or 'a '}{name} {plural(n, 'counterion')}"),
        "acid": (
            f"is a {name.replace('hydrogen ', 'hydro')} salt",
            f"is combined with {number(n)} {plural(n, 'equivalent')} of {name}",
        ),
        "solvent": (
            "is a hydrate",
            f"crystallises with {number(n)} {plural(n, 'molecule')} of {name}",
        ),
    }[kind]
    return Fact(f"ion:{name}", "salt", phrases)


def _count_facts(mol: Chem.Mol) -> list[Fact]:
    symbols = [a.GetSymbol() for a in mol.GetAtoms()]
    facts = []
    for symbol in ("F", "Cl", "Br", "I", "S", "N", "O"):
        n, name = symbols.count(symbol), _ELEMENTS[symbol]
        if n:
            atoms = plural(n, "atom")
            phrases = (f"{number(n)} {name} {atoms}", f"{n} {name} {atoms}")
            facts.append(Fact(f"atoms:{symbol}={n}", "count", phrases))
    # Not NumRings: that counts the four equal rings of adamantane, which has three.
    rings = mol.GetNumBonds() - mol.GetNumAtoms() + len(Chem.GetMolFrags(mol))
    aromatic = CalcNumAromaticRings(mol)
    if rings:
        phrases = (
            f"{number(rings)} {plural(rings, 'ring')}",
            f"{rings} {plural(rings, 'ring')} in all",
        )
        facts.append(Fact(f"rings={rings}", "count", phrases))
        word = f"aromatic {plural(aromatic, 'ring')}"
        facts.append(Fact(f"aromatic={aromatic}", "count", (f"{number(aromatic)} {word}",)))
    heavy, carbons = mol.GetNumHeavyAtoms(), symbols.count("C")
    size = (f"{carbons} carbon {plural(carbons, 'atom')}",)
    facts.append(Fact(f"atoms:C={carbons}", "size", size))
    facts.append(Fact(f"heavy={heavy}", "size", (f"{heavy} non-hydrogen {plural(heavy, 'atom')}",)))
    formula = CalcMolFormula(mol)
    facts.append(Fact(f"formula:{formula}", "formula", (f"has the formula {formula}",)))
    return facts


def _absences(mol: Chem.Mol) -> list[Fact]:
    symbols = {a.GetSymbol() for a in mol.GetAtoms()}
    absent = []
    if not symbols & {"F", "Cl", "Br", "I"}:
        absent.append(("halogen", "halogens"))
    absent += [(s, _ELEMENTS[s]) for s in ("N", "O", "S") if s not in symbols]
    if not mol.GetRingInfo().NumRings():
        absent.append(("ring", "rings"))
    if not any(a.GetIsAromatic() for a in mol.GetAtoms()):
        absent.append(("aromatic", "aromatic rings"))
    if not any(a.HasProp("_CIPCode") for a in mol.GetAtoms()):
        absent.append(("stereocentre", "assigned stereocentres"))
    return [Fact(f"no:{key}", "absence", (phrase,)) for key, phrase in absent]
