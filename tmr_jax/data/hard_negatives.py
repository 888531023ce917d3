"""An order of molecules in which neighbours are alike, so that a batch may hold hard negatives."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

LEAF = 16  # molecules that are not divided further
ITERATIONS = 8  # of the power method; a rough axis divides as well as an exact one


def structure_place(fingerprints: Float[np.ndarray, "M bits"]) -> Int[np.ndarray, " M"]:
    """Place of each molecule, 0..M-1, by halving along the main axis of the fingerprints again
    and again: what shares substructures shares its half for long. A pure function of its input.
    """
    order = np.arange(len(fingerprints))
    _divide(fingerprints, order)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _divide(bits: Float[np.ndarray, "M bits"], order: Int[np.ndarray, " part"]) -> None:
    """Puts the rows `order` of `bits` into their order, in place."""
    if len(order) <= LEAF:
        return
    part = bits[order]  # a copy
    part -= part.mean(0)
    axis = np.ones(part.shape[1], np.float32)  # no bit is special
    for _ in range(ITERATIONS):
        axis = part.T @ (part @ axis)
        axis /= max(float(np.linalg.norm(axis)), 1e-12)
    order[:] = order[np.argsort(part @ axis, kind="stable")]
    half = len(order) // 2
    _divide(bits, order[:half])
    _divide(bits, order[half:])
