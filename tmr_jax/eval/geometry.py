"""Geometry of an embedding space: alignment, uniformity, modality gap, histograms of cosines.

Inputs are rows of length one; row i of the texts belongs to row i of the molecules.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.eval.count import score_chunks
from tmr_jax.types import UserError

EDGES = np.linspace(-1.0, 1.0, 81)  # of histograms of cosines


def alignment(text: Float[np.ndarray, "Q D"], mol: Float[np.ndarray, "Q D"]) -> float:
    """Mean squared distance of pairs (Wang & Isola 2020, alpha 2): 0 is best, 4 is worst."""
    return float(np.square(text - mol).sum(1, dtype=np.float64).mean())


def uniformity(rows: Float[np.ndarray, "Q D"]) -> float:
    """log of the mean of exp(-2 d^2) over pairs of rows (Wang & Isola 2020, t 2): lower is better.

    0 if all rows are the same, near -4 if they fill the sphere.
    Errors: ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise UserError(f"expected at least 2 rows; got {len(rows)}; choose a larger pool")
    total = 0.0
    for start, scores in score_chunks(rows, rows):
        place = np.arange(len(scores))
        scores[place, start + place] = -np.inf  # itself
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
    """Histograms over EDGES of the cosines of positive pairs and of negative pairs.

    Pairs with equal texts or equal molecules (equal groups) that are not a row's own are neither.
    """
    positive, negative = np.zeros((2, len(EDGES) - 1), np.int64)
    for start, scores in score_chunks(text, mol):
        scores = np.clip(scores, -1.0, 1.0)
        rows = np.arange(start, start + len(scores))
        positive += np.histogram(scores[rows - start, rows], EDGES)[0]
        same = text_group[rows, None] == text_group[None]
        same |= mol_group[rows, None] == mol_group[None]
        negative += np.histogram(scores[~same], EDGES)[0]
    return positive, negative
