"""Hits that fit and are unlike one another: maximal marginal relevance (Carbonell, Goldstein 1998).

In: scores of a shortlist and the likeness of its items. Out: which to show, in order.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.types import UserError


def spread(
    score: Float[np.ndarray, " n"],
    likeness: Float[np.ndarray, "n n"],
    k: int,
    weight: float,
) -> Int[np.ndarray, " k"]:
    """k items, each with the most of (1 - weight) score - weight (likeness to the nearest before).

    Scores are first put between 0 (the worst of the shortlist) and 1 (the best), so that a weight
    means the same for every query. With weight 0 the order is that of the scores, with 1 each item
    is the one least like those before it; the best item is the first under every weight. Of equals
    the earlier is taken. Errors: ValueError for a weight outside of 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"expected a spread of 0 to 1, got {weight}; 0.5 weighs both the same")
    span = float(np.ptp(score)) if len(score) else 0.0
    good = (score - score.min()) / span if span else np.zeros(len(score))
    chosen: list[int] = []
    nearest = np.zeros(len(score))  # likeness to the nearest that is chosen
    open_ = np.ones(len(score), bool)
    for _ in range(min(k, len(score))):
        value = (1 - weight) * good - weight * nearest if chosen else good
        best = int(np.argmax(np.where(open_, value, -np.inf)))
        chosen.append(best)
        open_[best] = False
        nearest = np.maximum(nearest, likeness[best])
    return np.array(chosen, np.int64)
