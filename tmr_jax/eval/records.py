"""The line of results.json for each score, with everything that its numbers depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

from tmr_jax.config import Experiment
from tmr_jax.eval.metrics import bounds, gains, intervals, metrics
from tmr_jax.eval.protocols import CLEAN, PAIR, Protocol
from tmr_jax.eval.scores import Score


def labels(config: Experiment, protocol: str) -> list[str]:
    """What a reader must know before comparing this number with another."""
    notes = []
    if "demo/" in protocol:  # or in batches of it
        notes.append("generated text")
    elif config.data.name == "demo":
        notes.append("trained on generated text")
    return [*notes, "open-pairs training"] if config.data.name == "open" else notes


def score_record(
    score: Score,
    config: Experiment,
    protocol: Protocol,
    leakage: dict[str, Any],
    counts: dict[str, int],
) -> dict[str, Any]:
    """The record of a score: every number with what it depends on.

    `leakage` is the record of `leakage.check`, `counts` the items that left the pool.
    """
    optimistic, pessimistic = bounds(score.ranking)
    record = {
        "protocol": score.protocol,
        "declared": dataclasses.asdict(protocol),
        "direction": score.direction,
        "scorer": score.scorer,
        "tier": score.stage,
        "refined": _refined(score),
        "right": score.right,
        "queries": len(score.ranking.greater),
        "pool": score.ranking.pool_size,
        "ties": protocol.ties,
        "tied_queries": int((score.ranking.equal > 0).sum()),
        "seed": config.train.seed,
        "labels": labels(config, score.protocol),
        "metrics": metrics(score.ranking),
        "intervals": intervals(score.ranking, config.eval.bootstrap, config.train.seed),
        "over_det": _gains(score, config),
        "bounds": {"optimistic": optimistic, "pessimistic": pessimistic},
        "twin_ceiling": None if score.ceiling is None else score.ceiling._asdict(),
        "overlap": leakage,
        "notes": list(score.notes),
        **counts,
    }
    return record | {"about": about(record)}


def _refined(score: Score) -> dict[str, Any] | None:
    if score.reranked is None or score.reached is None:
        return None
    listed, head = score.reached.mean(0)
    return score.reranked | {"recall_shortlist": float(listed), "recall_denoised": float(head)}


def _gains(score: Score, config: Experiment) -> dict[str, tuple[float, float, float]] | None:
    if score.base is None:
        return None
    return gains(score.ranking, score.base, config.eval.bootstrap, config.train.seed)


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
    listed, head = (100 * sizes[f"recall_{part}"] for part in ("shortlist", "denoised"))
    gained = []
    for metric, scale, form in (("hits@1", 100, "+.1f"), ("mrr", 1, "+.4f")):
        mean, low, high = (f"{scale * v:{form}}" for v in record["over_det"][metric])
        gained.append(f"{metric} over det: {mean} ({low} to {high})")
    return [
        f"K1 {sizes['shortlist']}, F {sizes['samples']}, K {sizes['candidates']}, "
        f"S {sizes['steps']}, R {sizes['noises']}, alpha {sizes['alpha']:g} (of validation)",
        f"recall: shortlist {listed:.1f}, denoised {head:.1f}",
        *gained,
    ]


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


def number(name: str, value: float) -> str:
    """A metric as printed: Hits@k in per cent, MRR as a fraction, MR as a rank."""
    if name.startswith("hits"):
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "mrr" else f"{value:,.1f}"
