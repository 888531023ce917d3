"""Encoding a side of a pool: order, padding, unit rows, distinct inputs."""

import numpy as np
import pytest

from tmr_jax.models.encode import distinct, encode, sequence_keys, unit


def batches(order, size):
    """Batches of `size` rows of one number; the last padded with rows that must not be read."""
    for start in range(0, len(order), size):
        indices = np.array(order[start : start + size])
        yield indices, np.pad(indices.astype(np.float32), (0, size - len(indices)), mode="edge")


def corner(numbers):
    return np.stack([numbers + 1, np.ones_like(numbers)], 1)


def test_rows_come_back_in_item_order_as_they_are():
    found = encode(corner, batches([4, 2, 0, 1, 3], 2), 5, 2)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1], [2, 1], [3, 1], [4, 1], [5, 1]]


def test_a_forgotten_or_repeated_item_is_our_own_bug():
    with pytest.raises(AssertionError, match="1 of 3"):
        encode(corner, batches([0, 1], 2), 3, 2)
    with pytest.raises(AssertionError, match="1 of 2"):
        encode(corner, batches([0, 1, 1], 1), 2, 2)


def test_an_embedding_that_is_not_finite_names_its_item():
    with pytest.raises(ValueError, match="item 2"):
        encode(lambda x: corner(np.where(x == 2, np.nan, x)), batches([0, 1, 2], 1), 3, 2)


def test_a_zero_row_stays_zero():
    assert unit(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_distinct_keeps_the_order_of_appearance():
    keys = np.array([[9, 9], [1, 1], [9, 9], [0, 2], [1, 1]], np.uint8)
    first, group = distinct(keys)
    assert first.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]
    assert np.array_equal(keys[first][group], keys)


def test_distinct_of_nothing():
    first, group = distinct(np.zeros((0, 16), np.uint8))
    assert len(first) == len(group) == 0


def test_sequence_keys_see_borders():
    # [1, 2 | 3], [1 | 2, 3], and [1, 2 | 3] again: the same tokens, other borders.
    tokens = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], np.int32)
    keys = sequence_keys(tokens, np.array([0, 2, 3, 4, 6, 8, 9]))
    assert distinct(keys)[1].tolist() == [0, 1, 2, 3, 0, 1]
