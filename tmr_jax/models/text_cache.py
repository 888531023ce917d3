"""The hidden states of a frozen text encoder, computed once and kept in the cache folder.

In: tables of token ids. Out: the encoder's last hidden states of all texts, read from a file as
they are needed. A batch then carries states instead of ids and BERT does not run, so training or
ranking above it takes minutes instead of an hour.
"""

# pyright: reportArgumentType=false
# (numpy arrays stand in for jax.Array in a batch until the step moves them to the device)

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tmr_jax.data.files import Format, cache_key, cached
from tmr_jax.data.tables import TextTable
from tmr_jax.types import TextBatch

TextBatches = Iterable[tuple[np.ndarray, TextBatch]]
OnProgress = Callable[[int], None]


def ignore(done: int) -> None:
    """No progress is shown."""


class States(NamedTuple):
    """Last hidden states of every text: those of text i are rows offsets[i] to offsets[i + 1]."""

    rows: np.ndarray  # [sum T, W], of the model's own precision
    offsets: np.ndarray  # int64 [n + 1]

    def batch(self, indices: np.ndarray, ids: TextBatch) -> TextBatch:
        """The batch with states instead of its ids; rows beyond the `indices` are zeros."""
        states = np.zeros((*ids.tokens.shape, self.rows.shape[1]), self.rows.dtype)
        for row, i in enumerate(indices):
            text = self.rows[self.offsets[i] : self.offsets[i + 1]]
            states[row, : len(text)] = text
        return TextBatch(states, ids.mask)


def text_states(
    read: Callable[[TextBatch], Any],
    weights: str,
    table: TextTable,
    batches: TextBatches,
    dtype: Any,
    on_progress: OnProgress = ignore,
) -> States:
    """States of every text of `table`, from the cache folder if they are there.

    `read(batch)` runs the encoder, `weights` is the SHA-256 of its parameters, `batches` covers the
    texts, each once. Where nothing can be written, states are computed again the next time.
    """
    dtype = jnp.dtype(dtype)
    rows = cached(
        cache_key("states", [weights, str(dtype)], (table.tokens, table.offsets)),
        lambda: _compute(read, table, batches, dtype, on_progress),
        lambda rows: rows.ndim == 2 and len(rows) == len(table.tokens) and rows.dtype == dtype,
        _format(dtype),
    )
    return States(rows, table.offsets)


def with_states(batches: TextBatches, states: States) -> Iterator[tuple[np.ndarray, TextBatch]]:
    for indices, ids in batches:
        yield indices, states.batch(indices, ids)


def _compute(
    read: Callable[[TextBatch], Any],
    table: TextTable,
    batches: TextBatches,
    dtype: Any,
    on_progress: OnProgress,
) -> np.ndarray:
    rows, done = None, 0
    for indices, batch in batches:
        states = np.asarray(read(batch).astype(dtype))
        if rows is None:
            rows = np.empty((len(table.tokens), states.shape[-1]), dtype)
        for row, i in enumerate(indices):
            begin, end = table.offsets[i], table.offsets[i + 1]
            rows[begin:end] = states[row, : end - begin]
        done += len(indices)
        on_progress(done)
    assert rows is not None, "a table of texts is never empty"
    return rows


def _format(dtype: np.dtype) -> Format[np.ndarray]:
    """A .npy file whose rows are read when they are needed.

    It holds integers of the same size: NumPy's files have no bfloat16.
    """
    bits = np.dtype(f"u{dtype.itemsize}")

    def read(path: Path) -> np.ndarray:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        return rows.view(dtype) if rows.dtype == bits else rows

    return Format(".npy", read, lambda file, rows: np.save(file, rows.view(bits)))
