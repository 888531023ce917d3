"""Ranks by counting (MODELS.md 1.3): how many candidates beat a query's target, how many tie.

In: unit rows of queries and candidates. Out: a `Ranking`, never a sorted list: counting a row of
33,010 scores takes a millisecond, sorting it a hundred (STACK.md 5c). Candidates that are one and
the same model input share one column of the score matrix, so they tie exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.types import Ranking

# Scores are computed in blocks of exactly this many queries (the last one padded), so that the
# bits of a score never depend on how many queries are held at once.
TILE = 32


def rank(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"] | None = None,
    label: Int[np.ndarray, " C"] | None = None,
    chunk: int = 256,
) -> Ranking:
    """Count, for each query, the candidates above its target and those level with it.

    Inputs: `target[i]` is the row of `candidate` that belongs to query i. `group` is equal where
    two candidates are the same model input (left out: where their rows are equal bit for bit);
    only the first row of a group is scored. `label`, where given, is equal where two candidates
    are equally right: the best scored of them then stands for the target and the others leave
    the pool. `chunk` queries x C candidates of scores are held at once.
    Errors: ValueError for a target outside the candidates and for a score that is not a number.
    """
    target = np.asarray(target, np.int64)
    _check(candidate, target)
    if group is None:
        group = _groups(candidate)
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    kind = np.arange(len(candidate)) if label is None else np.asarray(label)
    column, weight = _columns(group, None if label is None else kind)
    greater, equal = np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
    for start, scores in score_chunks(query, candidate[first], chunk):
        rows = slice(start, start + len(scores))
        if label is None:
            mine = np.take_along_axis(scores, group[target[rows], None], 1)
            greater[rows] = (scores > mine) @ weight
            equal[rows] = (scores == mine) @ weight - 1
            continue
        scores = scores[:, column[:, 0]]
        right = column[:, 1] == kind[target[rows], None]
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
        greater[rows] = ((scores > best) & ~right) @ weight
        equal[rows] = ((scores == best) & ~right) @ weight
    return Ranking(greater, equal, len(candidate))


def score_chunks(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"], chunk: int
) -> Iterator[tuple[int, Float[np.ndarray, "q C"]]]:
    """Yield (first query, its chunk of scores); the array is reused by the next chunk.

    Errors: ValueError that names the first query with a score that is not a number.
    """
    if chunk < 1:
        raise ValueError(f"expected a chunk of at least 1 query, got {chunk}; use e.g. 256")
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
        bad = np.isnan(scores).any(1)
        if bad.any():
            raise ValueError(
                f"expected finite scores, got NaN for query {start + int(bad.argmax())}; look for "
                "non-finite parameters or features in the run that made these embeddings"
            )
        yield start, scores


def top(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    k: int,
    chunk: int = 256,
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The k best candidates of each query and their scores, best first; ties by lower index."""
    k = min(k, len(candidate))
    index, value = np.zeros((len(query), k), np.int64), np.zeros((len(query), k), np.float32)
    for start, scores in score_chunks(query, candidate, chunk):
        rows = slice(start, start + len(scores))
        # Everything level with the k-th best stays in, so that the tie rule is exact.
        edge = np.partition(scores, -k, axis=1)[:, -k]
        for i, row in enumerate(scores):
            near = np.flatnonzero(row >= edge[i])
            index[start + i] = near[np.argsort(-row[near], kind="stable")[:k]]
        value[rows] = np.take_along_axis(scores, index[rows], 1)
    return index, value


def _groups(candidate: np.ndarray) -> np.ndarray:
    rows = np.ascontiguousarray(candidate, np.float32)
    if not rows.size:
        return np.zeros(len(rows), np.int64)
    return np.unique(rows.view(f"V{rows.strides[0]}")[:, 0], return_inverse=True)[1]


def _columns(group: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (group, label) columns [P, 2] and how many candidates each stands for, [P].

    Counts are float64: a matrix product of floats is fast, and exact far beyond any pool.
    """
    if label is None:
        return np.empty((0, 2), np.int64), np.bincount(group).astype(np.float64)
    column, weight = np.unique(np.stack([group, label], 1), axis=0, return_counts=True)
    return column, weight.astype(np.float64)


def _check(candidate: np.ndarray, target: np.ndarray) -> None:
    bad = (target < 0) | (target >= len(candidate))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"expected targets in 0..{len(candidate) - 1}, got {target[i]} for query {i}; "
            "leave out items that are candidates but no queries"
        )
