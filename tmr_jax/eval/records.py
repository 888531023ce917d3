"""The line of results.json for each score, with everything that its numbers depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

from tmr_jax.config import Experiment
from tmr_jax.eval.metrics import bounds, gains, intervals, metrics
from tmr_jax.eval.protocols import CLEAN, PAIR, Protocol
from tmr_jax.eval.scores import Score


def labels(config: Experiment, protocol: str) -> list[str]:
    """What a reader must know before comparing a number of this run with another."""
    found = []
    if "demo/" in protocol:  # or in batches of it
        found.append("generated text")
    elif config.data.name == "demo":
        found.append("trained on generated text")
    if config.data.name == "open":
        found.append("open-pairs training")
    return found


def score_record(
    score: Score,
    config: Experiment,
    protocol: Protocol,
    shared: dict[str, Any],
    counts: dict[str, int],
) -> dict[str, Any]:
    """One line of results.json: every number with what it depends on.

    `shared` is what `overlap.check` says of the pool, `counts` what left it.
    """
    kind, harsh = bounds(score.ranking)
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
        "bounds": {"optimistic": kind, "pessimistic": harsh},
        "twin_ceiling": None if score.ceiling is None else score.ceiling._asdict(),
        "overlap": shared,
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
    """What the table says of a score below its name."""
    lines = [
        f"pool {record['pool']:,}, {record['queries']:,} queries, seed {record['seed']}",
        f"ties: {record['ties']}",
    ]
    if record["declared"]["batch"]:
        lines.append(f"batches in file order; pairs at the end dropped: {record['dropped_pairs']}")
        if record["tier"]:
            lines.append("first stage only: batches are not refined")
    if record["scorer"] != "model":
        lines.insert(0, f"baseline, {record['scorer']}")
    if (told := record["refined"]) is not None:
        lines.append(
            f"K1 {told['shortlist']}, F {told['samples']}, K {told['candidates']}, "
            f"S {told['steps']}, R {told['noises']}, alpha {told['alpha']:g} (of validation)"
        )
        listed, head = (100 * told[f"recall_{part}"] for part in ("shortlist", "denoised"))
        lines.append(f"recall: shortlist {listed:.1f}, denoised {head:.1f}")
        for metric, scale, form in (("hits@1", 100, "+.1f"), ("mrr", 1, "+.4f")):
            mean, low, high = (f"{scale * v:{form}}" for v in record["over_det"][metric])
            lines.append(f"{metric} over det: {mean} ({low} to {high})")
    if record["right"] != PAIR:
        lines.append(f"right: {record['right']}")
    if (limit := record["twin_ceiling"]) is not None:
        share = f"{100 * limit['queries_with_twin']:.1f} % have a twin"
        lines.append(f"twin ceiling {100 * limit['hits1']:.1f} ({share})")
    lines += [*_about_training(record), *record["notes"]]
    if record["refused_molecules"]:
        lines.append(f"molecules refused and left out: {record['refused_molecules']:,}")
    return lines + record["labels"]


def _about_training(record: dict[str, Any]) -> list[str]:
    """What training has shown of the test, and what was left out for it."""
    shared, declared = record["overlap"], record["declared"]
    known, lost = (
        "unknown" if shared[name] is None else f"{shared[name]:,}"
        for name in ("in_training", "left_out")
    )
    lines = []
    if record["right"] != CLEAN:
        lines.append(f"molecules also in training: {known} of {shared['queried']:,}")
    if declared["filter"] != "none":
        own = declared["leakage"] == "molecule or text"
        which = "whose molecule or text was trained on" if own else "with a twin in training"
        lines.append(f"queries {which}, left out: {lost}")
    return lines


def score_name(score: dict[str, Any]) -> str:
    """Protocol, direction and, for a model with a second stage, stage."""
    return ", ".join(filter(None, (score["protocol"], score["direction"], score["tier"])))


def number(name: str, value: float) -> str:
    """A metric as printed: Hits@k in per cent, MRR as a fraction, MR as a rank."""
    if name.startswith("hits"):
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "mrr" else f"{value:,.1f}"
