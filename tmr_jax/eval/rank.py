"""Ranks by counting: how many candidates beat a query's target, and how many tie with it.

In: rows of length one. Out: a `Ranking`, never a sorted list: counting a row of 33,010 scores takes
a millisecond, sorting it a hundred. Candidates that are the same model input share one column of
the score matrix, so they tie exactly.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Int

from tmr_jax.eval.count import count, score_chunks
from tmr_jax.eval.device_rank import LEAST, rank_on
from tmr_jax.types import Ranking, UserError


def rank(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"] | None = None,
    labels: Int[np.ndarray, "L C"] | None = None,
    chunk: int = 256,
) -> Ranking:
    """Count, for each query, the candidates above its target and those level with it.

    Inputs: `target[i]` is the row of `candidate` that belongs to query i. Candidates of one `group`
    are the same model input (default: rows that are equal bit for bit); only the first row of a
    group is scored. `labels`: see `count`. At most `chunk` queries x C scores are held at once.
    Accelerators, if any, count large pools.
    Errors: ValueError for a target outside the candidates and for a score that is not finite.

    >>> rows = np.eye(3, dtype=np.float32)
    >>> rank(rows, rows, np.array([0, 1, 1])).greater.tolist()
    [0, 0, 1]
    """
    target = np.asarray(target, np.int64)
    _check(candidate, target)
    if group is None:
        group = _groups(candidate)
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    if jax.default_backend() != "cpu" and len(query) * len(first) >= LEAST:
        return rank_on(jax.local_devices(), query, candidate[first], target, group, labels)
    return count(score_chunks(query, candidate[first], chunk), target, group, labels)


def top(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    k: int,
    key: Int[np.ndarray, " C"] | None = None,
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The k best candidates of each query and their scores, best first.

    Ties go by lower `key` of the candidates; the default is their index.
    """
    k = min(k, len(candidate))
    key = np.arange(len(candidate)) if key is None else key
    index, value = np.zeros((len(query), k), np.int64), np.zeros((len(query), k), np.float32)
    for start, scores in score_chunks(query, candidate):
        rows = slice(start, start + len(scores))
        # All candidates that tie with the k-th best are sorted, so that the tie rule is exact.
        edge = np.partition(scores, -k, axis=1)[:, -k]
        for i, row in enumerate(scores):
            near = np.flatnonzero(row >= edge[i])
            index[start + i] = near[np.lexsort((key[near], -row[near]))[:k]]
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
        raise UserError(
            f"expected targets in 0..{len(candidate) - 1}; got {target[i]} for query {i}; "
            "remove items that are candidates but not queries"
        )
