"""Queries for the report: hits drawn by the seed, and misses from near to far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.protocols import PAIR
from tmr_jax.eval.rank import top
from tmr_jax.eval.scores import Score
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool

SHOWN = 5  # candidates drawn for an example of the report
EXAMPLES = 3  # hits, and as many misses, of each direction


class Candidate(NamedTuple):
    content: str  # a SMILES or a text
    score: float
    right: bool


class Example(NamedTuple):
    """One query with its right answer and the best scored candidates."""

    direction: str  # t2m or m2t
    protocol: str
    query: str
    answer: Candidate
    rank: float  # expected under random order of ties
    top: tuple[Candidate, ...]


def choose_examples(
    pool: Pool, text: Encoded, mol: Encoded, scores: list[Score], seed: int
) -> list[Example]:
    """A few hits drawn by the seed, and misses from near to far, in each direction."""
    sides = {
        "t2m": (text, mol, pool.text_target, pool.texts, pool.smiles),
        "m2t": (mol, text, pool.mol_target, pool.smiles, pool.texts),
    }
    examples = []
    for score in scores:
        if (score.protocol, score.scorer, score.right) != (pool.protocol, "model", PAIR):
            continue
        if score.stage not in ("", "det"):  # examples show cosines
            continue
        query, candidate, target, queries, contents = sides[score.direction]
        items = np.flatnonzero(target >= 0)
        ranks = per_query(score.ranking)["mr"]
        for i in _chosen(ranks, seed):
            row, right = query.rows[items[i]], int(target[items[i]])
            best = _best(row, candidate.rows, right, contents)
            answer = Candidate(contents[right], float(row @ candidate.rows[right]), True)
            where = score.direction, score.protocol
            examples.append(Example(*where, queries[items[i]], answer, float(ranks[i]), best))
    return examples


def _chosen(ranks: np.ndarray, seed: int) -> list[int]:
    hits = np.flatnonzero(ranks == 1)
    drawn = np.random.default_rng(seed).choice(hits, min(EXAMPLES, len(hits)), replace=False)
    misses = np.argsort(ranks, kind="stable")[len(hits) :]
    places = np.linspace(0, len(misses) - 1, min(EXAMPLES, len(misses))).astype(int)
    return [int(i) for i in (*drawn, *misses[places])]


def _best(
    row: np.ndarray, candidates: np.ndarray, right: int, contents: tuple[str, ...]
) -> tuple[Candidate, ...]:
    index, value = top(row[None], candidates, SHOWN)
    pairs = zip(index[0], value[0], strict=True)
    return tuple(Candidate(contents[i], float(v), i == right) for i, v in pairs)
