"""Items for the tests of stores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tmr_jax.index.schema import COLUMNS, Batch


def rows(count: int, width: int = 4, seed: int = 0) -> np.ndarray:
    """Random rows of length one, float32 [count, width]."""
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def items(ids: Sequence[int], vectors: np.ndarray, **told) -> Batch:
    """A batch whose columns tell the id: mw is ten times it, and so on."""
    number = np.array(ids, np.int64)
    columns = {name: np.zeros(len(number), kind) for name, kind in COLUMNS.items()}
    columns |= {"mw": (10.0 * number).astype(np.float32), "rings": (number % 5).astype(np.int32)}
    columns |= {
        "norm": (1.0 + number).astype(np.float32),
        "groups": number % 8,
        "classes": number % 4,
        "salt": number % 7 == 0,
        "duplicate": number % 3 == 0,
    }
    columns |= {"identity": 1000 - number, "parent": number // 2, "logp": np.float32(-0.5) * number}
    columns |= {"name": [f'item {i} "é"' for i in ids], "smiles": ["C" * (i + 1) for i in ids]}
    return Batch(number, np.asarray(vectors, np.float32), columns | told)


ABOUT = {"columns": [[n, k, n, ""] for n, k in (("A b.c", "number"), ('"', "text"), ("d", "date"))]}


def own(ids: Sequence[int]) -> dict[str, list]:
    """Columns of a user's file, some cells of which are empty."""
    return {
        "A b.c": [i / 4 if i % 3 else None for i in ids],
        '"': [f'it\'s\\ "{i % 4}"' if i % 5 else None for i in ids],
        "d": [f"2024-01-{i % 28 + 1:02}" if i % 7 else None for i in ids],
    }
