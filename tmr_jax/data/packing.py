"""Texts side by side in rows of one length, so that few places of a batch are padding.

In: the lengths of a batch's texts, in word pieces. Out: the row and the place where each begins. A
batch of random texts then has one shape, whatever their lengths are, where sorting by length would
bring texts of one length together and make them each other's negatives.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until the step moves them to the device)

from __future__ import annotations

import numpy as np

from tmr_jax.data.tables import TextTable, take_ranges
from tmr_jax.types import PackedText, UserError


def pack(lengths: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First fit, longest first: row and first place of each text, and how many rows that takes.

    `lengths` int64 [B], each at most `row`; texts of equal length keep their order. No text is
    split. At most 11/9 of the fewest rows possible and one more, of texts hardly ever any more.
    """
    room = np.full(len(lengths), row, np.int64)
    rows, starts = np.zeros((2, len(lengths)), np.int64)
    used = 0
    for i in np.argsort(-lengths, kind="stable"):
        at = int(np.argmax(room >= lengths[i]))  # a fresh row always has room
        rows[i], starts[i] = at, row - room[at]
        room[at] -= lengths[i]
        used = max(used, at + 1)
    return rows, starts, used


def packed_text(
    indices: np.ndarray, table: TextTable, row: int, levels: tuple[int, ...], pad_token: int
) -> PackedText:
    """The texts `indices` in rows of `row` tokens, as many rows as the smallest level that does.

    Raises ValueError where a text is longer than a row.
    """
    tokens, offsets = take_ranges(table.offsets, indices)
    lengths = np.diff(offsets)
    if lengths.max(initial=1) > row:
        raise UserError(
            f"expected texts of up to {row} tokens, the length of a row; got one of "
            f"{lengths.max()}; lower --features.max-tokens"
        )
    rows, starts, used = pack(lengths, row)
    height = next(level for level in levels if level >= used)  # the last level is B
    first = rows * row + starts
    number = np.repeat(np.arange(len(indices)), lengths)
    position = np.arange(len(tokens)) - np.repeat(offsets[:-1], lengths)
    place = np.repeat(first, lengths) + position
    flat = np.full((3, height * row), [[pad_token], [len(indices)], [0]], np.int32)
    flat[:, place] = table.tokens[tokens], number, position
    mask = np.arange(row)[None, :] < lengths[:, None]
    places = np.where(mask, first[:, None] + np.arange(row)[None, :], 0).astype(np.int32)
    filled = (part.reshape(height, row) for part in flat)
    return PackedText(*filled, places=places, mask=mask)
