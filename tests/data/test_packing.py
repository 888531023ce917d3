"""Packing by hand and against what it must keep: every text whole, once, and few places empty."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.data.batching import pack, packed_text
from tmr_jax.data.tables import TextTable


def table(*lengths) -> TextTable:
    """Text i holds 10 i, 10 i + 1, ..."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate([10 * i + np.arange(n) for i, n in enumerate(lengths)])
    return TextTable(tokens.astype(np.int32), offsets, np.zeros(len(lengths), bool))


def test_first_fit_longest_first_by_hand():
    rows, starts, used = pack(np.array([2, 5, 3, 6, 2]), 8)
    # 6 | 5 | 3 after 5 | 2 after 6 | 2 in a third row
    assert rows.tolist() == [0, 1, 1, 0, 2] and starts.tolist() == [6, 0, 5, 0, 0] and used == 3


def test_rows_of_packed_texts_by_hand():
    packed = packed_text(np.array([2, 0, 1]), table(1, 2, 3), 4, (1, 2, 3), 99)
    assert packed.tokens.tolist() == [[20, 21, 22, 0], [10, 11, 99, 99]]
    assert packed.text.tolist() == [[0, 0, 0, 1], [2, 2, 3, 3]]
    assert packed.position.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert packed.places.tolist() == [[0, 1, 2, 0], [3, 0, 0, 0], [4, 5, 0, 0]]
    assert packed.mask.sum(1).tolist() == [3, 1, 2]


def test_every_token_is_where_places_say_and_nothing_else_is_real():
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(1, 33, random.integers(1, 40))
        texts = table(*lengths)
        packed = packed_text(np.arange(len(lengths)), texts, 32, (len(lengths),), -1)
        flat = packed.tokens.ravel()
        for i, n in enumerate(lengths):
            own = packed.places[i, packed.mask[i]]
            assert flat[own].tolist() == (10 * i + np.arange(n)).tolist()
            assert (packed.text.ravel()[own] == i).all()
            assert packed.position.ravel()[own].tolist() == list(range(n))
            assert len(np.unique(own // 32)) == 1  # no text is split
        assert (packed.text < len(lengths)).sum() == lengths.sum()


def test_the_smallest_level_that_does():
    texts = table(3, 3, 3)
    heights = [len(packed_text(np.arange(n), texts, 8, (1, 2, 3), 0).tokens) for n in (1, 2, 3)]
    assert heights == [1, 1, 2]


def test_a_text_longer_than_a_row_says_what_to_lower():
    with pytest.raises(ValueError, match=r"up to 4 tokens, .*; got one of 5; lower"):
        packed_text(np.array([0]), table(5), 4, (1,), 0)


def test_nine_places_in_ten_are_real_at_the_lengths_of_chebi20():
    random = np.random.default_rng(0)  # ChEBI-20: mean 85, sd 43, cut at 256
    spread = np.sqrt(np.log(1 + (43 / 85) ** 2))
    lengths = random.lognormal(np.log(85) - spread**2 / 2, spread, 512).astype(int).clip(6, 256)
    used = pack(lengths, 256)[2]
    assert lengths.sum() / (256 * used) > 0.97
