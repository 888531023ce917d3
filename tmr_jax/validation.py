"""How well a model ranks the validation pool while it trains; it chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tmr_jax.assembly import Assembly, Encoder
from tmr_jax.data.cache import apply_vocabulary, molecule_table, text_table
from tmr_jax.retrieval.metrics import metrics
from tmr_jax.retrieval.rank import rank
from tmr_jax.types import Pool


class Validation:
    """A pool with its features, computed once; refused molecules leave with their texts."""

    def __init__(self, assembly: Assembly, pool: Pool) -> None:
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
        self._encoder = Encoder(assembly, None)

    def scores(
        self, params: Any, watch: Callable[[int], None] = lambda done: None
    ) -> dict[str, float]:
        """`t2m/hits@1` ... `m2t/mr` where the pool has such queries, and `mrr`, their mean MRR."""
        self._encoder.params = params
        text, mol = (
            self._encoder.text_rows(self._text, watch),
            self._encoder.mol_rows(self._mol, watch),
        )
        self._encoder.params = None  # training goes on with this memory
        found: dict[str, float] = {}
        for direction, query, candidate, target in (
            ("t2m", text, mol, self._text_target),
            ("m2t", mol, text, self._mol_target),
        ):
            asks = np.flatnonzero(target >= 0)
            if len(asks):
                ranking = rank(query.rows[asks], candidate.rows, target[asks], candidate.group)
                found |= {f"{direction}/{k}": v for k, v in metrics(ranking).items()}
        return found | {"mrr": float(np.mean([v for k, v in found.items() if k.endswith("/mrr")]))}


def _without_refused(pool: Pool, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which texts stay, and both targets renumbered to the texts that stay and the rows `kept`."""
    mol_place = np.full(len(pool.smiles) + 1, -1, np.int64)  # the last -1: of a target of -1
    mol_place[kept] = np.arange(len(kept))
    lost = (pool.text_target >= 0) & (mol_place[pool.text_target] < 0)
    stays = np.flatnonzero(~lost)
    text_place = np.full(len(pool.texts) + 1, -1, np.int64)
    text_place[stays] = np.arange(len(stays))
    return stays, mol_place[pool.text_target[stays]], text_place[pool.mol_target[kept]]
