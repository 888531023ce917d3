"""Facts that a text states and a structure shows: charges, atoms, chains, stereo, groups, rings.

In: a text, or a molecule. Out: a number for each of `FACTS`: how many the text states (NaN: it says
nothing), or how many the molecule has. Neither side reads the other. facts.tsv declares most of
them: group, name, what texts in lower case call it, and SMARTS, apart by spaces, whose matches are
counted; what has no SMARTS, and `COMPUTED`, is read or counted by a function below. Its first rows
are the parts of names that stand for numbers, then what names of sugars begin with (sugars.py). A
"steroid 3alpha" is the four rings, atoms in the order 1 to 8, 14 to 17, 13, 12, 11, 9, 10, with the
mark on one of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rdkit import Chem, DataStructs, rdBase

from tmr_jax.data.features.clauses import sentences
from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.features.similarity import REMEMBERED
from tmr_jax.data.features.sugars import sugars
from tmr_jax.data.files import ARRAYS, CACHE_FROM, cache_key, cached
from tmr_jax.data.workers import track

TABLE = Path(__file__).with_suffix(".tsv")
ROWS = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()]


def _numbers(kind: str) -> dict[str, int]:
    return {name: int(number) for group, name, number, _ in ROWS if group == f"={kind}"}


# What "tri", "hexadec", "palmit" and "sesqui" say: numbers, and of the last three carbon atoms.
NUMBERS, ROOTS, TERPENES = map(_numbers, ("number", "chain", "terpene"))
ACIDS = {name: (int(n), int(doubles)) for group, name, n, doubles in ROWS if group == "=acid"}
SUGARS = {name: words for group, name, words, _ in ROWS if group == "=sugar"}
CHAINS, LONG = range(4, 35), 8  # lengths that are counted; from LONG on a name says how saturated
MACROCYCLE, MIRRORED = 12, "an enantiomer of"  # atoms; of a sentence on another molecule
STEREO = {"R centres": "R", "S centres": "S", "E bonds": "E", "Z bonds": "Z"}
COMPUTED = {
    **{f"chain {n}": "chain" for n in CHAINS},
    **dict.fromkeys(("double bonds", "carbons"), "chain"),
    **dict.fromkeys(("negative", "positive", "minus atoms", "plus atoms"), "charge"),
    **dict.fromkeys((*STEREO, "centres"), "stereo"),
    "mass number": "isotope",
}


class Fact(NamedTuple):
    group: str  # facts of a group leave an ablation together
    words: str  # regular expression
    smarts: str


FACTS = {row[1]: Fact(row[0], *row[2:]) for row in ROWS if row[0][0] != "="}
FACTS |= {name: Fact(group, "", "") for name, group in COMPUTED.items()}
FACTS |= {name: Fact("sugar", words, "") for name, words in SUGARS.items()}
for _hand in "DL":
    _named = {f"{_hand}-{name}": words for name, words in SUGARS.items()}
    _named[f"{_hand} sugar"] = "|".join(SUGARS.values())
    FACTS |= {
        n: Fact("handed", rf"(?<![a-z]){_hand.lower()}-(?:{w})", "") for n, w in _named.items()
    }
PLACE = {name: i for i, name in enumerate(FACTS)}


def _row(values: dict[str, float], otherwise: float) -> Float[np.ndarray, " F"]:
    row = np.full(len(FACTS), otherwise, np.float32)
    row[[PLACE[name] for name in values]] = list(values.values())
    return row


# Texts


def _any(names: dict) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_NUMBER = _any(NUMBERS)
_BEFORE = re.compile(rf"({_NUMBER})[- (\[]*$")
_POSITIONS = re.compile(
    r"[a-z]* ?(?:groups?|substituents?|residues?|atoms?|units?)?,? (?:located |attached )?"
    r"(?:at|to) (?:the )?(?:positions? |[cno]-?(?=\d))((?:[ ,]|and|[cno]?-?\d+[a-z]?'*)+)"
)
_CHAIN = re.compile(
    rf"(?<!cyclo)({_any(ROOTS)})(?:an|yl|a?(?:-[\dezrs,'()]+-)?({_NUMBER})?(en|yn))"
)
_ACID = re.compile(rf"({_any(ACIDS)})(?:o?yl|ic\b|ate\b|in\b)")
_SHORTHAND = re.compile(r"\b[a-z]*(\d\d):(\d)\b")
_DOUBLES = re.compile(rf"(\d|{_NUMBER}) double bonds?")
_CARBONS = re.compile(r"\bc(\d\d)-|\b(\d\d?) carbons?\b")
_TERPENE = re.compile(rf"({_any(TERPENES)})terp")
_LABELS = re.compile(
    r"(?<!\w)(?:\d+[a-z]?'*([RSEZ])(?!\w)|(?<=[(,])([RSEZ])(?=[,)])|([RS])(?=[- ]configuration))"
)
# "2-trans-", "9,13-di-cis-", "ditrans,octacis-", "polycis"
_CIS_TRANS = {
    mark: re.compile(rf"\b({_NUMBER})?-?{word}(?:-|,|\b(?= isomer))")
    for mark, word in (("E", "trans"), ("Z", "cis"))
}
_ELEMENTS = "|".join(Chem.GetPeriodicTable().GetElementName(z) for z in range(1, 119)).lower()
_MASS = re.compile(
    rf"\[(\d+)[a-z]{{1,2}}\]|\((\d+)\)[a-z]{{1,2}}\b|(?:{_ELEMENTS})-(\d+)\b"
    r"|relative atomic mass (\d+\.\d+)"
)
_LABELLED = re.compile("isotop|radio|nuclide|label|tracer|tomograph| atom ")
_ION = re.compile(
    rf"(?<![a-z])(?:oxo)?({_NUMBER})?(?:(an)|cat)ion\b|(?<![a-z])({_NUMBER})(?:(an)|cat)ionic"
    r"|(?:ammon|amin|az|pyridin|phosphon|guanidin)ium ion"
)
_CHARGE = re.compile(r"\((\d+)([+-])\)")
_CONJUGATE = re.compile(r"conjugate (acid|base) of (.*?)(?= and an? conjugate|[.;,](?:\s|$)|$)")
_PROTONS = re.compile(rf"(de)?protonation of (?:the )?({_NUMBER})?")

Say = Callable[[str, float], None]


@lru_cache(maxsize=REMEMBERED)
def text_facts(text: str) -> Float[np.ndarray, " F"]:
    """How many of each fact a text states, the largest of several numbers; NaN where it does not.

    Sentences on roles are skipped: they speak of other molecules.

    >>> float(text_facts("a dichloro alcohol")[PLACE["Cl"]])
    2.0
    """
    kept = [s for s in sentences(text) if "role as" not in s]
    said: dict[str, float] = {}

    def say(name: str, number: float) -> None:
        said[name] = max(number, said.get(name, 0))

    low = " ".join(s for s in kept if MIRRORED not in s).lower()
    for name, words in _words().items():
        _say_words(low, name, words, say)
    _say_chains(low, say)
    _say_mass(low, say)
    _say_charge([sentence.lower() for sentence in kept], say)
    for sentence in kept:
        _say_stereo(sentence, say)
    return _row(said, np.nan)


@cache
def _words() -> dict[str, re.Pattern]:
    return {name: re.compile(fact.words) for name, fact in FACTS.items() if fact.words}


def _say_words(text: str, name: str, words: re.Pattern, say: Say) -> None:
    """The numbers of one name add up: 2-hydroxy-N-(4-hydroxyphenyl)acetamide has two of them."""
    names: Counter[int] = Counter()
    for match in words.finditer(text):
        names[text.rfind(" ", 0, match.start())] += _number(text, match)
    if names:
        say(name, max(names.values()))


def _number(text: str, match: re.Match) -> int:
    """The prefix of a word ("dihydroxy"), or how many positions follow it."""
    before = _BEFORE.search(text[max(0, match.start() - 12) : match.start()])
    number = NUMBERS[before[1]] if before else 1
    after = _POSITIONS.match(text, match.end())
    return max(number, len(re.findall(r"\d+", after[1]))) if after else number


def _say_chains(text: str, say: Say) -> None:
    found = [(ROOTS[r], NUMBERS.get(n, 1) if d == "en" else 0) for r, n, d in _CHAIN.findall(text)]
    acids = [ACIDS[root] for root in _ACID.findall(text)]
    acids += [(int(length), int(doubles)) for length, doubles in _SHORTHAND.findall(text)]
    for length, doubles in (*found, *acids):
        if length in CHAINS:
            say(f"chain {length}", 1)
        if length >= LONG:
            say("double bonds", doubles)
    for number in _DOUBLES.findall(text):
        say("double bonds", NUMBERS.get(number) or int(number))
    for numbers in _CARBONS.findall(text):
        say("carbons", float("".join(numbers)))
    for kind in _TERPENE.findall(text):
        say("carbons", TERPENES[kind])


def _say_mass(text: str, say: Say) -> None:
    if _LABELLED.search(text):
        for numbers in _MASS.findall(text):
            say("mass number", round(float("".join(numbers))))


def _say_charge(sentences: list[str], say: Say) -> None:
    """The net charge, by the first that there is: a charge in the molecule's own name, an ion by
    another word, a conjugate acid or base. Of salts none: the charges of their parts cancel."""
    own = [s for s in sentences if not re.search("related to|derives|contains", s)]
    text = _CONJUGATE.sub("", " ".join(own))
    labels = [int(sign + number) for number, sign in _CHARGE.findall(text)]
    ions = [(-1 if m[2] or m[4] else 1) * NUMBERS.get(m[1] or m[3], 1) for m in _ION.finditer(text)]
    neutral = [0] if "zwitterion" in text else []
    pairs = _CONJUGATE.findall(" ".join(own))
    conjugates = [_conjugate(kind, name, text) for kind, name in pairs]
    found = labels or ions or neutral or conjugates
    if found and "salt" not in text:
        net = max(found, key=abs)
        say("negative", max(-net, 0))
        say("positive", max(net, 0))
    if neutral:
        say("minus atoms", 1)
        say("plus atoms", 1)


def _conjugate(kind: str, name: str, text: str) -> int:
    """The charge of the conjugate acid or base of a relative: that of an ion is neutral."""
    ion = r"-\)$|(?<!ph)ate$|oxide$" if kind == "acid" else r"\+\)$|ium$"
    if re.search(ion, name):
        return 0
    lost = [(1 if de else -1) * NUMBERS.get(n, 1) for de, n in _PROTONS.findall(text)]
    return 1 if kind == "acid" else -sum(lost) or -1


def _say_stereo(sentence: str, say: Say) -> None:
    mirrored = MIRRORED in sentence
    for token in re.sub(" configuration", "-configuration", sentence).split():
        marks = Counter(map("".join, _LABELS.findall(token)))
        for mark, words in _CIS_TRANS.items():
            marks[mark] = max(marks[mark], sum(NUMBERS.get(n, 1) for n in words.findall(token)))
        if mirrored:
            marks["R"], marks["S"] = marks["S"], marks["R"]
        for name, mark in STEREO.items():
            if marks[mark]:
                say(name, marks[mark])
        if centres := marks["R"] + marks["S"]:
            say("centres", centres)
    if "racem" in sentence:
        say("centres", 0)


# Molecules


@cache
def _patterns() -> list[tuple[str, Chem.Mol, DataStructs.ExplicitBitVect]]:
    """Patterns with fingerprints, whose bits every molecule that matches has, too.

    Alternatives of a fact stand apart, as RDKit reads no stereo marks inside of $().
    """
    patterns = [(n, Chem.MolFromSmarts(s)) for n, f in FACTS.items() for s in f.smarts.split()]
    return [(name, pattern, Chem.PatternFingerprint(pattern)) for name, pattern in patterns]


@lru_cache(maxsize=REMEMBERED)
def molecule_facts(smiles: str) -> Float[np.ndarray, " F"]:
    """How many of each fact a molecule has. Raises `BadMolecule` where the SMILES is refused.

    >>> float(molecule_facts("ClCCCl")[PLACE["Cl"]])
    2.0
    """
    mol = parse_smiles(smiles)
    bits = Chem.PatternFingerprint(mol)
    shown: dict[str, float] = {}
    for name, pattern, needed in _patterns():
        if DataStructs.AllProbeBitsMatch(needed, bits):
            matches = mol.GetSubstructMatches(pattern, useChirality=True)
            shown[name] = shown.get(name, 0) + len(matches)
    shown["peptide"] = shown.get("peptide", 0) and shown["peptide"] + 1  # residues, not links
    for count in (_count_atoms, _count_chains, _count_rings, sugars):
        shown |= count(mol)
    for anomer in ("alpha", "beta"):
        shown[f"{anomer} anomer"] = sum(shown.get(f"{anomer}-{hand}", 0) for hand in "DL")
    return _row(shown, 0)


def _count_atoms(mol: Chem.Mol) -> dict[str, float]:
    """Charges and stereo labels. A charge next to its opposite, as in nitro groups, is notation."""
    atoms = list(mol.GetAtoms())
    charged = [a for a in atoms if a.GetFormalCharge()]
    lone = [
        a.GetFormalCharge()
        for a in charged
        if all(a.GetFormalCharge() * b.GetFormalCharge() >= 0 for b in a.GetNeighbors())
    ]
    net = sum(a.GetFormalCharge() for a in charged)
    labels = Counter(a.GetProp("_CIPCode") for a in atoms if a.HasProp("_CIPCode"))
    bonds = Counter(b.GetStereo() for b in mol.GetBonds())
    return {
        "negative": max(-net, 0),
        "positive": max(net, 0),
        "minus atoms": sum(charge < 0 for charge in lone),
        "plus atoms": sum(charge > 0 for charge in lone),
        "counter-ions": len(Chem.GetMolFrags(mol)) - 1,
        "isotopes": sum(a.GetIsotope() > 0 for a in atoms),
        "mass number": max(a.GetIsotope() for a in atoms),
        "R centres": labels["R"],
        "S centres": labels["S"],
        "centres": labels["R"] + labels["S"],
        "E bonds": bonds[Chem.BondStereo.STEREOE],
        "Z bonds": bonds[Chem.BondStereo.STEREOZ],
    }


def _count_chains(mol: Chem.Mol) -> dict[str, float]:
    """The longest path of each tree of acyclic carbon atoms, and the double bonds of all trees."""
    rings, near = mol.GetRingInfo(), {}
    carbons = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 6]
    near: dict[int, list[int]] = {i: [] for i in carbons if not rings.NumAtomRings(i)}
    doubles = 0
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if a in near and b in near:
            near[a].append(b)
            near[b].append(a)
            doubles += bond.GetBondType() == Chem.BondType.DOUBLE
    lengths, left = Counter(), set(near)
    while left:
        tree = _walk(near, next(iter(left)))
        left -= tree.keys()
        lengths[1 + max(_walk(near, [*tree][-1]).values())] += 1
    shown: dict[str, float] = {f"chain {n}": lengths[n] for n in CHAINS}
    return shown | {"double bonds": doubles, "carbons": len(carbons)}


def _walk(near: dict[int, list[int]], start: int) -> dict[int, int]:
    """Distances from an atom, the nearest first."""
    found, front = {start: 0}, [start]
    for atom in front:
        for other in near[atom]:
            if other not in found:
                found[other] = found[atom] + 1
                front.append(other)
    return found


def _count_rings(mol: Chem.Mol) -> dict[str, float]:
    """Rings of the largest system of fused or bridged rings, and macrocycles."""
    systems: list[tuple[set[int], int]] = []
    rings = mol.GetRingInfo().AtomRings()
    for ring in map(set, rings):
        joined = [s for s in systems if len(s[0] & ring) > 1]
        systems = [s for s in systems if s not in joined]
        systems.append((ring.union(*(s[0] for s in joined)), 1 + sum(s[1] for s in joined)))
    return {
        "cycles": max((count for _, count in systems), default=0),
        "macrocycle": sum(len(ring) >= MACROCYCLE for ring in rings),
    }


# Many of them


def facts_of(
    one: Callable[[str], np.ndarray], items: Sequence[str], what: str
) -> Float[np.ndarray, "n F"]:
    """`text_facts` or `molecule_facts` of each item, equal ones once; many of them are cached.

    Raises `BadMolecule` where a SMILES is refused.
    """
    distinct = list(dict.fromkeys(items))
    shape = (len(distinct), len(FACTS))

    def compute() -> dict[str, np.ndarray]:
        rows = [one(item) for item in track(distinct, what, transient=True)]
        return {"rows": np.stack(rows) if rows else np.zeros(shape, np.float32)}

    if len(distinct) < CACHE_FROM:
        rows = compute()["rows"]
    else:
        paths = TABLE, Path(__file__), Path(__file__).with_name("sugars.py")
        code = [path.read_text("utf-8") for path in paths]
        key = cache_key("facts", [what, rdBase.rdkitVersion, *code], distinct)
        rows = cached(
            key, compute, lambda v: v.keys() == {"rows"} and v["rows"].shape == shape, ARRAYS
        )["rows"]
    place = {item: i for i, item in enumerate(distinct)}
    return rows[[place[item] for item in items]]
