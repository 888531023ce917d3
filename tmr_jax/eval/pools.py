"""The model and the pools of an evaluation: pools are read, checked for size, encoded, cut."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.config import DataConfig, RefineConfig
from tmr_jax.data.pools import check_complete, load_pool, without
from tmr_jax.data.workers import progress_of
from tmr_jax.eval.analysis import bank_record
from tmr_jax.eval.protocols import Protocol
from tmr_jax.eval.rerank import PoolReranker, settings_of
from tmr_jax.models.checkpoint import Which
from tmr_jax.models.dual_encoder import MAX_LOGIT_SCALE
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel, load_run
from tmr_jax.types import Direction, EncodedCorpus, Pool, UserError


class EncodedPool(NamedTuple):
    """A pool with the embeddings of its texts and molecules."""

    pool: Pool
    text: Encoded
    mol: Encoded

    def text_queries(self) -> np.ndarray:
        """Indices of the texts that are queries."""
        return np.flatnonzero(self.pool.text_target >= 0)

    def queries(self, direction: Direction) -> tuple[np.ndarray, Encoded, np.ndarray]:
        """Rows of the queries, the candidates, and the target of each query among them."""
        query, candidate, target = self.text, self.mol, self.pool.text_target
        if direction == "m2t":
            query, candidate, target = self.mol, self.text, self.pool.mol_target
        rows = np.flatnonzero(target >= 0)
        return query.rows[rows], candidate, target[rows]


def declared_pool(protocol: Protocol, data: DataConfig) -> Pool:
    """The pool under the protocol's name. Errors: UserError if its published size differs."""
    pool = load_pool(protocol.source, data)
    check_complete(pool, protocol.source, protocol.size)
    return pool._replace(protocol=protocol.name)


def encode_pools(model: Restored, pools: list[Pool]) -> tuple[list[EncodedPool], dict[str, int]]:
    """Texts and molecules of all pools; each distinct string is encoded once.

    Invalid molecules leave the pool with their texts; the last value counts them by protocol.
    """
    smiles = list(dict.fromkeys(s for pool in pools for s in pool.smiles))
    encoded, valid = model.molecules(smiles)
    place = {smiles[row]: i for i, row in enumerate(valid)}
    sound = [without(pool, np.array([s in place for s in pool.smiles])) for pool in pools]
    texts = list(dict.fromkeys(t for pool in sound for t in pool.texts))
    described = model.texts(texts)
    row = {text: i for i, text in enumerate(texts)}
    sides = [
        EncodedPool(
            pool,
            _take(described, [row[t] for t in pool.texts]),
            _take(encoded, [place[s] for s in pool.smiles]),
        )
        for pool in sound
    ]
    pairs = zip(pools, sound, strict=True)
    return sides, {p.protocol: len(p.smiles) - len(s.smiles) for p, s in pairs}


def _take(side: Encoded, items: list[int]) -> Encoded:
    return Encoded(side.rows[items], side.group[items], side.side)


def in_whole_batches(sides: EncodedPool, batch: int) -> EncodedPool:
    """A pool of pairs without those at its end that fill no batch; 0: the pool as it is."""
    if not batch:
        return sides
    pool, text, mol = sides
    whole = len(pool.texts) // batch * batch
    if not whole:
        raise UserError(
            f"expected at least {batch} pairs for {pool.protocol}; got {len(pool.texts)}; "
            "rank the whole pool instead"
        )
    targets = pool.text_target[:whole], pool.mol_target[:whole]
    cut = Pool(pool.protocol, pool.texts[:whole], pool.smiles[:whole], *targets)
    return EncodedPool(cut, *(_take(side, list(range(whole))) for side in (text, mol)))


# From a run directory to a model that encodes strings, with its second stage if it has one


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
    trained, params, checkpoint = load_run(run, which)
    if refine is not None:
        sizes = dataclasses.replace(trained.config.eval, refine=refine)
        trained = trained._replace(config=dataclasses.replace(trained.config, eval=sizes))
    return restored(trained, params, checkpoint._asdict())


def restored(trained: TrainedModel, params: Any, checkpoint: dict[str, Any]) -> Restored:
    """Encoders of strings with progress bars on standard error."""
    slots = partial(bank_record, trained, params) if trained.model.memory_slots > 0 else None
    encoder = Encoder(trained, params, parts=trained.reranks or slots is not None)

    def texts(strings: list[str]) -> Encoded:
        with progress_of("encoding texts", len(strings)) as on_progress:
            return encoder.texts(strings, on_progress)

    def molecules(smiles: list[str]) -> tuple[Encoded, np.ndarray]:
        with progress_of("encoding molecules", len(smiles)) as on_progress:
            rows, valid, _ = encoder.molecules(smiles, on_progress)
        return rows, valid

    reranker = None
    if trained.reranks:
        reranker = PoolReranker(trained, params, settings_of(trained.config))
    temperature = trained_temperature(params) if trained.model.trains_scale else None
    return Restored(checkpoint, texts, molecules, reranker, temperature, slots)


def trained_temperature(params: Any) -> float:
    """The temperature that a loss with a scale divided the cosines by."""
    return math.exp(-min(float(params["log_scale"]), MAX_LOGIT_SCALE))
