"""Scores of a pool: queries and candidates, ranks by index and by identity, stages.

In: rows of length one of texts and molecules, and the pool's targets. Out: one `Score` for each
direction, stage and notion of a right answer, and its record in results.json, with everything that
the numbers depend on. Only `identity_labels` reads the other half of a candidate's pair: it marks
right answers after all cosines are computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from tmr_jax.config import Experiment
from tmr_jax.data.features.similarity import molecule_keys
from tmr_jax.data.pools import own_text
from tmr_jax.eval.leakage import in_training
from tmr_jax.eval.metrics import RERANK_STAGES, bounds, gains, intervals, metrics, of_rows
from tmr_jax.eval.protocols import CLEAN, HOLDER, IDENTITY, PAIR, Protocol
from tmr_jax.eval.rank import count, rank, score_chunks
from tmr_jax.eval.rerank import Lists, levels
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Direction, Pool, Ranking

# Trained on other pairs than the published numbers of these pools.
OTHER_TRAINING = {"open": "open-pairs training, version {}", "chebi": "chebi training"}
SAME = "by identity (text or molecule): the same"
NO_DUPLICATE = "no query has a connectivity twin in training"
ALL_DUPLICATES = "every query has a connectivity twin in training"


class QuerySet(NamedTuple):
    """The queries and candidates of one direction of a pool."""

    direction: Direction
    query: np.ndarray  # float32 [Q, D]
    candidate: np.ndarray  # float32 [C, D]
    target: np.ndarray  # int64 [Q], the candidate of the query's own pair
    group: np.ndarray  # int64 [C], equal where candidates are one input (of one batch)
    labels: np.ndarray  # int64 [2, C], equal where texts, or molecules, are the same
    molecule: np.ndarray  # int64 [Q], the molecule of the query's own pair
    batch: int  # candidates of a query; 0: all
    further: np.ndarray | None = None  # int64 [Q, R], more right candidates: `Pool.further`

    def ranking(self, by_identity: bool = False) -> Ranking:
        """`rank` of each query among the candidates of its target's batch.

        By identity, candidates that share a label with the target and `further` ones are right.
        Requires: C is a multiple of `batch`; no `further` in batches.
        """
        labels, further = (self.labels, self.further) if by_identity else (None, None)
        if not self.batch:
            return rank(self.query, self.candidate, self.target, self.group, labels, further)
        greater, equal = np.zeros((2, len(self.query)), np.int64)
        for start in range(0, len(self.candidate), self.batch):
            rows = np.flatnonzero(self.target // self.batch == start // self.batch)
            part = slice(start, start + self.batch)
            found = rank(
                self.query[rows],
                self.candidate[part],
                self.target[rows] - start,
                self.group[part],
                None if labels is None else labels[:, part],
            )
            greater[rows], equal[rows] = found.greater, found.equal
        return Ranking(greater, equal, self.batch)


class Ceiling(NamedTuple):
    """The best that any ranking of this pool can reach with these model inputs."""

    twins: float  # mean number of other candidates with the target's input
    queries_with_twin: float  # fraction of queries
    hits1: float  # mean of 1 / (1 + twins): the highest expected Hits@1


class Score(NamedTuple):
    """One line of the table: one protocol, one direction, one notion of a right answer."""

    protocol: str
    direction: str  # t2m or m2t
    scorer: str  # "model", or the name of a baseline
    right: str  # PAIR, IDENTITY, CLEAN or HOLDER
    ranking: Ranking
    ceiling: Ceiling | None  # by index
    stage: str = ""  # det, tapr, fused or x0 of a model with a second stage
    reranked: dict[str, Any] | None = None  # sizes of the second stage, and alpha
    reached: np.ndarray | None = None  # bool [Q, 2]: is the target on the shortlist, in its head
    base: Ranking | None = None  # of the first stage, the same queries
    model: Ranking | None = None  # in a baseline's score: of the model, the same queries
    notes: tuple[str, ...] = ()  # further facts


def query_sets(pool: Pool, text: Encoded, mol: Encoded, batch: int = 0) -> list[QuerySet]:
    """The directions in which the pool has queries."""
    text_label, mol_label = identity_labels(pool)
    sets = []
    if len(rows := np.flatnonzero(pool.text_target >= 0)):
        right = pool.text_target[rows]
        groups = within(batch, mol.group), within(batch, mol_label)
        more = None if pool.further is None else pool.further[rows]
        sets.append(QuerySet("t2m", text.rows[rows], mol.rows, right, *groups, right, batch, more))
    if len(rows := np.flatnonzero(pool.mol_target >= 0)):
        right = pool.mol_target[rows]
        groups = within(batch, text.group), within(batch, text_label)
        sets.append(QuerySet("m2t", mol.rows[rows], text.rows, right, *groups, rows, batch))
    return sets


def within(batch: int, label: Int[np.ndarray, "... C"]) -> Int[np.ndarray, "... C"]:
    """The labels of candidates, made different in different batches; 0: one batch."""
    if not batch:
        return label
    return label + np.arange(label.shape[-1]) // batch * (label.max(initial=0) + 1)


def score_sides(protocol: str, sides: list[QuerySet]) -> list[Score]:
    """Each direction by index and, if that differs, by identity (docs/papers.md#protocols)."""
    scores = []
    for side in sides:
        limit = ceiling(side.group, side.target)
        score = Score(protocol, side.direction, "model", PAIR, side.ranking(), limit)
        scores += with_identity(score, side.ranking(by_identity=True), side)
    return scores


def with_identity(
    score: Score, ranking: Ranking, side: QuerySet, base: Ranking | None = None
) -> list[Score]:
    """The score, and the score by identity or, if the ranks are equal, a note.

    Of queries that hold for several molecules only the second, which counts them all.
    """
    if side.further is not None:
        return [score._replace(right=HOLDER, ranking=ranking, ceiling=None, base=base)]
    same = np.array_equal(score.ranking.greater, ranking.greater)
    if same and np.array_equal(score.ranking.equal, ranking.equal):
        return [score._replace(notes=(SAME,))]
    return [score, score._replace(right=IDENTITY, ranking=ranking, ceiling=None, base=base)]


def with_clean(
    scores: list[Score], pool: Pool, sides: list[QuerySet], blocks: frozenset[str] | None
) -> list[Score]:
    """Adds to each score by index that of the queries whose connectivity is not in training.

    Pool and ranks stay the same; only queries are selected. `blocks` are the InChIKey blocks of
    training; None: unknown, which the record already says.
    """
    if blocks is None:
        return scores
    by_direction = {
        side.direction: (side, ~in_training([pool.smiles[i] for i in side.molecule], blocks))
        for side in sides
    }
    more = []
    for score in scores:
        side, clean = by_direction[score.direction]
        if score.right != PAIR:
            more.append(score)
        elif clean.all() or not clean.any():
            note = NO_DUPLICATE if clean.all() else ALL_DUPLICATES
            more.append(score._replace(notes=(*score.notes, note)))
        else:
            more += [score, _of_queries(score, side, clean)]
    return more


def _of_queries(score: Score, side: QuerySet, chosen: np.ndarray) -> Score:
    return score._replace(
        right=CLEAN,
        ranking=of_rows(score.ranking, chosen),
        ceiling=score.ceiling and ceiling(side.group, side.target[chosen]),
        base=score.base and of_rows(score.base, chosen),
        reached=None if score.reached is None else score.reached[chosen],
        notes=(),
    )


def reranked_scores(
    protocol: str,
    sides: list[QuerySet],
    lists: dict[str, Lists],
    sizes: dict[str, Any],
    stages: tuple[str, ...] = RERANK_STAGES,
    alpha: float = 0.0,
) -> list[Score]:
    """All stages after `det`, of both directions; `sizes` are what their record says of them.

    `alpha` weighs the denoiser in the stage `fused` (docs/papers.md#inference).
    """
    scores = []
    for side in sides:
        one = lists[side.direction]
        score = Score(protocol, side.direction, "model", PAIR, one.ranking("det"), None)
        score = score._replace(reranked=sizes, reached=one.reached(), base=score.ranking)
        base = rank_by_identity(one, side, "det", alpha)
        for stage in stages:
            by_pair = score._replace(stage=stage, ranking=one.ranking(stage, alpha))
            ranking = rank_by_identity(one, side, stage, alpha)
            scores += with_identity(by_pair, ranking, side, base)
    return scores


def rank_by_identity(lists: Lists, side: QuerySet, stage: str, alpha: float) -> Ranking:
    """Ranks under a stage if any candidate of the same text or molecule is right."""
    column = np.unique(side.group, return_inverse=True)[1]  # as the lists number distinct inputs
    return count(_heights(lists, stage, alpha), side.target, column, side.labels, side.further)


def _heights(lists: Lists, stage: str, alpha: float) -> Iterator[tuple[int, np.ndarray]]:
    """Cosines of all distinct inputs, and above them the levels of those that were reranked."""
    above = levels(lists.reranked, stage, alpha).astype(np.float32) + 2  # a cosine is below 2
    for start, scores in score_chunks(lists.query, lists.candidate):
        rows = slice(start, start + len(scores))
        if stage != "det":
            np.put_along_axis(scores, lists.reranked.item[rows], above[rows], 1)
        yield start, scores


def identity_labels(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Labels [2, n] of texts and of molecules: equal if the texts, the molecules are the same.

    The first row is for the text of each item's pair, the second for the molecule; -1 for an item
    without a pair, which is never a target.
    """
    text_of = own_text(pool)
    paired = np.flatnonzero(text_of >= 0)
    text_label, text_key = np.full((2, len(pool.texts)), -1)
    mol_label, mol_key = np.full((2, len(pool.smiles)), -1)
    text_label[:] = np.unique(np.array(pool.texts, object), return_inverse=True)[1]
    keys = molecule_keys(pool.smiles, "identity of molecules")
    mol_key[:] = np.unique(keys, return_inverse=True)[1]
    texts = text_of[paired]
    mol_label[paired], text_key[texts] = text_label[texts], mol_key[paired]
    return np.stack([text_label, text_key]), np.stack([mol_label, mol_key])


def ceiling(group: Int[np.ndarray, " C"], target: Int[np.ndarray, " Q"]) -> Ceiling:
    """The duplicate ceiling of a pool; candidates of one `group` are the same model input."""
    twins = np.bincount(group)[group[target]] - 1  # other candidates with the target's input
    return Ceiling(float(twins.mean()), float((twins > 0).mean()), float((1 / (1 + twins)).mean()))


def labels(config: Experiment, protocol: str) -> list[str]:
    """What a reader must know before comparing this number with another."""
    if config.data.name == "chebi" and "chebi/" in protocol:  # its own, or in batches of it
        return []
    note = OTHER_TRAINING.get(config.data.name)
    return [note.format(config.data.version)] if note else []


def pool_digest(pool: Pool) -> str:
    """Equal for pools of the same texts and molecules, in one order, with the same queries."""
    further = [] if pool.further is None else [np.asarray(one).tolist() for one in pool.further]
    targets = pool.text_target.tolist(), pool.mol_target.tolist()
    parts = [pool.protocol, pool.texts, pool.smiles, *targets, further]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def score_record(
    score: Score,
    config: Experiment,
    protocol: Protocol,
    leakage: dict[str, Any],
    counts: dict[str, Any],
) -> dict[str, Any]:
    """The record of a score: every number with what it depends on.

    `leakage` is the record of `leakage.check`, `counts` the items that left the pool, and its
    digest.
    """
    refined, resampled = score.reranked, (config.eval.bootstrap, config.train.seed)
    if refined is not None and score.reached is not None:
        names = ("recall_shortlist", "recall_denoised")[: score.reached.shape[1]]
        refined = refined | dict(zip(names, score.reached.mean(0).tolist(), strict=True))
    record = {
        "protocol": score.protocol,
        "declared": dataclasses.asdict(protocol),
        "direction": score.direction,
        "scorer": score.scorer,
        "tier": score.stage,
        "refined": refined,
        "right": score.right,
        "queries": len(score.ranking.greater),
        "pool": score.ranking.pool_size,
        "ties": protocol.ties,
        "tied_queries": int((score.ranking.equal > 0).sum()),
        "seed": config.train.seed,
        "labels": labels(config, score.protocol),
        "metrics": metrics(score.ranking),
        "intervals": intervals(score.ranking, *resampled),
        "over_det": None if score.base is None else gains(score.ranking, score.base, *resampled),
        "model_over": score.model and gains(score.model, score.ranking, *resampled),
        "bounds": bounds(score.ranking),
        "twin_ceiling": None if score.ceiling is None else score.ceiling._asdict(),
        "overlap": leakage,
        "notes": list(score.notes),
        **counts,
    }
    return record | {"about": about(record)}


def about(record: dict[str, Any]) -> list[str]:
    """The facts of a score, for people."""
    facts = [
        f"pool {record['pool']:,}, {record['queries']:,} queries, seed {record['seed']}",
        f"ties: {record['ties']}",
    ]
    if record["declared"]["batch"]:
        facts.append(f"batches in file order; pairs at the end dropped: {record['dropped_pairs']}")
        if record["tier"]:
            facts.append("first stage only: batches are not reranked")
    if record["scorer"] != "model":
        facts.insert(0, f"baseline, {record['scorer']}")
    if record["model_over"] is not None:
        facts.append(f"mrr of the model over it: {gain_words(record['model_over']['mrr'])}")
    if record["refined"] is not None:
        facts += _about_reranking(record)
    if record["right"] != PAIR:
        facts.append(f"right: {record['right']}")
    if (limit := record["twin_ceiling"]) is not None:
        share = f"{100 * limit['queries_with_twin']:.1f} % have a duplicate"
        facts.append(f"duplicate ceiling {100 * limit['hits1']:.1f} ({share})")
    facts += [*_about_training(record), *record["notes"]]
    if record["refused_molecules"]:
        facts.append(f"invalid molecules, skipped: {record['refused_molecules']:,}")
    return facts + record["labels"]


def _about_reranking(record: dict[str, Any]) -> list[str]:
    """Sizes of the second stage, recall of its shortlist, gains over the first stage."""
    sizes = record["refined"]
    recalls = [
        f"{part} {100 * sizes[f'recall_{part}']:.1f}"
        for part in ("shortlist", "denoised")
        if f"recall_{part}" in sizes
    ]
    gained = [
        f"{metric} over det: {gain_words(record['over_det'][metric], scale, form)}"
        for metric, scale, form in (("hits@1", 100, "+.1f"), ("mrr", 1, "+.4f"))
    ]
    if "weight" in sizes:
        said = f"K1 {sizes['shortlist']}, weight of the facts {sizes['weight']:g}"
    else:
        said = (
            f"K1 {sizes['shortlist']}, F {sizes['samples']}, K {sizes['candidates']}, "
            f"S {sizes['steps']}, R {sizes['noises']}, alpha {sizes['alpha']:g}"
        )
    return [f"{said} (of validation)", f"recall: {', '.join(recalls)}", *gained]


def _about_training(record: dict[str, Any]) -> list[str]:
    """How much of the test is in training, and which queries are removed for it."""
    leakage, declared = record["overlap"], record["declared"]
    known, removed = (
        "unknown" if leakage[name] is None else f"{leakage[name]:,}"
        for name in ("in_training", "left_out")
    )
    facts = []
    if record["right"] != CLEAN:
        facts.append(f"molecules also in training: {known} of {leakage['queried']:,}")
    if declared["filter"] != "none":
        own = declared["leakage"] == "molecule or text"
        which = "molecule or text" if own else "connectivity"
        facts.append(f"queries whose {which} is in training, removed: {removed}")
    return facts


def score_name(score: dict[str, Any]) -> str:
    """Protocol, direction and, for a model with a second stage, stage."""
    return ", ".join(filter(None, (score["protocol"], score["direction"], score["tier"])))


def gain_words(gain: Sequence[float], scale: int = 1, form: str = "+.4f") -> str:
    """A paired difference with its interval."""
    mean, low, high = (f"{scale * value:{form}}" for value in gain)
    return f"{mean} ({low} to {high})"


def number(name: str, value: float) -> str:
    """A metric as printed: Hits@k in per cent, MRR as a fraction, MR as a rank."""
    if name.startswith("hits"):
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "mrr" else f"{value:,.1f}"
