"""Hits@k, MRR and MR of a `Ranking`, as expectations under random order of ties.

See docs/papers.md#metrics.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from tmr_jax.types import Ranking, UserError

HITS = (1, 5, 10, 20)
NAMES = (*(f"hits@{k}" for k in HITS), "mrr", "mr")
TIES = "expected under random order"  # the rule, as stored with every score
RERANK_STAGES = ("tapr", "fused", "x0")  # of a second stage; the first, det, is the cosine
BLOCK = 4_000_000  # resampled values held at once by the bootstrap


def metrics(ranking: Ranking) -> dict[str, float]:
    """Means over queries of hits@1, 5, 10, 20 and mrr (fractions) and of mr (ranks from 1).

    Errors: UserError without queries.

    >>> metrics(Ranking(np.array([0, 4]), np.array([0, 0]), 9))["hits@5"]
    1.0
    """
    values = {name: float(column.mean()) for name, column in per_query(ranking).items()}
    assert not impossible(values, 1e-9), values
    return values


def per_query(ranking: Ranking) -> dict[str, Float[np.ndarray, " Q"]]:
    """Every metric of every single query: its expectation over the orders of its ties.

    Errors: UserError without queries.
    """
    greater, equal, size = ranking
    if not len(greater):
        raise UserError(
            "expected at least one query; got none; choose a protocol with queries on this side"
        )
    places = equal + 1.0  # the target is equally likely on each of these
    values = {f"hits@{k}": np.clip((k - greater) / places, 0.0, 1.0) for k in HITS}
    # 1/rank_expected is not the expected reciprocal rank: average 1/rank over the places.
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, size + 1))])
    values["mrr"] = (harmonic[greater + equal + 1] - harmonic[greater]) / places
    values["mr"] = 1.0 + greater + equal / 2.0
    return values


def of_rows(ranking: Ranking, rows: Bool[np.ndarray, " Q"]) -> Ranking:
    """The ranks of some of the queries, in the same pool."""
    return Ranking(ranking.greater[rows], ranking.equal[rows], ranking.pool_size)


def bounds(ranking: Ranking) -> dict[str, dict[str, float]]:
    """The metrics with ties broken for the target, `optimistic`, and against it, `pessimistic`."""
    greater, equal, size = ranking
    none = np.zeros_like(equal)
    best, worst = (metrics(Ranking(g, none, size)) for g in (greater, greater + equal))
    return {"optimistic": best, "pessimistic": worst}


def intervals(
    ranking: Ranking, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of each metric over queries; a pure function of the seed."""
    columns = np.stack(list(per_query(ranking).values()))  # [6, Q]
    low, high = bootstrap(columns, resamples, seed)
    return {name: (float(a), float(b)) for name, a, b in zip(NAMES, low, high, strict=True)}


def gains(
    ranking: Ranking, base: Ranking, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """The gain of each metric over `base`, ranks of the same queries: mean, lower and upper end.

    Queries are resampled in pairs, so the interval is of the difference: far narrower than those of
    the two metrics if both rank most queries alike.
    """
    ours, theirs = (np.stack(list(per_query(r).values())) for r in (ranking, base))
    means = (ours - theirs).mean(1)
    low, high = bootstrap(ours - theirs, resamples, seed)
    rows = zip(NAMES, means, low, high, strict=True)
    return {name: (float(m), float(a), float(b)) for name, m, a, b in rows}


def bootstrap(
    columns: Float[np.ndarray, "M Q"], resamples: int, seed: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile of the mean of each row, over resampled queries."""
    queries = columns.shape[1]
    random, means = np.random.default_rng(seed), []
    block = max(1, BLOCK // queries)
    for start in range(0, resamples, block):
        drawn = random.integers(0, queries, (min(block, resamples - start), queries))
        means.append(np.stack([column[drawn].mean(1) for column in columns]))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(np.concatenate(means, 1), [tail, 100.0 - tail], axis=1)
    return low, high


def impossible(values: dict[str, float], rounding: float) -> bool:
    """Whether no ranking has these Hits@k and this MRR, up to `rounding`; False without all three.

    MRR is lowest where the hits of each stretch of ranks are at its end and misses are far; it is
    highest where they are at its beginning and every miss is at rank 11 (docs/papers.md#metrics).
    """
    if not {"hits@1", "hits@10", "mrr"} <= values.keys():
        return False
    stretches = [(k, values[f"hits@{k}"]) for k in (1, 5, 10) if f"hits@{k}" in values]
    low = high = stretches[0][1]
    for (start, before), (end, now) in pairwise(stretches):
        low += (now - before) / end
        high += (now - before) / (start + 1)
    high += (1 - values["hits@10"]) / 11
    return not low - rounding <= values["mrr"] <= high + rounding
