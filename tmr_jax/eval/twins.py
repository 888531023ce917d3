"""Twins: candidates that are the same model input, and the ceiling they put on Hits@1 (A5.14)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Ceiling(NamedTuple):
    """What the best possible ranking of this pool can reach with this input."""

    twins: float  # mean number of other candidates with the target's input
    queries_with_twin: float  # share of queries
    hits1: float  # mean of 1 / (1 + twins): the highest expected Hits@1


def twin_counts(
    group: Int[np.ndarray, " C"], target: Int[np.ndarray, " Q"]
) -> Int[np.ndarray, " Q"]:
    """For each query, how many candidates other than its target have the target's model input."""
    return np.bincount(group)[group[target]] - 1


def ceiling(group: Int[np.ndarray, " C"], target: Int[np.ndarray, " Q"]) -> Ceiling:
    """The twin ceiling of a pool; `group` is equal where two candidates are the same input."""
    twins = twin_counts(group, target)
    return Ceiling(float(twins.mean()), float((twins > 0).mean()), float((1 / (1 + twins)).mean()))
