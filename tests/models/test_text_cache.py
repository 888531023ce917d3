"""States of a frozen text encoder: computed once, and the same as BERT at every step."""

import ml_dtypes
import numpy as np
import pytest

from tmr_jax.data.tables import TextTable
from tmr_jax.models.text_cache import text_states, with_states
from tmr_jax.types import TextBatch

TABLE = TextTable(
    np.array([7, 8, 9, 4], np.int32), np.array([0, 3, 4], np.int64), np.zeros(2, bool)
)


def batches():
    """Text 1, then text 0 with a row of padding behind it."""
    mask = np.array([[True, False, False], [True, True, True]])
    yield np.array([1]), TextBatch(np.array([[4, 0, 0]]), mask[:1])
    yield np.array([0]), TextBatch(np.array([[7, 8, 9], [7, 8, 9]]), mask[[1, 1]])


def read(batch):
    """A state of width 2: the id, and its half."""
    read.called += 1
    return np.stack([batch.tokens, batch.tokens / 2], -1).astype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    read.called = 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_those_of_each_text_and_are_read_once(dtype, tmp_path):
    for _ in range(2):
        states = text_states(read, "abc", TABLE, batches(), dtype)
        assert states.rows.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        np.testing.assert_array_equal(states.rows.astype(np.float32)[:, 0], [7, 8, 9, 4])
    assert read.called == 2  # once for each batch, and not again
    assert [p.suffix for p in tmp_path.iterdir()] == [".npy"]


def test_batches_carry_states_and_nothing_on_padding():
    states = text_states(read, "abc", TABLE, batches(), "float32")
    (_, first), (_, second) = with_states(batches(), states)
    np.testing.assert_array_equal(first.tokens[0, :, 0], [4, 0, 0])
    np.testing.assert_array_equal(second.tokens[..., 0], [[7, 8, 9], [0, 0, 0]])


def test_other_weights_have_other_states():
    text_states(read, "abc", TABLE, batches(), "float32")
    text_states(read, "abd", TABLE, batches(), "float32")
    assert read.called == 4


def test_a_file_cut_short_is_made_again(tmp_path):
    text_states(read, "abc", TABLE, batches(), "float32")
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    states = text_states(read, "abc", TABLE, batches(), "float32")
    assert read.called == 4
    np.testing.assert_array_equal(states.rows[:, 1], [3.5, 4, 4.5, 2])
