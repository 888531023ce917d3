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
    found = []
    for score in scores:
        if (score.protocol, score.scorer, score.right) != (pool.protocol, "model", PAIR):
            continue
        if score.stage not in ("", "det"):  # examples show cosines
            continue
        query, candidate, target, asked, answers = sides[score.direction]
        asks = np.flatnonzero(target >= 0)
        ranks = per_query(score.ranking)["mr"]
        for i in _chosen(ranks, seed):
            item = asks[i]
            found.append(
                _example(
                    score,
                    asked[item],
                    query.rows[item],
                    candidate.rows,
                    int(target[item]),
                    answers,
                    float(ranks[i]),
                )
            )
    return found


def _chosen(ranks: np.ndarray, seed: int) -> list[int]:
    hits = np.flatnonzero(ranks == 1)
    random = np.random.default_rng(seed)
    some = random.choice(hits, min(EXAMPLES, len(hits)), replace=False)
    misses = np.argsort(ranks, kind="stable")[len(hits) :]
    spread = np.linspace(0, len(misses) - 1, min(EXAMPLES, len(misses))).astype(int)
    return [int(i) for i in (*some, *misses[spread])]


def _example(
    score: Score,
    asked: str,
    row: np.ndarray,
    candidates: np.ndarray,
    target: int,
    answers: tuple[str, ...],
    at: float,
) -> Example:
    index, value = top(row[None], candidates, SHOWN)
    best = tuple(
        Candidate(answers[i], float(v), i == target)
        for i, v in zip(index[0], value[0], strict=True)
    )
    right = Candidate(answers[target], float(row @ candidates[target]), True)
    return Example(score.direction, score.protocol, asked, right, at, best)
