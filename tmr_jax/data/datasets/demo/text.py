"""Words for facts: a short description in the language of ChEBI, varied by a random stream.

In: the `Facts` of a molecule and a random stream. Out: the text and the keys of the claims that it
makes. Which facts are stated, their order and their wording vary; whether they hold does not. It is
GENERATED TEXT: scores on it say that the machinery works, not how well real texts are served.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tmr_jax.data.datasets.demo.facts import (
    Fact,
    Facts,
    bare,
    benzene_relation,
    grouped,
    number,
    plural,
)
from tmr_jax.data.datasets.demo.names import Parent, join_prefixes, locant_key, multiplier

LABEL = "generated text"
# How hard the text is. Clean words that each stand for one fact (class names above all) can be read
# by counting words; fused names can not, and real descriptions are full of them. Ridge regression
# from bags of words ranked 76 % of 1,000 texts first without fused names, 45 % with FUSED 0.8 and a
# class or two in every text, 17 % as set here (66 % from bags of word pieces, which see the parts).
FUSED = 0.97  # how often groups and parent are one word, where they can be
LONGEST_WORD = 64  # letters
LEAD_CLASS = 0.15  # how often the first sentence names a class
CLASSES = (0, 0, 0, 1)  # how many more classes are named, one drawn
RING_SENTENCE = 0.3  # how often other ring systems are named
WORDS = 58  # optional sentences are added while the text stays below this
_SYNONYM = {
    "hydroxy": ("hydroxyl",), "amino": ("NH2",), "oxo": ("keto", "carbonyl oxygen"),
    "methoxy": ("methyl ether",), "cyano": ("nitrile",), "carboxy": ("carboxylic acid",),
    "carbamoyl": ("primary amide",), "chloro": ("chlorine",), "bromo": ("bromine",),
    "fluoro": ("fluorine",), "iodo": ("iodine",), "sulfanyl": ("thiol",), "formyl": ("aldehyde",),
    "acetyl": ("methyl ketone",), "propan-2-yl": ("isopropyl",),
    "methoxycarbonyl": ("methyl ester",),
}  # fmt: skip
MOST_ALIKE = 6  # equal groups in one word


class Described(NamedTuple):
    text: str
    claims: frozenset[str]


class Draw:
    """Choices from one seeded stream; only `random.random`, whose values never change between
    Python versions, is drawn."""

    def __init__(self, seed: str) -> None:
        self._stream = random.Random(seed)

    def below(self, n: int) -> int:
        return int(self._stream.random() * n)

    def pick(self, options):
        return options[self.below(len(options))]

    def chance(self, p: float) -> bool:
        return self._stream.random() < p

    def shuffled(self, items) -> list:
        left, out = list(items), []
        while left:
            out.append(left.pop(self.below(len(left))))
        return out


def article(phrase: str) -> str:
    """The phrase with "a" or "an", by how it is spoken: "an 8-oxo", "a 2-oxo", "an NH2"."""
    spoken = phrase.lstrip("([")
    if spoken[:1].isdigit():
        eight = spoken.startswith("8") or spoken.startswith(("11-", "18-"))
        return f"an {phrase}" if eight else f"a {phrase}"
    vowel = spoken[:1].lower() in "aeio" or spoken.startswith(("N-", "NH"))
    return f"an {phrase}" if vowel else f"a {phrase}"


def listing(parts: list[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def describe(facts: Facts, draw: Draw) -> Described:
    """One description of 20 to 65 words; `claims` are the keys of every fact that it states."""
    classes = draw.shuffled([f for f in facts.facts if f.kind == "class"])
    lead, claims = _lead(facts, classes, draw)
    kept = set(claims)
    sentences: list[str] = []
    members = [f for f in classes if f.key not in kept][: draw.pick(CLASSES)]
    told = _by_kind(facts, "stereo") + _by_kind(facts, "charge") + _by_kind(facts, "salt")
    for fact in told:
        sentences.append(f"{_subject(draw)} {draw.pick(fact.phrases)}.")
        kept.add(fact.key)
    if members:
        sentences.append(_membership([draw.pick(f.phrases) for f in members], draw))
        kept |= {f.key for f in members}
    rings = [f for f in _by_kind(facts, "ring") if f.key not in kept]
    if rings and draw.chance(RING_SENTENCE):
        phrases = [article_once(draw.pick(f.phrases)) for f in rings[:4]]
        verb = draw.pick(("contains", "includes", "also features", "incorporates"))
        sentences.append(f"{_subject(draw)} {verb} {listing(phrases)}.")
        kept |= {f.key for f in rings[:4]}
    text = " ".join([lead, *draw.shuffled(sentences)])
    return _pad(text, kept, facts, draw)


def article_once(phrase: str) -> str:
    """Mends "a indole ring" to "an indole ring"."""
    return article(phrase[2:]) if phrase.startswith("a ") else phrase


def _pad(text: str, kept: set[str], facts: Facts, draw: Draw) -> Described:
    """Adds counts, absences or a formula while there is room; vague leads get more of them."""
    vague = facts.parent is None or any(name is None for _, name in facts.parent.groups)
    wanted = (4 if vague else 2) + draw.below(3)
    extra = [f for f in facts.facts if f.kind in ("count", "size", "absence") and f.key not in kept]
    chosen = draw.shuffled(extra)[:wanted]
    present = [f for f in chosen if f.kind != "absence"]
    absent = [f for f in chosen if f.kind == "absence"]
    sentences = []
    if present:
        verb = draw.pick(("has", "contains", "comprises", "possesses"))
        phrases = listing([draw.pick(f.phrases) for f in present])
        sentences.append((f"{_subject(draw)} {verb} {phrases}.", present))
    if absent:
        sentences.append((_absence([f.phrases[0] for f in absent], draw), absent))
    if draw.chance(0.3 if vague else 0.06):
        formula = _by_kind(facts, "formula")
        sentences.append((f"{_subject(draw)} {formula[0].phrases[0]}.", formula))
    for sentence, stated in sentences:
        if len(text.split()) + len(sentence.split()) <= WORDS:
            text += " " + sentence
            kept |= {f.key for f in stated}
    return Described(text, frozenset(kept))


def _by_kind(facts: Facts, kind: str) -> list[Fact]:
    return [f for f in facts.facts if f.kind == kind]


def _subject(draw: Draw) -> str:
    return draw.pick(("It", "It", "The compound", "The structure"))


def _membership(phrases: list[str], draw: Draw) -> str:
    opening = draw.pick(("It is", "It is", "The compound is", "It can be classed as"))
    return f"{opening} {listing(phrases)}."


def _absence(phrases: list[str], draw: Draw) -> str:
    if len(phrases) == 2 and draw.chance(0.5):
        return f"It contains neither {phrases[0]} nor {phrases[1]}."
    verb = draw.pick(("lacks", "has no", "is free of", "does not contain"))
    return f"{_subject(draw)} {verb} {listing(phrases, 'or')}."


def _lead(facts: Facts, classes: list[Fact], draw: Draw) -> tuple[str, list[str]]:
    """The first sentence: a class and the parent with its groups."""
    parent = facts.parent
    kind, claims = "an organic compound", []
    if classes and draw.chance(LEAD_CLASS):
        kind, claims = draw.pick(classes[0].phrases), [classes[0].key]
    if parent is None:
        rings = _by_kind(facts, "ring")
        if not rings:
            return f"The molecule is {kind}.", claims
        phrases = listing([article_once(draw.pick(f.phrases)) for f in rings[:3]])
        verb = draw.pick(("built on", "based on", "that contains"))
        return f"The molecule is {kind} {verb} {phrases}.", [*claims, *(f.key for f in rings[:3])]
    body, stated = _parent_phrase(parent, draw)
    opening = f"The molecule is {kind} that is" if claims else "The molecule is"
    return f"{opening} {body}.", [*claims, *stated]


def _parent_phrase(parent: Parent, draw: Draw) -> tuple[str, list[str]]:
    """The parent with its groups, in one of four styles, and the claims made by it."""
    groups, own = grouped(parent), f"parent:{parent.name}"
    if not groups:
        return _title(parent), [own]
    relation = benzene_relation(parent)
    if relation and all(name for name, _ in groups) and draw.chance(0.15):
        return _relational(groups, relation, draw)
    if draw.chance(FUSED):
        fused = _fused(parent, groups, draw)
        if fused:
            return fused
    named = [(locant, name) for locant, name in parent.groups if name]
    where = [f"at:{name}:{','.join(locants)}" for name, locants in groups]
    prefix = join_prefixes(named)
    whole = parent.is_ring and len(named) == len(parent.groups) <= 4 and len(prefix) < 50
    plain = not parent.name[0].isdigit() and parent.name != "steroid"
    if whole and plain and draw.chance(0.2):
        return f"{prefix}{parent.name}", [own, *where]
    vague = draw.chance(0.3)
    phrases = [_group_phrase(name, locants, parent, vague, draw) for name, locants in groups]
    carrying = draw.pick(
        ("carrying", "substituted by", "bearing", "with", "which is substituted by", "that carries")
    )
    if vague:
        where = [f"has:{name}:{len(locants)}" for name, locants in groups]
    return f"{_title(parent)} {carrying} {listing(draw.shuffled(phrases))}", [own, *where]


def _fused(
    parent: Parent, groups: list[tuple[str, list[str]]], draw: Draw
) -> tuple[str, list[str]] | None:
    """One word as ChEBI's class names have it: "a chloronitropyridine"; None where too long.

    Such words are many and rare, as names are in real descriptions: their parts carry the meaning.
    """
    named = [(name, where) for name, where in groups if name]
    if parent.name == "steroid" or not named or any(len(w) > MOST_ALIKE for _, w in named):
        return None
    words = [multiplier(name, len(where)) + bare(name) for name, where in named]
    word = "".join(draw.shuffled(words)) + bare(parent.name)
    if len(word) > LONGEST_WORD or " " in parent.name:
        return None
    claims = [f"bare:{bare(parent.name)}", *(f"has:{name}:{len(w)}" for name, w in named)]
    open_end = "substituted " if len(named) < len(groups) else ""
    places = sorted({locant for locant, _ in parent.groups}, key=locant_key)
    body = draw.pick(
        (
            article(open_end + word),
            f"one of the {open_end}{word}s",
            f"a member of {open_end}{word}s",
        )
    )
    if draw.chance(0.7):
        claims.append(f"places:{','.join(places)}")
        body += f" substituted at {plural(len(places), 'position')} {listing(places)}"
    return body, claims


def _title(parent: Parent) -> str:
    if parent.name == "steroid":
        return "a steroid nucleus"
    return parent.name


def _relational(
    groups: list[tuple[str, list[str]]], relation: str, draw: Draw
) -> tuple[str, list[str]]:
    names = [name for name, locants in groups for _ in locants]
    claims = ["parent:benzene", f"relation:{relation}", *(f"has:{n}:{len(w)}" for n, w in groups)]
    first, second = draw.shuffled([_synonym(n, draw) for n in names])
    if len(groups) == 1:
        return f"benzene with two {names[0]} groups {relation} to each other", claims
    return draw.pick(
        (
            f"benzene in which {article(first)} group is {relation} to {article(second)} group",
            f"a benzene ring with {first} and {second} substituents in a {relation} relationship",
            f"{relation}-disubstituted benzene with {article(first)} and {article(second)} group",
        )
    ), claims


def _synonym(name: str, draw: Draw) -> str:
    return draw.pick((name, name, *_SYNONYM.get(name, ())))


def _group_phrase(name: str, where: list[str], parent: Parent, vague: bool, draw: Draw) -> str:
    n = len(where)
    if not name:
        count = number(n) if n > 1 else "a"
        return f"{count} larger {plural(n, 'substituent')}{_at(where, vague, draw)}"
    if 1 < n <= MOST_ALIKE and not vague and draw.chance(0.15) and name.isalpha():
        return f"{multiplier(name, n)}{name} substitution{_at(where, False, draw)}"
    word = _synonym(name, draw)
    noun = plural(n, draw.pick(("group", "group", "substituent")))
    count = (number(n) if draw.chance(0.7) else str(n)) if n > 1 else ""
    lead = f"{count} {word}" if count else article(word)
    return f"{lead} {noun}{_at(where, vague, draw)}"


def _at(where: list[str], vague: bool, draw: Draw) -> str:
    if vague:
        return ""
    distinct = list(dict.fromkeys(where))
    positions = plural(len(distinct), "position")
    if len(distinct) < len(where) or draw.chance(0.7):
        return f" at {positions} {listing(distinct)}"
    return draw.pick(
        (f" on {positions} {listing(distinct)}", f" ({positions} {listing(distinct)})")
    )
