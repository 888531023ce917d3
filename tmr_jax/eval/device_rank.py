"""`eval/count.py` on accelerators, with the candidates divided over the devices.

A device scores its own columns, so equal inputs, which share one, tie exactly, as on the host. The
score of the best right candidate is the maximum over all devices; counts are summed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from tmr_jax.eval.count import refuse, right_ones
from tmr_jax.types import Ranking

AXIS = "data"
QUERIES = 256  # at once: a device holds this many scores for each of its columns
COLUMNS = 128  # the columns of a device are a multiple of it
LEAST = 2**22  # scores; the host counts fewer before a device returns
NONE = -1  # no candidate


def rank_on(
    devices: Sequence[Any],
    query: Float[np.ndarray, "Q D"],
    column: Float[np.ndarray, "G D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
) -> Ranking:
    """`count` of the products of query and column; `group` is the column of each candidate.

    Errors: ValueError that names the first query with a score that is not finite.
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
        counts.append(count(block, *pool, _right(target[start : start + QUERIES], group, labels)))
    greater, equal, bad = np.concatenate([np.asarray(x) for x in counts], 1)[:, : len(query)]
    refuse(bad > 0)
    return Ranking(greater.astype(np.int64), equal.astype(np.int64), len(group))


def _right(
    target: np.ndarray, group: np.ndarray, labels: np.ndarray | None
) -> Int[np.ndarray, "q R"]:
    """The columns of the right candidates of each query, then NONE; R is a power of two."""
    query, right = right_ones(target, labels)
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
