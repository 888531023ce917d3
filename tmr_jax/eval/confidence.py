"""From which score on the best hit of a search can be trusted, learned from validation queries.

Whole descriptions of the validation pool and their first sentences ask for its molecules, ranked by
the last stage of the run. A query that finds its molecule among the first `FOUND` is answered; the
threshold is the score that the best hit of all but a share of `MISSED` of those reaches. It is of
pairs alone, so it holds for any library; in one of millions more hits reach it by chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from tmr_jax.data.features.clauses import sentences
from tmr_jax.eval.facts import FactsTable
from tmr_jax.eval.facts_pool import STAGE, shortlists
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.pools import EncodedPool
from tmr_jax.eval.rank import top
from tmr_jax.eval.scores import QuerySet
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool

FOUND = 10  # hits that a person looks at
MISSED = 0.1  # of the answered queries are warned of, too
ASKED = 500  # descriptions, at most
LEAST = 20  # answered queries


def trusted_score(
    validation: EncodedPool, encode: Callable[[list[str]], Encoded], facts: FactsTable | None
) -> float:
    """The threshold; NaN where fewer than `LEAST` queries are answered."""
    pool, rows = validation.pool, validation.text_queries()
    if not len(rows):
        return float("nan")
    rows = rows[:: -(-len(rows) // ASKED)]
    whole = [pool.texts[i] for i in rows]
    first = [sentences(text)[0] for text in whole]
    query = np.concatenate([validation.text.rows[rows], encode(first).rows])
    target = np.tile(pool.text_target[rows], 2)
    no_query = np.full(len(pool.smiles), -1)
    asked = Pool(pool.protocol, (*whole, *first), pool.smiles, target, no_query)
    best, answered = best_scores(asked, query, validation.mol, facts)
    if answered.sum() < LEAST:
        return float("nan")
    return float(np.quantile(best[answered], MISSED))


def best_scores(
    pool: Pool, query: Float[np.ndarray, "Q D"], mol: Encoded, facts: FactsTable | None
) -> tuple[Float[np.ndarray, " Q"], Bool[np.ndarray, " Q"]]:
    """The highest score of each text, and whether its molecule is among the first `FOUND`.

    Every text of the pool is a query. Ties count in expectation.
    """
    target, none = pool.text_target, np.zeros((2, 0), np.int64)
    side = QuerySet("t2m", query, mol.rows, target, mol.group, none, target, 0)
    if facts is None:
        best, ranking = top(query, mol.rows, 1)[1][:, 0], side.ranking()
    else:
        lists = shortlists(pool, side).lists(facts)
        best, ranking = lists.reranked.perturbed.max(1), lists.ranking(STAGE)
    return best, per_query(ranking)["mr"] <= FOUND
