"""A trained second stage at work on a pool: refined lists, ranks by tier, and the choice of alpha.

alpha, the weight of the denoiser's answer beside the similarity, is chosen on the validation pool
and nowhere else (MODELS.md A1.7); a run keeps it in refine.json with the checkpoint it belongs to.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.config import Experiment
from tmr_jax.data.files import write_text
from tmr_jax.data.tables import take_ranges
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank_steps import (
    ALPHAS,
    TIERS,
    Direction,
    Refined,
    Settings,
    levels,
    perturbed,
    rank_refined,
    recall,
    refine,
    refine_one,
    word_weights,
)
from tmr_jax.models.devices import devices_at_hand
from tmr_jax.models.encode import Encoded, unit
from tmr_jax.models.layers.denoiser import visited
from tmr_jax.models.run import TrainedModel
from tmr_jax.models.state import variables
from tmr_jax.types import Ranking, Side, UserError

REFINE = "refine.json"


def settings_of(config: Experiment) -> Settings:
    """The sizes of the second stage; 0 sampling steps are as many as were trained.

    Errors: ValueError for more steps than were trained, and for sizes below the least.
    """
    chosen = config.eval.refine
    steps = chosen.steps or config.model.hdan.steps
    visited(config.model.hdan.steps, steps)  # raises
    if min(chosen.shortlist, chosen.candidates, chosen.noises) < 1 or chosen.samples < 0:
        raise UserError(
            "expected a shortlist, candidates and noises of 1 at least, and samples of 0 at least; "
            f"got {chosen.shortlist}, {chosen.candidates}, {chosen.noises} and {chosen.samples}"
        )
    return Settings(**dataclasses.asdict(chosen) | {"steps": steps})


class Lists(NamedTuple):
    """One direction of a pool, refined; row i belongs to query i."""

    refined: Refined
    query: np.ndarray  # float32 [Q, D], unit rows
    candidate: np.ndarray  # float32 [n, D], unit rows of the distinct inputs
    target: np.ndarray  # int64 [Q], the distinct input that is right
    count: np.ndarray  # int64 [n], candidates of the pool that have this input

    def ranking(self, tier: str, alpha: float = 0.0) -> Ranking:
        """Ranks of the targets under det, tapr, fused or x0."""
        if tier == "det":
            return rank_distinct(self)
        level = levels(self.refined, tier, alpha)
        return rank_refined(
            self.refined, level, self.query, self.candidate, self.target, self.count
        )

    def recall(self) -> tuple[float, float]:
        """Share of targets on the shortlist, and among those that are denoised."""
        return recall(self.refined, self.target)


def rank_distinct(lists: Lists) -> Ranking:
    """Ranks by cosine over the pool that the lists are from, equal inputs level."""
    group = np.repeat(np.arange(len(lists.count)), lists.count)
    first = np.cumsum(lists.count) - lists.count
    return rank(lists.query, lists.candidate[group], first[lists.target], group)


@functools.lru_cache(maxsize=16)
def _applied(model: Any) -> Callable[..., Any]:
    """The same function for equal models, so that what was compiled for one serves the next."""

    def apply(params: Any, *arrays: Any, method: str) -> Any:
        return model.apply(variables(params), *arrays, method=method)

    return apply


class Refiner:
    """The second stage of a model with its parameters."""

    def __init__(self, assembly: TrainedModel, params: Any, settings: Settings) -> None:
        self._apply, self.params, self.settings = _applied(assembly.model), params, settings

    def lists(
        self,
        text: Encoded,
        mol: Encoded,
        direction: Direction,
        target: np.ndarray,
        watch: Callable[[int], None] = lambda done: None,
    ) -> Lists:
        """Refined lists of every item with a target (an index of the other side, else -1)."""
        asking, answering = (text, mol) if direction == "t2m" else (mol, text)
        assert text.side is not None and mol.side is not None, "encode with parts"
        used, place, count = np.unique(answering.group, return_inverse=True, return_counts=True)
        asks = np.flatnonzero(target >= 0)
        queries, own = np.unique(asking.group[asks], return_inverse=True)
        pool = take(answering.side, used)
        sides = (text.side, pool) if direction == "t2m" else (pool, mol.side)
        found = refine(
            self._apply,
            self.params,
            *sides,
            direction,
            queries,
            self.settings,
            watch,
            devices_at_hand(),
        )
        return Lists(
            refined=Refined(*(column[own] for column in found)),
            query=asking.rows[asks],
            candidate=unit(pool.pooled),
            target=place[target[asks]],
            count=count,
        )

    def perturbed(self, text: Encoded, mol: np.ndarray) -> np.ndarray:
        """s1 of one text with the embeddings of a shortlist of molecules [n, D], float32 [n]."""
        assert text.side is not None, "encode with parts"
        return perturbed(self._apply, self.params, text.side, mol, self.settings)

    def worked(self, text: Side, mol: Side, query: int) -> tuple[Refined, np.ndarray]:
        """One text against all molecules, and X0_hat after every step, [S, K]."""
        return refine_one(self._apply, self.params, text, mol, "t2m", query, self.settings)

    def word_weights(self, text: Side) -> np.ndarray:
        """f of A1.5 for all words of the texts, one after another."""
        return word_weights(self._apply, self.params, text)


def take(side: Side | None, items: np.ndarray) -> Side:
    """The items of a side, in that order."""
    assert side is not None, "encode with parts"
    parts, offsets = take_ranges(side.offsets, items)
    return Side(side.pooled[items], side.parts[parts], offsets, side.key[items])


class Choice(NamedTuple):
    """The alpha with the best MRR of `fused`, mean of the directions, and all that were tried."""

    alpha: float
    mrr: dict[str, float]  # by alpha


def choose_alpha(lists: Iterable[Lists]) -> Choice:
    """On lists of the validation pool, one or both directions."""
    sides = list(lists)
    tried = {
        str(alpha): float(np.mean([metrics(one.ranking("fused", alpha))["mrr"] for one in sides]))
        for alpha in ALPHAS
    }
    return Choice(max(ALPHAS, key=lambda alpha: tried[str(alpha)]), tried)


def tier_scores(lists: dict[str, Lists], choice: Choice) -> dict[str, float]:
    """`t2m/fused/hits@1` ... of every tier, `alpha`, the recalls, and `mrr` of the fused tier."""
    found = {"alpha": choice.alpha, "mrr": choice.mrr[str(choice.alpha)]}
    for direction, one in lists.items():
        for tier in ("det", *TIERS):
            scored = metrics(one.ranking(tier, choice.alpha))
            found |= {f"{direction}/{tier}/{name}": value for name, value in scored.items()}
        listed, head = one.recall()
        found |= {f"{direction}/recall/shortlist": listed, f"{direction}/recall/denoised": head}
    return found


def read_alpha(run: Path, checkpoint: str) -> float | None:
    """alpha as it was chosen for this checkpoint (its SHA-256), or None."""
    kept = _choices(run).get(checkpoint)
    return None if kept is None else kept["alpha"]


def keep_alpha(run: Path, checkpoint: str, protocol: str, choice: Choice) -> None:
    """Beside those of other checkpoints: with what was tried, and on which pool."""
    kept = _choices(run) | {checkpoint: {"chosen_on": protocol, **choice._asdict()}}
    write_text(run / REFINE, json.dumps(kept, indent=2) + "\n")


def _choices(run: Path) -> dict[str, Any]:
    path = run / REFINE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
