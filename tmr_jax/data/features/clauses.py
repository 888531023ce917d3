"""A description taken apart into what people type: sentences, and clauses that stand alone.

In: a description as ChEBI-20, PCdes or PubChem have it. Out: strings that are queries of their own,
for evaluation and for training (docs/data.md#short-queries). A dot or a comma inside of a name, a
species, an enzyme number or brackets divides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Before a dot that ends no sentence, whatever follows: sp., Sacc., e.g., b.p., U.S.
_SHORT = r"\b(?:spp?|subsp|var|Sacc|cf|ca|al|vs|eq|Fig|No|St|Dr|Med|Chem|approx|[A-Za-z]\.[A-Za-z])"
_START = r"(?:It|The|This|These|Its)\b"
_ENDS = re.compile(
    rf"""
    (?P<short>{_SHORT})\.\s+(?!{_START})    # found first, and passed over
    | \.\s+(?={_START}|[A-Z(]|its?\b|these\b)
    | (?<=[a-z)\]])\.\s+(?=\d)              # "group. 2-Hydroxyestradiol is", not "spiro[4. 5]"
    | (?<=[a-z)\]])\.(?=[A-Z][a-z]*\s|\d[\w,'-]*-[A-Za-z])  # "acid.A drug", "acid.2-Methylbutanal is"
    | (?<=[^\s.;,])\s+(?=It\ (?:is|has|derives|contains)\s)  # "at pH 7.3 It is a conjugate base"
    """,
    re.X,
)
_APART = re.compile(r";\s+")
_SUBJECT = re.compile(
    r"(?:The molecule|This (?:molecule|compound)|It|it)\s+"
    r"(?:(?:is|are|was|were|(?:has|have) been)\s+|has (?:a )?roles? as\s+(?=an?\s)|(?=[a-z]+s\s))"
)
_MEMBER = re.compile(r"(?:an?\s|any\s)?member of (?:the class of\s+)?")
_ITEM = re.compile(r",?\s+and\s+(?=an?\s)|,\s+(?=an?\s)")
# One relation may have several items, and each is said with it.
_RELATION = re.compile(
    r"(?:derives from|contains|an? (?:conjugate (?:acid|base)|enantiomer|tautomer) of)\s+(?=an?\s)"
)
# Where the class of a molecule ends and its details begin. The details stand alone after "that is"
# and as a participle; after any other of these words only with the class.
_DETAIL = re.compile(
    r",?\s+(?:(?P<drop>(?:that|which)\s+(?:is|are)\s+)"
    r"|(?=(?:isolated|obtained|derived|formed|resulting|arising|produced|found|used|consisting"
    r"|composed|comprising|containing|having|bearing|carrying|substituted)\s)"
    r"|(?P<keep>(?:in|of|by|at|to|from)\s+which\s|where(?:in|by)?\s|whose\s|with\s|that\s|which\s))"
)


def sentences(text: str) -> list[str]:
    """The sentences of a description, without what is between them; at least one if it has text.

    >>> sentences("The molecule is a sp. X toxin from E. coli. It has a role as a toxin.")
    ['The molecule is a sp. X toxin from E. coli.', 'It has a role as a toxin.']
    """
    found, start = [], 0
    for match in _outside(text, _ENDS):
        if match["short"]:
            continue
        found.append(text[start : match.start() + (text[match.start()] == ".")])
        start = match.end()
    return [part.strip() for part in (*found, text[start:]) if part.strip(" .")]


def clauses(text: str) -> list[str]:
    """What a description says, one fact each, without the words that join them; no clause twice.

    >>> clauses("The molecule is a steroid that is pregnane. It has a role as a toxin and a drug.")
    ['a steroid', 'pregnane', 'a toxin', 'a drug']
    >>> clauses("It derives from a uracil and an acetic acid.")
    ['derives from a uracil', 'derives from an acetic acid']
    """
    found = (c.strip(" .,;") for s in sentences(text) for c in _of_sentence(s))
    return list(dict.fromkeys(clause for clause in found if clause))


def _of_sentence(sentence: str) -> Iterator[str]:
    for part in _divided(sentence, _APART):
        subject = _SUBJECT.match(part)
        yield from _of_predicate(part[subject.end() :]) if subject else [part]


def _of_predicate(said: str) -> Iterator[str]:
    """The clauses of what follows "The molecule is" or "It"."""
    relation = _RELATION.match(said)
    detail = None if relation else next(_outside(said, _DETAIL), None)
    for item in _divided(said[: detail.start()] if detail else said, _ITEM):
        again = relation and item is not said and not _RELATION.match(item)
        yield relation[0] + item if relation and again else _MEMBER.sub("", item, count=1)
    if detail:
        yield said if detail["keep"] else said[detail.end() :]


def _divided(text: str, between: re.Pattern[str]) -> Iterator[str]:
    """The parts of a text between the matches that are outside of brackets."""
    start = 0
    for match in _outside(text, between):
        yield text[start : match.start()]
        start = match.end()
    yield text[start:]


def _outside(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    return (m for m in pattern.finditer(text) if not _in_brackets(text, m.start()))


def _in_brackets(text: str, place: int) -> bool:
    """Whether a bracket is open there; names with a bracket too many count as text."""
    opened = text.count("(", 0, place) - text.count(")", 0, place)
    return opened > 0 and text.count("(") == text.count(")")
