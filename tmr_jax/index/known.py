"""What an index has of its molecules, for the next one of a file that has changed.

The vector and the columns of a molecule depend on its SMILES, the model and RDKit alone: a name or
another cell of the file may change without encoding it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.index import exact
from tmr_jax.index.entries import digest
from tmr_jax.index.schema import COLUMNS, CONTENT, NONE


class Known:
    """The molecules of the intact shards of an index of the exact engine, found by their SMILES."""

    def __init__(self, folder: Path | None, width: int) -> None:
        """Reads every byte of the folder, if any; `width` is that of the vectors."""
        places = exact.shard_places(folder) if folder else []
        intact = [place for place in places if not exact.damage(place, width, deep=True)]
        self._shards = [exact.map_shard(place, width) for place in intact]
        hashes = [_hashes(shard.table.column(CONTENT).to_pylist()) for shard in self._shards]
        whole = np.concatenate([np.zeros(0, np.int64), *hashes])
        self._starts = np.cumsum([0, *map(len, hashes)])
        self._hashes, self._places = np.unique(whole, return_index=True)

    def find(self, smiles: Sequence[str]) -> Int[np.ndarray, " n"]:
        """The place of each molecule, NONE where it is unknown."""
        if not len(self._hashes):
            return np.full(len(smiles), NONE, np.int64)
        wanted = _hashes(smiles)
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[at] == wanted, self._places[at], NONE)

    def take(
        self, places: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n D"], dict[str, np.ndarray]]:
        """The vectors and the COLUMNS of molecules at some places, at least one."""
        numbers = np.searchsorted(self._starts, places, "right") - 1
        back = np.argsort(np.argsort(numbers, kind="stable"))  # from the order of the shards
        parts = []
        for number in np.unique(numbers):
            rows = places[numbers == number] - self._starts[number]
            shard = self._shards[number]
            parts.append((shard.rows[rows], {n: shard.columns[n][rows] for n in COLUMNS}))
        vectors = np.concatenate([vectors for vectors, _ in parts])[back]
        return vectors, {n: np.concatenate([part[n] for _, part in parts])[back] for n in COLUMNS}


def _hashes(smiles: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.array([digest(text) for text in smiles], np.int64)
