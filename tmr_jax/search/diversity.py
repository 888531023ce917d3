"""Hits that fit and differ: maximal marginal relevance (Carbonell, Goldstein 1998)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.data.features.similarity import tanimoto
from tmr_jax.index.schema import Hit, ranked
from tmr_jax.types import UserError


def mmr(
    score: Float[np.ndarray, " n"], similarity: Float[np.ndarray, "n n"], k: int, weight: float
) -> Int[np.ndarray, " k"]:
    """k items, each with the most of (1 - weight) fit - weight (similarity to the nearest before).

    The fit is the score, scaled to 0 (the worst of the shortlist) to 1 (the best), so that a weight
    means the same for every query. With weight 0 the order is that of the scores; with 1 each item
    is the one least similar to those before it. The best item is first under every weight, and the
    earlier of equal items is taken. Raises UserError for a weight outside of 0 to 1.

    >>> mmr(np.array([0.9, 0.8, 0.1]), np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1.0]]), 2, 0.5)
    array([0, 2])
    """
    if not 0 <= weight <= 1:
        raise UserError(f"expected a diversity of 0 to 1, got {weight}; try 0.5")
    span = float(np.ptp(score)) if len(score) else 0.0
    fit = (score - score.min()) / span if span else np.zeros(len(score))
    chosen: list[int] = []
    nearest = np.zeros(len(score))  # similarity to the nearest chosen item
    is_open = np.ones(len(score), bool)
    for _ in range(min(k, len(score))):
        value = (1 - weight) * fit - weight * nearest if chosen else fit
        best = int(np.argmax(np.where(is_open, value, -np.inf)))
        chosen.append(best)
        is_open[best] = False
        nearest = np.maximum(nearest, similarity[best])
    return np.array(chosen, np.int64)


def diverse(hits: list[Hit], k: int, weight: float) -> list[Hit]:
    """k of the hits by `mmr`, with the Tanimoto similarity of their structures.

    The fit is the score of the second stage where k hits have one, else the cosine.
    """
    refined = [hit for hit in hits if hit.refined is not None]
    hits = refined if len(refined) >= k else hits
    fit = [hit.refined if hits is refined else hit.score for hit in hits]
    similarity = tanimoto([hit.content for hit in hits])
    chosen = mmr(np.array(fit, np.float32), similarity, k, weight)
    return ranked([hits[i] for i in chosen])
