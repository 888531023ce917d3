"""Hard negatives: groups of pairs that are near one another among all training pairs.

Pairs are near by rows that do not change while a model trains (`tmr_jax.train.dataset`), so the
groups of an epoch are a function of seed and epoch alone, as all plans are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int8

STEPS = 127  # of a row's length: its products are sums of whole numbers, which float32 has exactly
TOGETHER = 64  # pairs whose products with all others are one matrix product


class Mined(NamedTuple):
    """What groups are made of; row i belongs to pair i."""

    rows: Int8[np.ndarray, "n K"]
    kinds: Int[np.ndarray, "n C"]  # of molecules, of texts: what is equal is in no group together
    size: int  # pairs of a group


def whole_numbers(rows: Float[np.ndarray, "n K"]) -> Int8[np.ndarray, "n K"]:
    """Rows of length one in steps of 1/127: the order of a sum then changes no bit of it."""
    return np.rint(rows * np.float32(STEPS)).astype(np.int8)


def near_groups(order: Int[np.ndarray, " n"], mined: Mined) -> Int[np.ndarray, "G S"]:
    """All pairs `order` in groups: the first that is free, and the free ones nearest to it.

    Pairs of one kind come into one group only where nothing else is left.
    """
    found: list[np.ndarray] = []
    while len(order):
        rows, kinds = mined.rows[order].astype(np.float32), mined.kinds[order]
        free = np.ones(len(order), bool)
        while free.sum() > len(order) // 2:  # then those that are left alone
            firsts = np.flatnonzero(free)[:TOGETHER]
            for first, cosine in zip(firsts, rows[firsts] @ rows.T, strict=True):
                if not free[first]:  # it is in the group of one before
                    continue
                cosine[first] = np.inf  # rows are rounded: another may have a larger product
                nearest = np.argsort(np.where(free, -cosine, np.inf), kind="stable")
                group = [*_of_different_kinds(nearest[: free.sum()], kinds, mined.size)]
                free[group] = False
                found.append(order[group])
        order = order[free]
    return np.array(found)


def _of_different_kinds(
    nearest: Iterable[int], kinds: Int[np.ndarray, "n C"], size: int
) -> Iterator[int]:
    """The first `size` that share no kind, filled up with the first of the others."""
    seen: set[tuple[int, int]] = set()
    others: list[int] = []
    for i in nearest:
        own = {*enumerate(kinds[i].tolist())}
        if own & seen:
            others.append(i)
            continue
        seen |= own
        size -= 1
        yield i
        if not size:
            return
    yield from others[:size]
