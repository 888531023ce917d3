"""Short queries cut from the texts of a split: first sentences, and one clause of each text.

In: pairs. Out: a `Pool` whose texts only ask, with every molecule whose text says the same as a
right answer. Which clause of a text asks is fixed in clauses_SPLIT.tsv, which
tools/make/clauses.py writes (docs/data.md#short-queries).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources

import numpy as np

from tmr_jax.data.features.clauses import clauses, sentences
from tmr_jax.types import Pair, Pool, UserError

SEED = 0  # of the sample
MOST_HOLDERS = 10  # molecules that a clause may hold for; one of more says too little to ask
ARTICLES = ("a ", "an ", "the ")


def first_sentences(protocol: str, pairs: Sequence[Pair]) -> Pool:
    """The pool of all molecules, which the first sentence of each text asks for."""
    asked = [sentences(pair.text)[0] for pair in pairs]
    return _asked(protocol, pairs, list(enumerate(asked)), holders([one] for one in asked))


def sampled_clauses(protocol: str, pairs: Sequence[Pair], split: str) -> Pool:
    """The pool of all molecules, which one clause of each text asks for, as sampled for the split.

    Errors: UserError if the texts or their clauses are not those that the sample was drawn from.
    """
    text = resources.files("tmr_jax.data").joinpath(f"clauses_{split}.tsv").read_text("utf-8")
    head, *lines = text.splitlines()
    sample = {cid: int(number) for cid, number in (line.split("\t") for line in lines)}
    said = [clauses(pair.text) for pair in pairs]
    asked = [
        (i, said[i][sample[pair.id]])
        for i, pair in enumerate(pairs)
        if sample.get(pair.id, len(said[i])) < len(said[i])
    ]
    if (found := digest(clause for _, clause in asked)) != head.removeprefix("# "):
        raise UserError(
            f"expected the {len(sample):,} clauses of {protocol}; got others ({len(asked):,}, "
            f"SHA-256 {found}); restore the {split} texts of ChEBI-20 or this version of tmr_jax"
        )
    return _asked(protocol, pairs, asked, holders(said))


def draw(pairs: Sequence[Pair], seed: int = SEED) -> str:
    """The content of clauses_SPLIT.tsv: the SHA-256 of the clauses, then CID and clause number.

    A text is left out if each of its clauses holds for more than `MOST_HOLDERS` molecules.
    """
    said = [clauses(pair.text) for pair in pairs]
    held = holders(said)
    lines, asked = [], []
    for pair, of_text in zip(pairs, said, strict=True):
        rare = [i for i, clause in enumerate(of_text) if len(held[key(clause)]) <= MOST_HOLDERS]
        if rare:
            number = rare[int(digest([f"{seed}:{pair.id}"]), 16) % len(rare)]
            lines.append(f"{pair.id}\t{number}")
            asked.append(of_text[number])
    return "\n".join([f"# {digest(asked)}", *lines]) + "\n"


def holders(said: Iterable[list[str]]) -> dict[str, list[int]]:
    """The texts that say each thing, by the key of the words."""
    found: dict[str, list[int]] = {}
    for i, of_text in enumerate(said):
        for name in {key(clause) for clause in of_text}:
            found.setdefault(name, []).append(i)
    return found


def key(clause: str) -> str:
    """Equal for clauses that differ in capitals, in a first article or in a last dot only."""
    low = clause.casefold().rstrip(".")
    return next((low.removeprefix(article) for article in ARTICLES if low.startswith(article)), low)


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _asked(
    protocol: str,
    pairs: Sequence[Pair],
    asked: Sequence[tuple[int, str]],
    held: dict[str, list[int]],
) -> Pool:
    """The pool of the molecules of all pairs; `asked`: the pair that asks, and its words."""
    target = np.array([i for i, _ in asked], np.int64)
    right = [held[key(words)] for _, words in asked]
    further = np.repeat(target[:, None], max(map(len, right), default=1), 1)
    for row, places in zip(further, right, strict=True):
        row[: len(places)] = places
    texts, smiles = tuple(words for _, words in asked), tuple(pair.smiles for pair in pairs)
    return Pool(protocol, texts, smiles, target, np.full(len(smiles), -1, np.int64), further)
