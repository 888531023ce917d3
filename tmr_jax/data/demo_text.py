"""Words for facts: a short description in the language of ChEBI, varied by a random stream.

In: the `Facts` of a molecule and a random stream. Out: the text and the keys of the claims that it
makes. Which facts are told, their order and their wording vary; whether they hold does not. This is
GENERATED TEXT: scores on it say that the machinery works, not how well real descriptions are served.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tmr_jax.data.demo_facts import Fact, Facts, benzene_relation, grouped, number, plural
from tmr_jax.data.demo_names import Parent, bracket, join_prefixes

LABEL = "generated text"
WORDS = 58  # optional sentences are added while the text stays below this
_SYNONYM = {
    "hydroxy": ("hydroxyl",), "amino": ("NH2",), "oxo": ("keto", "carbonyl oxygen"),
    "methoxy": ("methyl ether",), "cyano": ("nitrile",), "carboxy": ("carboxylic acid",),
    "carbamoyl": ("primary amide",), "chloro": ("chlorine",), "bromo": ("bromine",),
    "fluoro": ("fluorine",), "iodo": ("iodine",), "sulfanyl": ("thiol",), "formyl": ("aldehyde",),
    "acetyl": ("methyl ketone",), "propan-2-yl": ("isopropyl",), "methoxycarbonyl": ("methyl ester",),
}  # fmt: skip
_MULTIPLE = {2: "di", 3: "tri", 4: "tetra", 5: "penta", 6: "hexa"}


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
    """ "oxane" -> "an oxane", by the first letter that is spoken."""
    first = phrase.lstrip("(0123456789,'-[] ")[:1].lower()
    return f"an {phrase}" if first in "aeio" or phrase.startswith("8") else f"a {phrase}"


def listing(parts: list[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def describe(facts: Facts, draw: Draw) -> Described:
    """One description of 20 to 65 words; `claims` are the keys of every fact that it states."""
    classes = draw.shuffled([f for f in facts.facts if f.kind == "class"])
    lead, claims = _lead(facts, classes, draw)
    kept = set(claims)
    sentences: list[str] = []
    members = [f for f in classes if f.key not in kept][: 2 + draw.below(3)]
    told = _by_kind(facts, "stereo") + _by_kind(facts, "charge") + _by_kind(facts, "salt")
    for fact in told:
        sentences.append(f"{_subject(draw)} {draw.pick(fact.phrases)}.")
        kept.add(fact.key)
    if members:
        sentences.append(_membership([draw.pick(f.phrases) for f in members], draw))
        kept |= {f.key for f in members}
    rings = [f for f in _by_kind(facts, "ring") if f.key not in kept]
    if rings:
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
    wanted = (4 if vague else 1) + draw.below(3)
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
    if classes and draw.chance(0.75):
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
    return f"{opening} {body}.", [*claims, f"parent:{parent.name}", *stated]


def _parent_phrase(parent: Parent, draw: Draw) -> tuple[str, list[str]]:
    groups = grouped(parent)
    title = _title(parent)
    if not groups:
        return draw.pick((title, f"{title} without further substituents")), []
    relation = benzene_relation(parent)
    if relation and all(name for name, _ in groups) and draw.chance(0.35):
        return _relational(groups, relation, draw)
    named = [(locant, name) for locant, name in parent.groups if name]
    where = [f"at:{name}:{','.join(locants)}" for name, locants in groups]
    prefix = join_prefixes(named)
    if parent.is_ring and len(named) == len(parent.groups) <= 4 and len(prefix) < 50:
        if draw.chance(0.2) and not parent.name[0].isdigit() and parent.name != "steroid":
            return f"{prefix}{parent.name}", where
    vague = draw.chance(0.12)
    phrases = [_group_phrase(name, locants, parent, vague, draw) for name, locants in groups]
    carrying = draw.pick(
        ("carrying", "substituted by", "bearing", "with", "which is substituted by", "that carries")
    )
    if vague:
        where = [f"has:{name}:{len(locants)}" for name, locants in groups]
    return f"{title} {carrying} {listing(draw.shuffled(phrases))}", where


def _title(parent: Parent) -> str:
    if parent.name == "steroid":
        return "a steroid nucleus"
    return parent.name


def _relational(
    groups: list[tuple[str, list[str]]], relation: str, draw: Draw
) -> tuple[str, list[str]]:
    names = [name for name, locants in groups for _ in locants]
    claims = [f"relation:{relation}", *(f"has:{n}:{len(w)}" for n, w in groups)]
    first, second = draw.shuffled([_synonym(n, draw) for n in names])
    if len(groups) == 1:
        return f"benzene with two {names[0]} groups {relation} to each other", claims
    return draw.pick(
        (
            f"benzene in which {article(first)} group is {relation} to {article(second)} group",
            f"a benzene ring with {first} and {second} substituents in a {relation} relationship",
            f"{relation}-disubstituted benzene carrying {article(first)} and {article(second)} group",
        )
    ), claims


def _synonym(name: str, draw: Draw) -> str:
    return draw.pick((name, name, *_SYNONYM.get(name, ())))


def _group_phrase(name: str, where: list[str], parent: Parent, vague: bool, draw: Draw) -> str:
    n = len(where)
    if not name:
        return f"{number(n) if n > 1 else 'a'} larger {plural(n, 'substituent')}{_at(where, vague, draw)}"
    if n in _MULTIPLE and not vague and draw.chance(0.15) and name.isalpha():
        return f"{_MULTIPLE[n]}{name} substitution{_at(where, False, draw)}"
    word = _synonym(name, draw)
    noun = plural(n, draw.pick(("group", "group", "substituent")))
    count = article("")[:0] + (number(n) if draw.chance(0.7) else str(n)) if n > 1 else ""
    lead = f"{count} {word}" if count else article(word)
    return f"{lead} {noun}{_at(where, vague, draw)}"


def _at(where: list[str], vague: bool, draw: Draw) -> str:
    if vague:
        return ""
    distinct = list(dict.fromkeys(where))
    positions = plural(len(distinct), "position")
    if len(distinct) < len(where) or draw.chance(0.7):
        return f" at {positions} {listing(distinct)}"
    return draw.pick((f" on {positions} {listing(distinct)}", f" ({positions} {listing(distinct)})"))


__all__ = ["LABEL", "Described", "Draw", "bracket", "describe"]
