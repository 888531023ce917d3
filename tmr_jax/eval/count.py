"""Counting on the host: candidates above the right one, and candidates that tie with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.types import Ranking, UserError

# Scores are computed in blocks of exactly this many queries (the last one padded), so that the bits
# of a score never depend on how many queries are held at once. Nor on a query's place in the block:
# OpenBLAS sums rows beyond the eighth in another order on AMD's Zen 3, as it does not on Intel's.
TILE = 8


def count(
    chunks: Iterable[tuple[int, Float[np.ndarray, "q G"]]],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
) -> Ranking:
    """`rank` on computed scores: (first query, rows of scores), a column for each group.

    Inputs: `group` 0..G-1 is the column of each candidate. `labels`, if given: a candidate that
    shares any of its labels with the target is right, too; the best of the right ones counts as
    the target and the others leave the pool. Labels do not chain: a candidate that shares a label
    only with another right candidate is not right.
    """
    weight = np.bincount(group)
    # A column counts once, plus once for each further candidate that shares it.
    many = np.flatnonzero(weight > 1)
    more = weight[many] - 1.0  # a matrix product of floats is fast, and exact far beyond any pool
    greater, equal = np.zeros(len(target), np.int64), np.zeros(len(target), np.int64)
    for start, scores in chunks:
        rows = slice(start, start + len(scores))
        query, right = right_ones(target[rows], labels)
        reached = scores[query, group[right]]
        best = np.full((len(scores), 1), -np.inf, scores.dtype)
        np.maximum.at(best[:, 0], query, reached)
        # No right candidate is above the best one; those that tie with it leave the pool.
        above, level = scores > best, scores == best
        greater[rows] = np.count_nonzero(above, 1) + above[:, many] @ more
        equal[rows] = np.count_nonzero(level, 1) + level[:, many] @ more
        equal[rows] -= np.bincount(query[reached == best[query, 0]], minlength=len(scores))
    return Ranking(greater, equal, len(group))


def right_ones(target: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (query, candidate) of all right candidates, the target included."""
    if labels is None:
        return np.arange(len(target)), target
    same = np.zeros((len(target), labels.shape[1]), bool)
    for label in labels:
        same |= label == label[target, None]
    query, right = np.nonzero(same)
    return query, right


def score_chunks(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"], chunk: int = 256
) -> Iterator[tuple[int, Float[np.ndarray, "q C"]]]:
    """Yield (first query, its chunk of scores); the array is reused by the next chunk.

    Errors: ValueError that names the first query with a score that is not finite.
    """
    if chunk < 1:
        raise UserError(f"expected a chunk of at least 1 query; got {chunk}; use e.g. 256")
    columns = np.ascontiguousarray(candidate.T, np.float32)
    held = np.empty((-(-chunk // TILE) * TILE, len(candidate)), np.float32)
    for start in range(0, len(query), len(held)):
        rows = min(len(held), len(query) - start)
        for low in range(0, rows, TILE):
            tile = np.zeros((TILE, query.shape[1]), np.float32)
            part = query[start + low : start + min(low + TILE, rows)]
            tile[: len(part)] = part
            np.matmul(tile, columns, out=held[low : low + TILE])
        scores = held[:rows]
        refuse(np.isnan(scores).any(1), start)
        yield start, scores


def refuse(bad: np.ndarray, start: int = 0) -> None:
    """ValueError that names the first bad query, counted from `start`; nothing without one."""
    if bad.any():
        raise UserError(
            f"expected finite scores; got NaN for query {start + int(bad.argmax())}; look for "
            "non-finite parameters or features in the run that made these embeddings"
        )
