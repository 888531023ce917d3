"""Ranks the validation pool while a model trains; the score chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tmr_jax.data.tables import apply_vocabulary, molecule_table, text_table
from tmr_jax.eval.alpha import Choice, choose_alpha, stage_scores
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank import PoolReranker, settings_of
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel
from tmr_jax.types import Pool


class Validation:
    """A pool with its features, computed once; refused molecules are skipped with their texts.

    `frozen`: parameters, where the encoders never change; the pool is then encoded only once.
    """

    def __init__(self, assembly: TrainedModel, pool: Pool, frozen: Any = None) -> None:
        features = assembly.config.features
        self.protocol = pool.protocol
        self._mol, kept, self.refused = molecule_table(
            pool.smiles, features.molecule, features.motif
        )
        if assembly.vocabulary is not None:
            self._mol, _ = apply_vocabulary(self._mol, assembly.vocabulary)
        stays, self._text_target, self._mol_target = _without_refused(pool, kept)
        texts = [pool.texts[i] for i in stays]
        self._text = text_table(texts, assembly.tokenizer, features.max_tokens)
        self._refiner = None
        self.choice: Choice | None = None  # of the last scores, where there is a second stage
        if assembly.reranks:
            self._refiner = PoolReranker(assembly, None, settings_of(assembly.config))
        self._encoder = Encoder(assembly, frozen, parts=self._refiner is not None)
        self._encoded = None if frozen is None else self._encode(lambda done: None)

    def scores(
        self, params: Any, watch: Callable[[int], None] = lambda done: None
    ) -> dict[str, float]:
        """`t2m/hits@1` ... `m2t/mr` where the pool has such queries, and `mrr`, their mean MRR.

        Of a model with a second stage the names say the tier, `t2m/fused/hits@1`, and `mrr` is
        that of `fused` with the best alpha.
        """
        if self._encoded is None:
            self._encoder.params = params
        text, mol = self._encoded or self._encode(watch)
        if self._encoded is None:
            self._encoder.params = None  # training needs this memory
        sides: dict[Direction, Any] = {"t2m": self._text_target, "m2t": self._mol_target}
        sides = {direction: target for direction, target in sides.items() if (target >= 0).any()}
        if self._refiner is not None:
            self._refiner.params = params
            lists = {d: self._refiner.lists(text, mol, d, t, watch) for d, t in sides.items()}
            self._refiner.params = None
            self.choice = choose_alpha(lists.values())
            return stage_scores(lists, self.choice)
        found: dict[str, float] = {}
        for direction, target in sides.items():
            query, candidate = (text, mol) if direction == "t2m" else (mol, text)
            asks = np.flatnonzero(target >= 0)
            ranking = rank(query.rows[asks], candidate.rows, target[asks], candidate.group)
            found |= {f"{direction}/{k}": v for k, v in metrics(ranking).items()}
        return found | {"mrr": float(np.mean([v for k, v in found.items() if k.endswith("/mrr")]))}

    def _encode(self, watch: Callable[[int], None]) -> tuple[Encoded, Encoded]:
        return (
            self._encoder.text_rows(self._text, watch),
            self._encoder.mol_rows(self._mol, watch),
        )


def _without_refused(pool: Pool, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which texts stay, and both targets renumbered to the texts that stay and the rows `kept`."""
    mol_place = np.full(len(pool.smiles) + 1, -1, np.int64)  # the last -1: of a target of -1
    mol_place[kept] = np.arange(len(kept))
    lost = (pool.text_target >= 0) & (mol_place[pool.text_target] < 0)
    stays = np.flatnonzero(~lost)
    text_place = np.full(len(pool.texts) + 1, -1, np.int64)
    text_place[stays] = np.arange(len(stays))
    return stays, mol_place[pool.text_target[stays]], text_place[pool.mol_target[kept]]
