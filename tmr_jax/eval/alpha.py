"""alpha, the denoiser's weight in the fused stage: chosen on validation, stored in the run.

A run stores it in refine.json with the checkpoint that it belongs to (docs/papers.md#inference).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.files import write_json
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.rerank import RERANK_STAGES, Lists

REFINE = "refine.json"
ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Choice(NamedTuple):
    """The alpha with the best MRR of `fused`, mean over directions, and the MRR of all tried."""

    alpha: float
    mrr: dict[str, float]  # by alpha


def choose_alpha(lists: Iterable[Lists]) -> Choice:
    """Choose on lists of the validation pool, of one or both directions."""
    sides = list(lists)
    tried = {
        str(alpha): float(np.mean([metrics(one.ranking("fused", alpha))["mrr"] for one in sides]))
        for alpha in ALPHAS
    }
    return Choice(max(ALPHAS, key=lambda alpha: tried[str(alpha)]), tried)


def stage_scores(lists: dict[str, Lists], choice: Choice) -> dict[str, float]:
    """`t2m/fused/hits@1` ... of every stage, `alpha`, the recalls, and `mrr` of the fused stage."""
    scores = {"alpha": choice.alpha, "mrr": choice.mrr[str(choice.alpha)]}
    for direction, one in lists.items():
        for stage in ("det", *RERANK_STAGES):
            values = metrics(one.ranking(stage, choice.alpha))
            scores |= {f"{direction}/{stage}/{name}": value for name, value in values.items()}
        listed, head = one.recall()
        scores |= {f"{direction}/recall/shortlist": listed, f"{direction}/recall/denoised": head}
    return scores


def read_alpha(run: Path, checkpoint: str) -> float | None:
    """alpha as chosen for this checkpoint (its SHA-256), or None."""
    stored = _choices(run).get(checkpoint)
    return None if stored is None else stored["alpha"]


def keep_alpha(run: Path, checkpoint: str, protocol: str, choice: Choice) -> None:
    """Store the choice with its pool, in addition to those of other checkpoints."""
    stored = _choices(run) | {checkpoint: {"chosen_on": protocol, **choice._asdict()}}
    write_json(run / REFINE, stored, indent=2)


def _choices(run: Path) -> dict[str, Any]:
    path = run / REFINE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
