"""Ranks by counting (MODELS.md 1.3): how many candidates beat a query's target, how many tie.

In: unit rows of queries and candidates. Out: a `Ranking`, never a sorted list: counting a row of
33,010 scores takes a millisecond, sorting it a hundred (STACK.md 5c). Candidates that are one and
the same model input share one column of the score matrix, so they tie exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Float, Int

from tmr_jax.eval.device_rank import LEAST, rank_on, refuse, right_ones
from tmr_jax.types import Ranking

# Scores are computed in blocks of exactly this many queries (the last one padded), so that the bits
# of a score never depend on how many queries are held at once. Nor on a query's place in the block:
# OpenBLAS sums rows beyond the eighth in another order on AMD's Zen 3, as it does not on Intel's.
TILE = 8


def rank(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"] | None = None,
    labels: Int[np.ndarray, "L C"] | None = None,
    chunk: int = 256,
) -> Ranking:
    """Count, for each query, the candidates above its target and those level with it.

    Inputs: `target[i]` is the row of `candidate` that belongs to query i. `group` is equal where
    two candidates are the same model input (left out: where their rows are equal bit for bit);
    only the first row of a group is scored. `labels`: see `count`. `chunk` queries x C candidates
    of scores are held at once. Where there are accelerators, large pools are counted on them.
    Errors: ValueError for a target outside the candidates and for a score that is not a number.
    """
    target = np.asarray(target, np.int64)
    _check(candidate, target)
    if group is None:
        group = _groups(candidate)
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    if jax.default_backend() != "cpu" and len(query) * len(first) >= LEAST:
        return rank_on(jax.local_devices(), query, candidate[first], target, group, labels)
    return count(score_chunks(query, candidate[first], chunk), target, group, labels)


def count(
    chunks: Iterable[tuple[int, Float[np.ndarray, "q G"]]],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
) -> Ranking:
    """`rank` on scores that are at hand: (first query, rows of scores), a column for each group.

    Inputs: `group` 0..G-1 is the column of each candidate. `labels`, where given: a candidate is
    as right as the target where any of its labels is the target's; the best scored of them then
    stands for the target and the others leave the pool. That is no chain: who shares a label with
    another right candidate only is not right.
    """
    weight = np.bincount(group)
    # Columns count once, and those that stand for several candidates once more for each other one.
    many = np.flatnonzero(weight > 1)
    more = weight[many] - 1.0  # a matrix product of floats is fast, and exact far beyond any pool
    greater, equal = np.zeros(len(target), np.int64), np.zeros(len(target), np.int64)
    for start, scores in chunks:
        rows = slice(start, start + len(scores))
        query, right = right_ones(target[rows], labels)
        reached = scores[query, group[right]]
        best = np.full((len(scores), 1), -np.inf, scores.dtype)
        np.maximum.at(best[:, 0], query, reached)
        # No right candidate is above the best of them; those level with it leave, it stays.
        above, level = scores > best, scores == best
        greater[rows] = np.count_nonzero(above, 1) + above[:, many] @ more
        equal[rows] = np.count_nonzero(level, 1) + level[:, many] @ more
        equal[rows] -= np.bincount(query[reached == best[query, 0]], minlength=len(scores))
    return Ranking(greater, equal, len(group))


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
        refuse(np.isnan(scores).any(1), start)
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


def _check(candidate: np.ndarray, target: np.ndarray) -> None:
    bad = (target < 0) | (target >= len(candidate))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"expected targets in 0..{len(candidate) - 1}, got {target[i]} for query {i}; "
            "leave out items that are candidates but no queries"
        )
