"""Reranking of a pool by facts: the shortlists of both directions, and the scores of the stage.

The shortlist is the best `SHORTLIST` candidates by cosine. Facts of a candidate are those of its
own string: of a molecule never its text.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from tmr_jax.data.features.facts import facts_of, molecule_facts, text_facts
from tmr_jax.eval.facts import SHORTLIST, FactsTable
from tmr_jax.eval.rank import top
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.eval.scores import QuerySet, Score, reranked_scores
from tmr_jax.models.encode import distinct
from tmr_jax.types import Pool

STAGE = "facts"
QUERIES = 64  # scored at once


class Shortlists(NamedTuple):
    """The shortlists of one direction, with the facts of its queries and candidates."""

    side: QuerySet  # candidates of one group have the same input and the same facts
    query: np.ndarray  # float32 [Q, F]
    candidate: np.ndarray  # float32 [n, F], of the distinct candidates
    first: np.ndarray  # int64 [n], a row of `side` with each
    count: np.ndarray  # int64 [n], candidates that are equal to it
    item: np.ndarray  # int64 [Q, K], distinct candidates, best by cosine
    cosine: np.ndarray  # float32 [Q, K]

    def lists(self, facts: FactsTable) -> Lists:
        """The shortlists as this table orders them."""
        scores = np.empty_like(self.cosine)
        for start in range(0, len(scores), QUERIES):
            rows = slice(start, start + QUERIES)
            pair = self.query[rows, None], self.candidate[self.item[rows]]
            pair = pair if self.side.direction == "t2m" else pair[::-1]
            scores[rows] = facts.scores(self.cosine[rows], *pair)
        none = np.zeros((len(scores), 0), np.float32)
        reranked = Reranked(self.item, self.cosine, scores, none, none)
        candidate = self.side.candidate[self.first]
        target = self.side.group[self.side.target]
        return Lists(reranked, self.side.query, candidate, target, self.count)


def shortlists(pool: Pool, side: QuerySet) -> Shortlists:
    """The shortlists of a direction of a pool. Equal cosines go by a hash of the facts."""
    texts = facts_of(text_facts, pool.texts, "facts of texts")
    molecules = facts_of(molecule_facts, pool.smiles, "facts of molecules")
    query, candidate, target = texts, molecules, pool.text_target
    if side.direction == "m2t":
        query, candidate, target = molecules, texts, pool.mol_target
    # The encoder cuts texts: two may be one input and yet state other facts.
    bits = (hashlib.blake2b(row.tobytes(), digest_size=7).digest() for row in candidate)
    digest = np.array([*map(int.from_bytes, bits)])
    first, group = distinct(np.stack([side.group, digest], 1).view(np.uint8))
    item, cosine = top(side.query, side.candidate[first], SHORTLIST, digest[first])
    side, count = side._replace(group=group), np.bincount(group)
    return Shortlists(side, query[target >= 0], candidate[first], first, count, item, cosine)


def facts_scores(pool: Pool, sides: list[QuerySet], facts: FactsTable) -> list[Score]:
    """Scores of the stage `facts`, of every direction."""
    found = [shortlists(pool, side) for side in sides]
    lists = {one.side.direction: one.lists(facts) for one in found}
    sizes = {"shortlist": SHORTLIST, "weight": facts.weight}
    return reranked_scores(pool.protocol, [one.side for one in found], lists, sizes, (STAGE,))
