"""Reranking of a pool by a model's second stage: shortlists, and the ranks of every stage.

The stages are `det` (cosine), `tapr` (perturbation), `fused` (perturbation and denoiser) and `x0`
(denoiser), see docs/papers.md#inference.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from tmr_jax.config import Experiment
from tmr_jax.data.files import write_json
from tmr_jax.data.tables import take_ranges
from tmr_jax.data.workers import progress_of
from tmr_jax.eval import rerank_steps
from tmr_jax.eval.metrics import RERANK_STAGES, metrics
from tmr_jax.eval.rank import rank, score_chunks
from tmr_jax.eval.rerank_steps import Reranked, Settings
from tmr_jax.models.checkpoint import variables
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.models.layers.denoiser import visited
from tmr_jax.models.run import TrainedModel
from tmr_jax.models.runtime import local_devices
from tmr_jax.types import Direction, EncodedCorpus, Pool, Ranking, UserError

REFINE = "refine.json"
ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def settings_of(config: Experiment) -> Settings:
    """The sizes of the second stage; 0 sampling steps mean as many as in training.

    Errors: UserError for more steps than in training, and for sizes that are too small.
    """
    chosen = config.eval.refine
    steps = chosen.steps or config.model.hdan.steps
    visited(config.model.hdan.steps, steps)  # raises
    if min(chosen.shortlist, chosen.candidates) < 1 or chosen.samples < 0:
        raise UserError(
            "expected at least 1 for shortlist and candidates of the second stage, and at least 0 "
            f"samples; got {chosen.shortlist}, {chosen.candidates} and {chosen.samples}; raise "
            "--refine.NAME"
        )
    return Settings(**dataclasses.asdict(chosen) | {"steps": steps, "noises": 1})


class Lists(NamedTuple):
    """The reranked shortlists of one direction of a pool; row i belongs to query i."""

    reranked: Reranked
    query: np.ndarray  # float32 [Q, D], of length one
    candidate: np.ndarray  # float32 [n, D], of length one, of the distinct inputs
    target: np.ndarray  # int64 [Q], the distinct input that is right
    count: np.ndarray  # int64 [n], candidates of the pool that have this input

    def ranking(self, stage: str, alpha: float = 0.0) -> Ranking:
        """Ranks of the targets under det, tapr, fused, x0 or facts.

        Under det by cosine over the pool, where equal inputs tie; under the others the shortlist
        comes first, by level, then the rest by cosine.
        """
        if stage == "det":
            group = np.repeat(np.arange(len(self.count)), self.count)
            first = np.cumsum(self.count) - self.count
            return rank(self.query, self.candidate[group], first[self.target], group)
        level, item = levels(self.reranked, stage, alpha), self.reranked.item
        sizes, right = self.count[item], item == self.target[:, None]  # [Q, K1]
        reached = np.where(right, level, -1).max(1, keepdims=True)
        greater = np.where(level > reached, sizes, 0).sum(1)
        equal = np.where(level == reached, sizes, 0).sum(1) - 1
        rest = np.flatnonzero(~right.any(1))
        for start, scores in score_chunks(self.query[rest], self.candidate):
            rows = rest[start : start + len(scores)]
            reached = np.take_along_axis(scores, self.target[rows, None], 1)
            weight = np.repeat(self.count[None], len(rows), 0)
            np.put_along_axis(weight, item[rows], 0, 1)
            greater[rows] = sizes[rows].sum(1) + np.where(scores > reached, weight, 0).sum(1)
            equal[rows] = np.where(scores == reached, weight, 0).sum(1) - 1
        return Ranking(greater, equal, int(self.count.sum()))

    def reached(self) -> Bool[np.ndarray, "Q parts"]:
        """Whether the target is on the shortlist and, where there are any, denoised."""
        right = self.reranked.item == self.target[:, None]
        head = right[:, : self.reranked.clean.shape[1]]
        return np.stack([part.any(1) for part in (right, head) if part.shape[1]], 1)


@functools.lru_cache(maxsize=16)
def _applied(model: Any) -> Callable[..., Any]:
    """The same function for equal models, which then share compiled programs."""

    def apply(params: Any, *arrays: Any, method: str) -> Any:
        return model.apply(variables(params), *arrays, method=method)

    return apply


class PoolReranker:
    """The second stage of a model with its parameters."""

    def __init__(self, trained: TrainedModel, params: Any, settings: Settings) -> None:
        self._apply, self.params, self.settings = _applied(trained.model), params, settings

    def lists(
        self,
        text: Encoded,
        mol: Encoded,
        direction: Direction,
        target: np.ndarray,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> Lists:
        """Reranked lists of every item with a target (an index of the other side, else -1)."""
        query, candidate = (text, mol) if direction == "t2m" else (mol, text)
        assert text.side is not None and mol.side is not None, "encode with parts"
        used, place, count = np.unique(candidate.group, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(target >= 0)
        queries, row = np.unique(query.group[rows], return_inverse=True)
        pool = take(candidate.side, used)
        sides = (text.side, pool) if direction == "t2m" else (pool, mol.side)
        model = self._apply, self.params, *sides, direction, queries, self.settings
        reranked = rerank_steps.rerank(*model, on_progress, local_devices())
        return Lists(
            reranked=Reranked(*(column[row] for column in reranked)),
            query=query.rows[rows],
            candidate=l2_normalize(pool.pooled),
            target=place[target[rows]],
            count=count,
        )

    def perturbed(self, text: Encoded, mol: np.ndarray) -> np.ndarray:
        """s1 of one text with the embeddings of a shortlist of molecules [n, D], float32 [n]."""
        assert text.side is not None, "encode with parts"
        return rerank_steps.perturbed(self._apply, self.params, text.side, mol, self.settings)

    def worked(
        self, text: EncodedCorpus, mol: EncodedCorpus, query: int
    ) -> tuple[Reranked, np.ndarray]:
        """One text against all molecules, and X0_hat after every step, [S, K]."""
        return rerank_steps.rerank_one(self._apply, self.params, text, mol, query, self.settings)

    def word_weights(self, text: EncodedCorpus) -> np.ndarray:
        """Weights of all words of the texts, text after text."""
        return rerank_steps.word_weights(self._apply, self.params, text)


def rerank_both(
    pool: Pool, text: Encoded, mol: Encoded, reranker: PoolReranker
) -> dict[str, Lists]:
    """The second stage in the directions in which the pool has queries."""
    lists: dict[str, Lists] = {}
    targets: dict[Direction, np.ndarray] = {"t2m": pool.text_target, "m2t": pool.mol_target}
    for direction, target in targets.items():
        if count := int((target >= 0).sum()):
            with progress_of(f"reranking {pool.protocol}, {direction}", count) as on_progress:
                lists[direction] = reranker.lists(text, mol, direction, target, on_progress)
    return lists


def take(side: EncodedCorpus | None, items: np.ndarray) -> EncodedCorpus:
    """The items of a corpus, in that order."""
    assert side is not None, "encode with parts"
    parts, offsets = take_ranges(side.offsets, items)
    return EncodedCorpus(side.pooled[items], side.token_embeddings[parts], offsets, side.key[items])


# Ranks of the stages


def levels(reranked: Reranked, stage: str, alpha: float = 0.0) -> Int[np.ndarray, "Q K1"]:
    """The order of the shortlisted candidates as numbers: higher is better, equal numbers tie.

    `tapr`, `facts`: all by s1. `fused`: the denoised head by s1 + alpha X0_hat, then the rest by
    s1. `x0`: the head by X0_hat, ties by s1; then the rest by s1. The head always stays before the
    rest, however large alpha is (docs/papers.md#inference).
    """
    s1 = reranked.perturbed.astype(np.float64)
    head = reranked.clean.shape[1]
    first, second = s1.copy(), np.zeros_like(s1)
    in_head = np.zeros(s1.shape, bool)
    if stage not in ("tapr", "facts"):
        in_head[:, :head] = True
        first[:, :head] = reranked.clean
        second[:, :head] = s1[:, :head]
        if stage == "fused":
            first[:, :head] = s1[:, :head] + alpha * reranked.clean
            second[:, :head] = 0
    keys = np.stack([second, first, in_head])  # the last one counts most
    order = np.lexsort(keys, axis=1)
    ordered = np.take_along_axis(keys, order[None], 2)
    steps = (ordered[:, :, 1:] != ordered[:, :, :-1]).any(0).cumsum(1)
    places = np.zeros(s1.shape, np.int64)
    np.put_along_axis(places, order[:, 1:], steps, 1)
    return places


# alpha, the denoiser's weight in the fused stage: chosen on validation, stored in the run


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
        listed, head = one.reached().mean(0).tolist()
        scores |= {f"{direction}/recall/shortlist": listed, f"{direction}/recall/denoised": head}
    return scores


def read_alpha(run: Path, checkpoint: str) -> float | None:
    """alpha as chosen for this checkpoint (its SHA-256), or None."""
    return _choices(run).get(checkpoint, {}).get("alpha")


def keep_alpha(run: Path, checkpoint: str, protocol: str, choice: Choice) -> None:
    """Store the choice with its pool, in addition to those of other checkpoints."""
    stored = _choices(run) | {checkpoint: {"chosen_on": protocol, **choice._asdict()}}
    write_json(run / REFINE, stored, indent=2)


def _choices(run: Path) -> dict[str, Any]:
    path = run / REFINE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
