"""Ranks by counting: how many candidates beat a query's target, and how many tie with it.

In: rows of length one. Out: a `Ranking`, never a sorted list: counting a row of 33,010 scores takes
a millisecond, sorting it a hundred. Candidates that are the same model input share one column of
the score matrix, so they tie exactly. Accelerators divide the columns: the score of the best right
candidate is the maximum over all devices, and counts are summed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from tmr_jax.types import Ranking, UserError

# Scores are computed in blocks of exactly this many queries (the last one padded), so that the bits
# of a score never depend on how many queries are held at once. Nor on a query's place in the block:
# OpenBLAS sums rows beyond the eighth in another order on AMD's Zen 3, as it does not on Intel's.
TILE = 8
AXIS = "data"
QUERIES = 256  # at once, in whole tiles: host and device hold as many scores for each column
COLUMNS = 128  # the columns of a device are a multiple of it
LEAST = 2**22  # scores; the host counts fewer before a device returns
NONE = -1  # no candidate


def rank(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"] | None = None,
    labels: Int[np.ndarray, "L C"] | None = None,
    further: Int[np.ndarray, "Q R"] | None = None,
) -> Ranking:
    """Count, for each query, the candidates above its target and those level with it.

    Inputs: `target[i]` is the row of `candidate` that belongs to query i. Candidates of one `group`
    are the same model input (default: rows that are equal bit for bit); only the first row of a
    group is scored. `labels`, `further`: see `count`. Accelerators, if any, count large pools.
    Errors: UserError for a target outside the candidates and for a score that is not finite.

    >>> rows = np.eye(3, dtype=np.float32)
    >>> rank(rows, rows, np.array([0, 1, 1])).greater.tolist()
    [0, 0, 1]
    """
    target = np.asarray(target, np.int64)
    bad = (target < 0) | (target >= len(candidate))
    if bad.any():
        i = int(bad.argmax())
        raise UserError(
            f"expected targets in 0..{len(candidate) - 1}; got {target[i]} for query {i}; "
            "remove items that are candidates but not queries"
        )
    if group is None:
        rows = np.ascontiguousarray(candidate, np.float32)
        group = np.unique(rows.view(f"V{rows.strides[0]}")[:, 0], return_inverse=True)[1]
    first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    if jax.default_backend() != "cpu" and len(query) * len(first) >= LEAST:
        devices = jax.local_devices()
        return rank_on(devices, query, candidate[first], target, group, labels, further)
    return count(score_chunks(query, candidate[first]), target, group, labels, further)


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


# On the host


def count(
    chunks: Iterable[tuple[int, Float[np.ndarray, "q G"]]],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
    further: Int[np.ndarray, "Q R"] | None = None,
) -> Ranking:
    """`rank` on computed scores: (first query, rows of scores), a column for each group.

    Inputs: `group` 0..G-1 is the column of each candidate. `labels`, if given: a candidate that
    shares any of its labels with the target is right, too; the best of the right ones counts as
    the target and the others leave the pool. Labels do not chain: a candidate that shares a label
    only with another right candidate is not right. `further`, which needs `labels`: more right
    candidates of each query; the target fills a row up.
    """
    weight = np.bincount(group)
    # A column counts once, plus once for each further candidate that shares it.
    many = np.flatnonzero(weight > 1)
    more = weight[many] - 1.0  # a matrix product of floats is fast, and exact far beyond any pool
    greater, equal = np.zeros(len(target), np.int64), np.zeros(len(target), np.int64)
    for start, scores in chunks:
        rows = slice(start, start + len(scores))
        query, right = right_ones(target[rows], labels, None if further is None else further[rows])
        reached = scores[query, group[right]]
        best = np.full((len(scores), 1), -np.inf, scores.dtype)
        np.maximum.at(best[:, 0], query, reached)
        # No right candidate is above the best one; those that tie with it leave the pool.
        above, level = scores > best, scores == best
        greater[rows] = np.count_nonzero(above, 1) + above[:, many] @ more
        equal[rows] = np.count_nonzero(level, 1) + level[:, many] @ more
        equal[rows] -= np.bincount(query[reached == best[query, 0]], minlength=len(scores))
    return Ranking(greater, equal, len(group))


def right_ones(
    target: np.ndarray, labels: np.ndarray | None, further: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (query, candidate) of all right candidates, the target included."""
    if labels is None:
        return np.arange(len(target)), target
    same = np.zeros((len(target), labels.shape[1]), bool)
    for label in labels:
        same |= label == label[target, None]
    if further is not None:
        same[np.arange(len(target))[:, None], further] = True
    query, right = np.nonzero(same)
    return query, right


def score_chunks(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"]
) -> Iterator[tuple[int, Float[np.ndarray, "q C"]]]:
    """Yield (first query, its chunk of scores); the array is reused by the next chunk.

    Errors: UserError that names the first query with a score that is not finite.
    """
    columns = np.ascontiguousarray(candidate.T, np.float32)
    held = np.empty((QUERIES, len(candidate)), np.float32)
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
    """UserError that names the first bad query, counted from `start`; nothing without one."""
    if bad.any():
        raise UserError(
            f"expected finite scores; got NaN for query {start + int(bad.argmax())}; look for "
            "non-finite parameters or features in the run that made these embeddings"
        )


# On accelerators


def rank_on(
    devices: Sequence[Any],
    query: Float[np.ndarray, "Q D"],
    column: Float[np.ndarray, "G D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
    further: Int[np.ndarray, "Q R"] | None = None,
) -> Ranking:
    """`count` of the products of query and column; `group` is the column of each candidate.

    Errors: UserError that names the first query with a score that is not finite.
    """
    count, place = counter(tuple(devices))
    room = -len(column) % (COLUMNS * len(devices))
    rows = np.pad(np.float32(column), ((0, room), (0, 0)))
    weight = np.bincount(group, minlength=len(rows)).astype(np.int32)
    pool = jax.device_put((rows, weight), place)
    counts = []
    for start in range(0, len(query), QUERIES):
        block = np.zeros((QUERIES, query.shape[1]), np.float32)
        part = query[start : start + QUERIES]
        block[: len(part)] = part
        few = None if further is None else further[start : start + QUERIES]
        right = _right(target[start : start + QUERIES], group, labels, few)
        counts.append(count(block, *pool, right))
    greater, equal, bad = np.concatenate([np.asarray(x) for x in counts], 1)[:, : len(query)]
    refuse(bad > 0)
    return Ranking(greater.astype(np.int64), equal.astype(np.int64), len(group))


def _right(
    target: np.ndarray, group: np.ndarray, labels: np.ndarray | None, further: np.ndarray | None
) -> Int[np.ndarray, "q R"]:
    """The columns of the right candidates of each query, then NONE; R is a power of two."""
    query, right = right_ones(target, labels, further)
    each = np.bincount(query, minlength=QUERIES)
    columns = np.full((QUERIES, 1 << (int(each.max()) - 1).bit_length()), NONE, np.int32)
    columns[query, np.arange(len(query)) - np.repeat(np.cumsum(each) - each, each)] = group[right]
    return columns


@functools.lru_cache(maxsize=8)
def counter(devices: tuple[Any, ...]) -> tuple[Any, NamedSharding]:
    """The compiled function that counts for QUERIES queries, and the sharding of its columns.

    It takes queries float32 [QUERIES, D], columns float32 [G, D], the number of candidates of each
    column, int32 [G], and the right columns of each query, int32 [QUERIES, R], filled up with
    NONE. It returns int32 [3, QUERIES]: candidates above the best right one, those that tie with
    it and are not right, and scores that are not finite. G is a multiple of COLUMNS times the
    number of devices.

    To lower it for devices that are absent: `count, place = counter(devices)`, then
    `count.lower(...)` with a `jax.ShapeDtypeStruct` for each of the four; columns and weights have
    the sharding `place`, the others `NamedSharding(place.mesh, PartitionSpec())`.
    """
    mesh, split = Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS)
    whole = PartitionSpec()
    shared = jax.shard_map(
        _count, mesh=mesh, in_specs=(whole, split, split, whole), out_specs=whole
    )
    return jax.jit(shared), NamedSharding(mesh, split)


def _count(
    query: Float[Array, "q D"],
    column: Float[Array, "g D"],
    weight: Int[Array, " g"],
    right: Int[Array, "q R"],
) -> Int[Array, "3 q"]:
    """On one device, whose columns start at number g times the number of the device."""
    scores = jnp.matmul(query, column.T, precision=Precision.HIGHEST)
    own = right - jax.lax.axis_index(AXIS) * len(column)
    here = (right != NONE) & (own >= 0) & (own < len(column))
    reached = jnp.take_along_axis(scores, jnp.where(here, own, 0), 1)
    reached = jnp.where(here, reached, -jnp.inf)
    best = jax.lax.pmax(reached.max(1, keepdims=True), AXIS)

    def counted(which: Array) -> Array:
        return jnp.where(which, weight[None], 0).sum(1)

    level = counted(scores == best) - (here & (reached == best)).sum(1)
    return jax.lax.psum(jnp.stack([counted(scores > best), level, jnp.isnan(scores).sum(1)]), AXIS)
