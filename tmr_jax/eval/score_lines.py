"""One line of results.json for each score, and the table that a terminal shows of them.

Every number goes with what it depends on: protocol, direction, pool, tie rule and
seed (MODELS.md 1.3).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tmr_jax.config import Experiment
from tmr_jax.eval.metrics import NAMES, bounds, gains, intervals, metrics
from tmr_jax.eval.ood import slot_lines, trust_lines
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
        "tier": score.tier,
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
    if score.refined is None or score.reached is None:
        return None
    listed, head = score.reached.mean(0)
    return score.refined | {"recall_shortlist": float(listed), "recall_denoised": float(head)}


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


def print_table(results: dict[str, Any]) -> None:
    """The scores on standard output; what a number depends on stands in its own line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tmr_jax.eval.report.page import number, score_name

    checkpoint = results["checkpoint"]
    title = f"{results['experiment']}: {checkpoint['which']} checkpoint, step {checkpoint['step']}"
    table = Table(title=escape(title), show_lines=True)
    table.add_column("protocol, direction", min_width=46)
    for metric in NAMES:
        table.add_column(metric, justify="right")
    for score in results["scores"]:
        name = f"[bold]{escape(score_name(score))}[/bold]"
        cells = []
        for metric in NAMES:
            low, high = (number(metric, value) for value in score["intervals"][metric])
            cells.append(f"{number(metric, score['metrics'][metric])}\n[dim]{low}-{high}[/dim]")
        table.add_row("\n".join([name, *map(escape, score["about"])]), *cells)
    console = Console()
    if not console.is_terminal:
        console.width = 130
    console.print(table)
    console.print(
        "hits@k in per cent; below each value its 95 % bootstrap interval "
        f"({results['resamples']:,} resamples of the queries). Twin ceiling: the highest hits@1 "
        "that any ranking of these model inputs can expect. Also in training: the same InChIKey "
        "block 1 (connectivity)."
    )
    for record in results["analysis"]:
        for line in analysis_lines(record):
            console.print(line, markup=False, highlight=False)
    for record in results["trust"]:
        for line in trust_lines(record):
            console.print(line, markup=False, highlight=False)
    if "slots" in results:
        for line in slot_lines(results["slots"]):
            console.print(line, markup=False, highlight=False)
    for name in ("results.json", "report.html"):
        console.print(f"{results['run']}/{name}", markup=False, soft_wrap=True)


def analysis_lines(record: dict[str, Any]) -> list[str]:
    """What is said beside accuracy, in words."""
    lines = [f"{record['protocol']}, {record['direction']}, {record['tier']}"]
    for name, scores in record["slices"].items():
        lines.append(
            f"  {name}: {scores['queries']:,} queries, hits@1 {100 * scores['hits@1']:.1f}, "
            f"hits@10 {100 * scores['hits@10']:.1f}"
        )
    varied = record["variety"]
    lines.append(
        f"  first ten: mean Tanimoto distance {varied['tanimoto_distance@10']:.3f}, "
        f"{varied['scaffolds@10']:.2f} scaffolds"
    )
    if (drawn := record.get("uncertainty")) is not None:
        shares = (drawn["hits@1_where_all_agree"], drawn["hits@1_elsewhere"])
        sure, unsure = ("-" if share is None else f"{100 * share:.1f}" for share in shares)
        lines.append(
            f"  {drawn['draws']} draws: entropy {drawn['entropy']:.3f} nats, agreement "
            f"{drawn['agreement']:.3f}; all agree on {100 * drawn['all_agree']:.1f} % of the "
            f"queries: hits@1 {sure} there, {unsure} elsewhere"
        )
    return lines
