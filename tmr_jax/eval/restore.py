"""From a run directory to a model that encodes strings, with its second stage if it has one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tmr_jax.config import RefineConfig
from tmr_jax.data.workers import progress_of
from tmr_jax.eval.rerank import PoolReranker, settings_of
from tmr_jax.eval.slots import bank_record, has_slots
from tmr_jax.models.dual_encoder import MAX_LOGIT_SCALE
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel, load_run
from tmr_jax.types import EncodedCorpus

Which = Literal["best", "newest"]


class Restored(NamedTuple):
    """A run's model as functions of strings."""

    checkpoint: dict[str, Any]  # which, step, sha256
    texts: Callable[[list[str]], Encoded]
    # Invalid molecules have no row: the second value lists the valid items.
    molecules: Callable[[list[str]], tuple[Encoded, np.ndarray]]
    reranker: PoolReranker | None = None  # None without a second stage
    temperature: float | None = None  # that training divided the cosines by
    # For a memory bank: the record of its slots, from the texts and molecules of a pool
    slots: Callable[[EncodedCorpus, EncodedCorpus], dict[str, Any]] | None = None


def open_run(run: Path, which: Which, refine: RefineConfig | None = None) -> Restored:
    """The run's model, tokenizer, vocabulary and checkpoint; `refine` resizes the second stage."""
    assembly, params, checkpoint = load_run(run, which)
    if refine is not None:
        sizes = dataclasses.replace(assembly.config.eval, refine=refine)
        assembly = assembly._replace(config=dataclasses.replace(assembly.config, eval=sizes))
    return restored(assembly, params, checkpoint._asdict())


def restored(assembly: TrainedModel, params: Any, checkpoint: dict[str, Any]) -> Restored:
    """Encoders of strings with progress bars on standard error."""
    slots = partial(bank_record, assembly, params) if has_slots(assembly) else None
    encoder = Encoder(assembly, params, parts=assembly.reranks or slots is not None)

    def texts(strings: list[str]) -> Encoded:
        with progress_of("encoding texts", len(strings)) as on_progress:
            return encoder.texts(strings, on_progress)

    def molecules(smiles: list[str]) -> tuple[Encoded, np.ndarray]:
        with progress_of("encoding molecules", len(smiles)) as on_progress:
            rows, valid, _ = encoder.molecules(smiles, on_progress)
        return rows, valid

    reranker = None
    if assembly.reranks:
        reranker = PoolReranker(assembly, params, settings_of(assembly.config))
    temperature = trained_temperature(params) if assembly.model.trains_scale else None
    return Restored(checkpoint, texts, molecules, reranker, temperature, slots)


def trained_temperature(params: Any) -> float | None:
    """The temperature that training divided the cosines by; None for a loss without a scale."""
    if "log_scale" not in params:
        return None
    return math.exp(-min(float(params["log_scale"]), MAX_LOGIT_SCALE))
