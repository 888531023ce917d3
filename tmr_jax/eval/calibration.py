"""How far a score can be trusted: is the query like those known, and how sure is a first place.

In: unit rows of queries and candidates, as `rank` takes them. Out: a number for each query, or one
for all. Scores are made in chunks and never held whole, so a pool of 33,008 needs no more memory
than a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.eval.count import score_chunks
from tmr_jax.types import UserError

BINS = 15  # of equal width: Guo et al. 2017
COLDEST, WARMEST = 1e-3, 10.0  # temperatures of cosines; what training learns is 0.01 to 0.07
TINY = 1e-12  # no confidence is nearer to 0 or 1: a log loss stays finite
EDGES = np.linspace(-1.0, 1.0, 81)  # of histograms of cosines


class Reliability(NamedTuple):
    """Queries in bins of confidence; an empty bin has means of zero."""

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]  # mean
    correct: Float[np.ndarray, " bins"]  # mean


# Queries unlike those known


def ood_scores(
    query: Float[np.ndarray, "Q D"], reference: Float[np.ndarray, "R D"], neighbours: int
) -> Float[np.ndarray, " Q"]:
    """1 - mean cosine of the nearest reference rows: 0 is known, higher is stranger.

    A function of a query's own row and of rows that the run has anyway: no label enters.
    Errors: ValueError where there is no reference row or `neighbours` is below 1.
    """
    if not len(reference) or neighbours < 1:
        raise UserError(
            f"expected reference rows and at least 1 neighbour; got {len(reference)} rows and "
            f"{neighbours}; give the run's validation texts, or the candidates"
        )
    k = min(neighbours, len(reference))
    found = np.empty(len(query))
    for rows, scores in _chunks(query, reference):
        found[rows] = 1.0 - np.partition(scores, -k, axis=1)[:, -k:].mean(1, dtype=np.float64)
    return found


def auroc(negatives: Float[np.ndarray, " N"], positives: Float[np.ndarray, " P"]) -> float:
    """Share of (negative, positive) couples in which the positive is higher; ties count half.

    Errors: ValueError where either is empty.
    """
    if not len(negatives) or not len(positives):
        raise UserError(
            f"expected scores of both kinds; got {len(negatives)} and {len(positives)}; "
            "choose pools with queries"
        )
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left")
    up_to = np.searchsorted(ordered, positives, "right")
    return float((below + up_to).mean() / (2 * len(ordered)))


# Calibration


def temperature(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
) -> float:
    """T for which the confidence of a first place is likeliest to be its chance of being right.

    The log loss of `confidence` against hits (Guo et al. 2017, 4.2 has the likelihood of the target
    instead: here that is held down by the thousands of other candidates and leaves first places
    underconfident, LOG.md 2026-11-22). A tie at the top is right in part.
    """
    from scipy.optimize import minimize_scalar

    def surprise(log_t: float) -> float:
        total, scale = 0.0, math.exp(-log_t)
        for rows, scores in _chunks(query, candidate):
            best = scores.max(1)
            mine = np.take_along_axis(scores, target[rows, None], 1)[:, 0]
            right = (mine == best) / (scores == best[:, None]).sum(1)
            sure = np.clip(1.0 / _mass(scores, scale), TINY, 1.0 - TINY)
            total -= float((right * np.log(sure) + (1.0 - right) * np.log1p(-sure)).sum())
        return total / len(query)

    bounds = math.log(COLDEST), math.log(WARMEST)
    found = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return math.exp(found.x)


def confidence(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"], temperature: float
) -> Float[np.ndarray, " Q"]:
    """Probability of each query's best candidate under softmax(cosines / temperature).

    Candidates that are one model input share their mass: each of two twins has at most a half.
    """
    found = np.empty(len(query))
    for rows, scores in _chunks(query, candidate):
        found[rows] = 1.0 / _mass(scores, 1.0 / temperature)
    return found


def _mass(scores: np.ndarray, scale: float) -> np.ndarray:
    """Sum over candidates of exp(scale * score), the best one's being 1."""
    shifted = scores - scores.max(1, keepdims=True)
    shifted *= np.float32(scale)
    return np.exp(shifted, out=shifted).sum(1, dtype=np.float64)


def reliability(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> Reliability:
    """Mean confidence and mean correctness in bins ]0, 1/bins], ]1/bins, 2/bins] ... of confidence.

    `correct` may be a share: what a first place is worth in expectation where candidates tie.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, values, bins) for values in (confidence, correct))
    return Reliability(count, *(total / np.maximum(count, 1) for total in sums))


def ece(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> float:
    """Expected calibration error: mean over queries of |confidence - correctness| of their bin."""
    found = reliability(confidence, correct, bins)
    return float(np.average(np.abs(found.confidence - found.correct), weights=found.count))


# Geometry; row i of the texts belongs to row i of the molecules


def alignment(text: Float[np.ndarray, "Q D"], mol: Float[np.ndarray, "Q D"]) -> float:
    """Mean squared distance of partners (Wang & Isola 2020, alpha 2): 0 is best, 4 is worst."""
    return float(np.square(text - mol).sum(1, dtype=np.float64).mean())


def uniformity(rows: Float[np.ndarray, "Q D"]) -> float:
    """log of the mean of exp(-2 d^2) over couples of rows (Wang & Isola 2020, t 2): lower is best.

    0 where all rows are the same, near -4 where they fill the sphere.
    Errors: ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise UserError(f"expected at least 2 rows, got {len(rows)}; choose a larger pool")
    total = 0.0
    for part, scores in _chunks(rows, rows):
        scores[np.arange(len(scores)), np.arange(part.start, part.stop)] = -np.inf  # itself
        total += float(np.exp(4.0 * scores - 4.0).sum(dtype=np.float64))  # d^2 = 2 - 2 cosine
    return math.log(total / (len(rows) * (len(rows) - 1)))


def modality_gap(text: Float[np.ndarray, "Q D"], mol: Float[np.ndarray, "Q D"]) -> float:
    """Distance of the mean text from the mean molecule (Liang et al. 2022): 0 to 2."""
    return float(np.linalg.norm(text.mean(0, dtype=np.float64) - mol.mean(0, dtype=np.float64)))


def similarities(
    text: Float[np.ndarray, "Q D"],
    mol: Float[np.ndarray, "Q D"],
    text_group: Int[np.ndarray, " Q"],
    mol_group: Int[np.ndarray, " Q"],
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """How many partners, and how many couples of strangers, have a cosine within each of EDGES.

    Couples with equal texts or equal molecules (equal groups) are neither.
    """
    right, wrong = np.zeros((2, len(EDGES) - 1), np.int64)
    for rows, scores in _chunks(text, mol):
        scores = np.clip(scores, -1.0, 1.0)
        own = np.arange(rows.start, rows.stop)
        right += np.histogram(scores[np.arange(len(own)), own], EDGES)[0]
        alike = text_group[rows, None] == text_group[None]
        alike |= mol_group[rows, None] == mol_group[None]
        wrong += np.histogram(scores[~alike], EDGES)[0]
    return right, wrong


def _chunks(query: np.ndarray, candidate: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start, scores in score_chunks(query, candidate, 256):
        yield slice(start, start + len(scores)), scores
