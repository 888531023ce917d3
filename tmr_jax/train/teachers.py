"""What finished runs say of the training pairs, for a run that learns from them (distillation).

In: runs that were trained on the same data. Out: a row for each text and each molecule, whose
products are the mean of the runs' cosines. A run's rows are kept in the cache folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tmr_jax.config import DataConfig
from tmr_jax.data.files import ARRAYS, Arrays, cache_key, cached
from tmr_jax.data.workers import progress_of
from tmr_jax.eval.evaluate import check_fitted, read_config
from tmr_jax.eval.leakage import data_seen
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_run
from tmr_jax.types import Taught, UserError


def taught_by(
    runs: Sequence[Path], data: DataConfig, texts: list[str], smiles: list[str]
) -> tuple[Taught, dict[str, str]]:
    """Rows of the texts and of their molecules, float16 [n, E], and which parameters made them.

    Errors: UserError for a folder that is not a run, and for a run that was trained on other pairs
    than `data`, which this training would learn from it.
    """
    sides, record = [], {}
    for i, run in enumerate(runs):
        config = read_config(run)
        check_fitted(run, config)
        if others := [other for other in data_seen(run, config.data) if other != data]:
            raise UserError(
                f"expected teachers (--train.teachers) trained on the data of this run, {data}; "
                f"got {run}, trained on {others[0]}; train it on these"
            )
        rows, record[f"teacher_{i}"] = _rows(run, texts, smiles)
        sides.append(rows)
    return joined(sides), record


def joined(sides: Sequence[Arrays]) -> Taught:
    """One row for what each run has one for: products of these are the mean of theirs."""
    share = np.float32(1 / np.sqrt(len(sides)))
    text, mol = (np.concatenate([share * s[n] for s in sides], 1) for n in ("text", "mol"))
    return Taught(np.float16(text), np.float16(mol))  # pyright: ignore[reportArgumentType]


def _rows(run: Path, texts: list[str], smiles: list[str]) -> tuple[Arrays, str]:
    """A run's embeddings, of length one, and the SHA-256 of its parameters."""
    model, params, checkpoint = load_run(run)

    def encoded() -> Arrays:
        encoder = Encoder(model, params)
        with progress_of(f"texts, as {run} reads them", len(texts), transient=True) as on_progress:
            text = encoder.texts(texts, on_progress).rows
        what = f"molecules, as {run} reads them"
        with progress_of(what, len(smiles), transient=True) as on_progress:
            mol, kept, _ = encoder.molecules(smiles, on_progress)
        assert len(kept) == len(smiles), "the molecules of training pairs are valid"
        return {"text": text.astype(np.float16), "mol": mol.rows.astype(np.float16)}

    shapes = {(len(texts), model.width), (len(smiles), model.width)}
    key = cache_key("teacher", [checkpoint.sha256, model.config.train.precision], [*texts, *smiles])
    rows = cached(key, encoded, lambda found: {a.shape for a in found.values()} == shapes, ARRAYS)
    return rows, checkpoint.sha256
