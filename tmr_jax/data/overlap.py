"""Texts that say what a text of an evaluated molecule says, which no training may read.

In: a list of texts with their names, such as definitions of classes, and the texts and names of
the molecules in validation and test of ChEBI-20 and PCdes. Out: the rows that are none of those.
Pairs with a structure are kept apart by connectivity instead (docs/papers.md#leakage).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tmr_jax.data.features.text import normal_name

GRAM = 8  # words of a run that two texts share
NEAR = 0.5  # share of the runs of the shorter text from which on two texts say the same
EVALUATED = ("validation", "test")  # splits
SETS = frozenset(("cv", "ct", "pv", "pt"))  # flags: validation and test of ChEBI-20 and of PCdes


class Row(NamedTuple):
    id: str
    name: str  # of the class or molecule; may be empty
    text: str


def clean_of(
    rows: Iterable[Row], evaluated_texts: Iterable[str], evaluated_names: Iterable[str]
) -> tuple[list[Row], list[tuple[Row, str]]]:
    """The rows to train on, and the others with the reason: "text", "name" or "near text".

    Words are compared without case and punctuation, names as `normal_name` writes them. A text is
    near where it and an evaluated one share half of the runs of eight words that the shorter one
    has. A row of fewer words is near where an evaluated text holds all of it as one run.
    """
    texts = Texts(evaluated_texts)
    names = {normal_name(name) for name in evaluated_names} - {""}
    kept, dropped = [], []
    for row in rows:
        reason = "name" if normal_name(row.name) in names else ""
        reason = "text" if row.text in texts else reason
        if not reason and texts.overlap(row.text) >= NEAR:
            reason = "near text"
        if reason:
            dropped.append((row, reason))
        else:
            kept.append(row)
    return kept, dropped


class Texts:
    """Texts to compare others with."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._whole = dict.fromkeys(" ".join(words(text)) for text in texts)
        self._joined = "\n".join(f" {text} " for text in self._whole)
        self._runs: list[int] = []
        self._holders: dict[str, list[int]] = defaultdict(list)  # texts by the runs in them
        for number, text in enumerate(self._whole):
            runs = _runs(text.split())
            self._runs.append(len(runs))
            for run in runs:
                self._holders[run].append(number)

    def __contains__(self, text: str) -> bool:
        """Whether one of them has the same words."""
        return " ".join(words(text)) in self._whole

    def overlap(self, text: str) -> float:
        """Share of the runs of the shorter text that are in both, with the nearest text: 0 to 1."""
        runs = _runs(found := words(text))
        if not runs:
            return float(bool(found) and f" {' '.join(found)} " in self._joined)
        shared = Counter(number for run in runs for number in self._holders.get(run, ()))
        shares = (n / min(len(runs), self._runs[i]) for i, n in shared.items())
        return max(shares, default=0.0)


def digest(text: str) -> str:
    """Names the words of a text: 16 hexadecimal digits."""
    return hashlib.sha256(" ".join(words(text)).encode()).hexdigest()[:16]


def words(text: str) -> list[str]:
    """Letters and digits between all other characters, in lower case, without tags of HTML."""
    return re.findall(r"\w+", re.sub(r"</?[a-z]+>", "", text.lower()))


def _runs(found: list[str]) -> set[str]:
    """Every `GRAM` words in a row; none of a shorter text."""
    return {" ".join(found[i : i + GRAM]) for i in range(len(found) - GRAM + 1)}


# The evaluated molecules


def evaluated() -> tuple[list[str], list[str]]:
    """Texts and names of the evaluated molecules. Errors: MissingPart.

    Texts: validation and test of ChEBI-20 in MolT5's and in Text2Mol's wording and of PCdes, and
    the captions of flagged ChEBI terms. Names: those that open Text2Mol's texts, and of the terms.
    """
    from tmr_jax.data.datasets import chebi, chebi20

    named = [p.text for split in EVALUATED for p in chebi20.load_split("text2mol", split)]
    flagged = [term for term in chebi.terms() if SETS & set(term.eval_skeletons.split())]
    texts = [*pool_texts(), *(term.caption for term in flagged)]
    return texts, [*_opening_names(named), *(term.name for term in flagged)]


def pool_texts() -> list[str]:
    """Texts of validation and test of ChEBI-20, both wordings, and PCdes. Errors: MissingPart."""
    from tmr_jax.data.datasets import chebi20, pcdes

    wordings = ("molt5", "text2mol")
    texts = [p.text for w in wordings for s in EVALUATED for p in chebi20.load_split(w, s)]
    return texts + [p.text for s in EVALUATED for p in pcdes.load_split("file-order", s)[0]]


def _opening_names(texts: Iterable[str]) -> Iterator[str]:
    """What stands before the verb, without an article: "Caffeine is a trimethylxanthine"."""
    for text in texts:
        if match := re.match(r"(?:(?:an?|the) )?(.+?) (?:is|are) ", text, re.I):
            yield match[1]
