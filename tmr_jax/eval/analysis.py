"""What a second stage is worth beyond accuracy: how sure it is, how varied its first places are.

DiffTMR's second claim is that perturbation and diffusion give a distribution over candidates. Here
it is sampled: the same query with other noise, one perturbation and one initial state per draw.
Nothing here changes a rank.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.data.progress import track
from tmr_jax.eval.rerank import Lists, PoolReranker, levels
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.eval.subgroups import TrainingSeen, sliced, slices
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool, Ranking

TOP = 10


def analyse_pool(
    pool: Pool,
    text: Encoded,
    mol: Encoded,
    lists: Lists,
    known: TrainingSeen | None,
    reranker: PoolReranker,
    alpha: float,
    draws: int,
) -> list[dict[str, Any]]:
    """Slices, variety and uncertainty of the text queries, under det and fused.

    `lists` are those of the text queries. Without `known` there are no slices.
    """
    from tmr_jax.data.features.variety import Cabinet, scaffold

    asks = np.flatnonzero(pool.text_target >= 0)
    parts = {}
    if known is not None:
        own = [scaffold(pool.smiles[i]) for i in pool.text_target[asks]]
        parts = slices([pool.texts[i] for i in asks], own, known.texts, known.scaffolds)
    # The lists name distinct inputs of this pool, in the order of their groups.
    first = np.unique(mol.group, return_index=True)[1]
    cabinet = Cabinet([pool.smiles[i] for i in first])
    found = []
    for stage in ("det", "fused"):
        ranking = lists.ranking(stage, alpha)
        record = {
            "protocol": pool.protocol,
            "direction": "t2m",
            "tier": stage,
            "training_at_hand": known is not None,
            "slices": sliced(ranking, parts),
            "variety": variety(cabinet, first_items(lists, stage, alpha)),
        }
        if stage == "fused" and draws:
            won = winners(reranker, text, mol, "t2m", pool.text_target, alpha, draws)
            record["uncertainty"] = uncertainty(won, ranking)
        found.append(record)
    return found


def winners(
    reranker: PoolReranker,
    text: Encoded,
    mol: Encoded,
    direction: Direction,
    target: np.ndarray,
    alpha: float,
    draws: int,
) -> Int[np.ndarray, "draws Q"]:
    """The candidate ranked first in each draw: one perturbation and one initial state each."""
    chosen, found = reranker.settings, []
    try:
        for draw in track(range(draws), "drawing"):
            reranker.settings = dataclasses.replace(
                chosen, samples=min(chosen.samples, 1), noises=1, seed=chosen.seed + draw
            )
            reranked = reranker.lists(text, mol, direction, target).reranked
            first = levels(reranked, "fused", alpha).argmax(1)
            found.append(np.take_along_axis(reranked.item, first[:, None], 1)[:, 0])
    finally:
        reranker.settings = chosen
    return np.stack(found)


def agreement(won: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Share of the draws that name the most named candidate: 1 where all agree."""
    return np.array([max(Counter(column.tolist()).values()) for column in won.T]) / len(won)


def entropy(won: Int[np.ndarray, "draws Q"]) -> Float[np.ndarray, " Q"]:
    """Of the shares of the candidates among the draws, in nats: 0 where all agree."""
    found = []
    for column in won.T:
        share = np.array(list(Counter(column.tolist()).values())) / len(won)
        found.append(-(share * np.log(share)).sum())
    return np.abs(np.array(found))  # no minus zero


def uncertainty(won: np.ndarray, ranking: Ranking) -> dict[str, Any]:
    """Means over queries, and Hits@1 of the queries on which all draws agree and of the others."""
    agreed, right = agreement(won), (ranking.greater == 0) & (ranking.equal == 0)
    sure = agreed == 1
    return {
        "draws": len(won),
        "entropy": float(entropy(won).mean()),
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


def variety(cabinet: Any, items: Int[np.ndarray, "Q top"]) -> dict[str, float]:
    """Means over queries of the distance and the number of scaffolds among the first ten."""
    found = [cabinet.variety(row) for row in items]
    return {
        "tanimoto_distance@10": float(np.mean([v.distance for v in found])),
        "scaffolds@10": float(np.mean([v.scaffolds for v in found])),
    }
