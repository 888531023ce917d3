"""What a second stage is worth beyond accuracy: how sure it is, how varied its first places are.

DiffTMR's second claim is that perturbation and diffusion give a distribution over candidates. Here
it is sampled: the same query with other noise, one perturbation and one initial state per draw.
Nothing here changes a rank.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.data.features.similarity import scaffold, variety
from tmr_jax.data.workers import track
from tmr_jax.eval.pools import EncodedPool
from tmr_jax.eval.rerank import Lists, PoolReranker, levels
from tmr_jax.eval.subgroups import TrainingSeen, sliced, slices
from tmr_jax.types import Ranking

TOP = 10


def analyse_pool(
    sides: EncodedPool,
    lists: Lists,
    seen: TrainingSeen | None,
    reranker: PoolReranker,
    alpha: float,
    draws: int,
) -> list[dict[str, Any]]:
    """Subgroups, variety and uncertainty of the text queries, under det and fused.

    `lists` are those of the text queries. Without `seen` there are no subgroups.
    """
    pool, texts = sides.pool, sides.text_queries()
    parts = {}
    if seen is not None:
        scaffolds = [scaffold(pool.smiles[i]) for i in pool.text_target[texts]]
        parts = slices([pool.texts[i] for i in texts], scaffolds, seen.texts, seen.scaffolds)
    # The lists name distinct inputs of this pool, in the order of their groups.
    smiles = [pool.smiles[i] for i in np.unique(sides.mol.group, return_index=True)[1]]
    records = []
    for stage in ("det", "fused"):
        ranking = lists.ranking(stage, alpha)
        record = {
            "protocol": pool.protocol,
            "direction": "t2m",
            "tier": stage,
            "training_at_hand": seen is not None,
            "slices": sliced(ranking, parts),
            "variety": mean_variety(smiles, first_items(lists, stage, alpha)),
        }
        if stage == "fused" and draws:
            winners = draw_winners(reranker, sides, alpha, draws)
            record["uncertainty"] = uncertainty(winners, ranking)
        records.append(record)
    return records


def draw_winners(
    reranker: PoolReranker, sides: EncodedPool, alpha: float, draws: int
) -> Int[np.ndarray, "draws Q"]:
    """The molecule ranked first for each text in each draw."""
    settings, winners = reranker.settings, []
    try:
        for draw in track(range(draws), "drawing"):
            reranker.settings = dataclasses.replace(
                settings, samples=min(settings.samples, 1), noises=1, seed=settings.seed + draw
            )
            lists = reranker.lists(sides.text, sides.mol, "t2m", sides.pool.text_target)
            first = levels(lists.reranked, "fused", alpha).argmax(1)
            winners.append(np.take_along_axis(lists.reranked.item, first[:, None], 1)[:, 0])
    finally:
        reranker.settings = settings
    return np.stack(winners)


def agreement(winners: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Fraction of the draws that name the most frequent winner: 1 if all agree."""
    most = [max(Counter(column.tolist()).values()) for column in winners.T]
    return np.array(most) / len(winners)


def entropy(winners: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Entropy of the winners over the draws, in nats: 0 if all agree."""
    from scipy.special import entr

    counts = [list(Counter(column.tolist()).values()) for column in winners.T]
    return np.abs([entr(np.array(count) / len(winners)).sum() for count in counts])  # no -0.0


def uncertainty(winners: np.ndarray, ranking: Ranking) -> dict[str, Any]:
    """Means over queries, and Hits@1 of the queries on which all draws agree and of the others."""
    agreed, right = agreement(winners), (ranking.greater == 0) & (ranking.equal == 0)
    sure = agreed == 1
    return {
        "draws": len(winners),
        "entropy": float(entropy(winners).mean()),
        "agreement": float(agreed.mean()),
        "all_agree": float(sure.mean()),
        "hits@1_where_all_agree": float(right[sure].mean()) if sure.any() else None,
        "hits@1_elsewhere": float(right[~sure].mean()) if (~sure).any() else None,
    }


def first_items(lists: Lists, stage: str, alpha: float) -> Int[np.ndarray, "Q top"]:
    """The first candidates of every query under a stage, as distinct inputs of the pool."""
    if stage == "det":
        order = np.argsort(-lists.reranked.first, axis=1, kind="stable")
    else:
        order = np.argsort(-levels(lists.reranked, stage, alpha), axis=1, kind="stable")
    return np.take_along_axis(lists.reranked.item, order[:, :TOP], 1)


def mean_variety(smiles: Sequence[str], items: Int[np.ndarray, "Q top"]) -> dict[str, float]:
    """Means over queries of the distance and the number of scaffolds among the first ten."""
    varieties = [variety([smiles[int(i)] for i in row]) for row in items]
    return {
        "tanimoto_distance@10": float(np.mean([v.distance for v in varieties])),
        "scaffolds@10": float(np.mean([v.scaffolds for v in varieties])),
    }
