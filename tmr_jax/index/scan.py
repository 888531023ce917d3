"""The nearest rows on all devices: each scores its share of a block, the host takes the best.

Only one block is on the devices at a time, never the whole index. Of equal scores a share returns
its first rows, so the result does not depend on the number of devices.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

AXIS = "data"
SMALLEST = 128  # rows of a share, at least; every size is this times a power of two


def best_of_block(
    queries: Float[np.ndarray, "Q D"],
    rows: Float[np.ndarray, "n D"],
    live: Bool[np.ndarray, " n"],
    k: int,
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """Places and cosines of the k best live rows of each share, in no order over the shares.

    Where a share has fewer rows the score is -inf and the place arbitrary.
    """
    devices = tuple(jax.local_devices())
    share = _power(-(-len(rows) // len(devices)))
    whole = np.zeros((share * len(devices), rows.shape[1]), np.float32)
    whole[: len(rows)] = rows
    mask = np.zeros(len(whole), bool)
    mask[: len(rows)] = live
    scores, places = _program(devices, min(_power(k), share))(queries, whole, mask)
    return np.minimum(np.asarray(places), len(rows) - 1), np.asarray(scores)


def _power(count: int) -> int:
    """`SMALLEST` times a power of two, not below the count: few sizes, few programs."""
    return SMALLEST << max(0, -(-count // SMALLEST) - 1).bit_length()


@lru_cache(maxsize=16)
def _program(devices: tuple[Any, ...], k: int):
    """The compiled search of a block whose rows lie on the devices, share by share."""
    mesh = Mesh(np.array(devices), (AXIS,))
    shares, copies = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    search = jax.shard_map(
        partial(_best_of_share, k=k),
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=(P(None, AXIS), P(None, AXIS)),
    )
    return jax.jit(search, in_shardings=(copies, shares, shares))


def _best_of_share(
    queries: Float[Array, "Q D"], rows: Float[Array, "n D"], live: Bool[Array, " n"], k: int
) -> tuple[Float[Array, "Q K"], Int[Array, "Q K"]]:
    cosines = jnp.dot(queries, rows.T, precision=jax.lax.Precision.HIGHEST)  # [Q, n]
    scores, places = jax.lax.top_k(jnp.where(live[None], cosines, -jnp.inf), k)
    return scores, places + jax.lax.axis_index(AXIS) * len(rows)
