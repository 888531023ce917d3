"""Calibration: how sure is a first place, and how often is it right.

In: rows of length one of queries and candidates, as `rank` takes them. Out: a number for each
query, or one for all. Reference: Guo et al. 2017, On Calibration of Modern Neural Networks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.eval.count import score_chunks

BINS = 15  # of equal width, as in Guo et al.
COLDEST, WARMEST = 1e-3, 10.0  # temperatures of cosines; training learns 0.01 to 0.07
TINY = 1e-12  # confidences stay this far from 0 and 1, so that the log loss is finite


class Reliability(NamedTuple):
    """Queries in bins of confidence; an empty bin has means of zero."""

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]  # mean
    correct: Float[np.ndarray, " bins"]  # mean


def temperature(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
) -> float:
    """The temperature that minimises the log loss of `confidence` against hits.

    Guo et al. 4.2 maximise the likelihood of the target instead. In retrieval thousands of other
    candidates hold that likelihood down, which leaves first places underconfident. A tie at the
    top counts as partly right.
    """
    from scipy.optimize import minimize_scalar

    def log_loss(log_t: float) -> float:
        total, scale = 0.0, math.exp(-log_t)
        for start, scores in score_chunks(query, candidate):
            best = scores.max(1)
            goal = target[start : start + len(scores), None]
            reached = np.take_along_axis(scores, goal, 1)[:, 0]
            right = (reached == best) / (scores == best[:, None]).sum(1)
            sure = np.clip(1.0 / _mass(scores, scale), TINY, 1.0 - TINY)
            total -= float((right * np.log(sure) + (1.0 - right) * np.log1p(-sure)).sum())
        return total / len(query)

    bounds = math.log(COLDEST), math.log(WARMEST)
    best = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return math.exp(best.x)


def confidence(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"], temperature: float
) -> Float[np.ndarray, " Q"]:
    """Probability of each query's best candidate under softmax(cosines / temperature).

    Candidates that are one model input share their mass: each of two duplicates has at most 1/2.
    """
    sure = np.empty(len(query))
    for start, scores in score_chunks(query, candidate):
        sure[start : start + len(scores)] = 1.0 / _mass(scores, 1.0 / temperature)
    return sure


def _mass(scores: np.ndarray, scale: float) -> np.ndarray:
    """Sum over candidates of exp(scale * score), where the best candidate contributes 1."""
    shifted = scores - scores.max(1, keepdims=True)
    shifted *= np.float32(scale)
    return np.exp(shifted, out=shifted).sum(1, dtype=np.float64)


def reliability(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> Reliability:
    """Mean confidence and mean correctness in bins ]0, 1/bins], ]1/bins, 2/bins] ... of confidence.

    `correct` may be a fraction: the expected value of a first place when candidates tie.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, values, bins) for values in (confidence, correct))
    return Reliability(count, *(total / np.maximum(count, 1) for total in sums))


def ece(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> float:
    """Expected calibration error: mean over queries of |confidence - correctness| of their bin."""
    binned = reliability(confidence, correct, bins)
    return float(np.average(np.abs(binned.confidence - binned.correct), weights=binned.count))
