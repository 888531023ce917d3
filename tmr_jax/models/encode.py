"""Embeddings of a whole side of a pool: batches in, unit rows out, each distinct input once."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from tmr_jax.types import MolOut, Side, TextOut

AHEAD = 4  # batches on their way, one for each device of an ordinary machine


def encode(
    apply: Callable[[Any], Any],
    batches: Iterable[tuple[Int[np.ndarray, " b"], Any]],
    count: int,
    dim: int,
) -> Float[np.ndarray, "count D"]:
    """Embeddings as they are, row i for item i.

    Inputs: `apply(batch)` returns pooled embeddings [B, D], B >= b; the first b rows belong to the
    batch's `indices`, the others are padding. `batches` covers 0..count-1, each index once.
    Errors: ValueError for an embedding that is not finite; it names the item.
    """
    rows = np.zeros((count, dim), np.float32)
    seen = np.zeros(count, np.int64)
    for indices, out in _applied(apply, batches):
        rows[indices] = np.asarray(out, np.float32)[: len(indices)]
        np.add.at(seen, indices, 1)
    _check(rows, seen)
    return rows


def encode_parts(
    apply: Callable[[Any], TextOut | MolOut],
    batches: Iterable[tuple[Int[np.ndarray, " b"], Any]],
    keys: UInt8[np.ndarray, "count W"],
    dim: int,
) -> Side:
    """As `encode`, and the words or atoms of every item with them.

    `keys` are digests of the inputs.
    """
    count = len(keys)
    pooled = np.zeros((count, dim), np.float32)
    seen, sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    found = []
    for indices, out in _applied(apply, batches):
        pooled[indices] = np.asarray(out.pooled, np.float32)[: len(indices)]
        np.add.at(seen, indices, 1)
        parts, sizes[indices] = _parts(out, len(indices))
        found.append((indices, parts))
    _check(pooled, seen)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = np.empty((offsets[-1], dim), np.float32)
    for indices, rows in found:
        counts = sizes[indices]
        shift = offsets[indices] - (np.cumsum(counts) - counts)
        parts[np.repeat(shift, counts) + np.arange(len(rows))] = rows
    key = np.ascontiguousarray(keys[:, :4]).view(np.uint32)[:, 0].astype(np.int64) >> 1
    return Side(pooled, parts, offsets, key)


def _applied(apply: Callable[[Any], Any], batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple]:
    """(indices, result) of every batch, so late that devices work while batches are made."""
    waiting: deque[tuple] = deque()
    for indices, batch in batches:
        waiting.append((indices, apply(batch)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _parts(out: TextOut | MolOut, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the parts of the first `items` items, in their order, and how many each has."""
    if isinstance(out, TextOut):
        mask = np.asarray(out.mask)[:items]
        return np.asarray(out.tokens)[:items][mask], mask.sum(1)
    of_item = np.asarray(out.node_graph)
    order = np.argsort(of_item, kind="stable")  # motifs need not stand in the order of molecules
    order = order[of_item[order] < items]
    return np.asarray(out.nodes)[order], np.bincount(of_item[order], minlength=items)


def _check(rows: np.ndarray, seen: np.ndarray) -> None:
    count = len(rows)
    assert (seen == 1).all(), f"{(seen != 1).sum()} of {count} items not encoded exactly once"
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise ValueError(
            f"expected finite embeddings, got NaN or infinity for item {int(bad.argmax())} "
            f"({int(bad.sum())} of {count}); check that the run's training did not diverge"
        )


def unit(rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Rows of length one; a zero row stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-8))


def distinct(
    keys: UInt8[np.ndarray, "M W"],
) -> tuple[Int[np.ndarray, " G"], Int[np.ndarray, " M"]]:
    """First index of each distinct key, in order of appearance, and the group 0..G-1 of each item.

    Encode the items at `first`, then spread the rows: `rows[group]`. Equal inputs then have equal
    embeddings bit for bit, whatever batch they would have fallen into.
    """
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    words = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
    first, group = np.unique(words, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[group]


def sequence_keys(
    tokens: Int[np.ndarray, " sumT"], offsets: Int[np.ndarray, " M1"]
) -> UInt8[np.ndarray, "M 16"]:
    """A digest of each token sequence: equal sequences, equal keys."""
    flat = np.ascontiguousarray(tokens, np.int32)
    digests = [
        hashlib.blake2b(flat[a:b].tobytes(), digest_size=16).digest()
        for a, b in pairwise(offsets.tolist())
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
