"""The scores as a terminal shows them: a table of one line per score, details on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tmr_jax.eval.metrics import HITS, NAMES
from tmr_jax.eval.protocols import CLEAN, HOLDER, IDENTITY, PAIR
from tmr_jax.eval.ridge import BASELINE, PIECES_BASELINE
from tmr_jax.eval.scores import gain_words, number, score_name

WIDTH = 100
MEASURES = ("Hits@1", *(f"@{k}" for k in HITS[1:]), "MRR", "MR", "95 % @1")
HEADS = ("protocol", "direction", "right", "pool", *MEASURES)
RIGHT = {PAIR: "pair", IDENTITY: "same", CLEAN: "clean", HOLDER: "holds"}
SCORERS = {"model": "", BASELINE: "ridge words", PIECES_BASELINE: "ridge pieces"}


def table_lines(results: dict[str, Any]) -> list[str]:
    """The table of results.json: one line per score, then what holds for all of them."""
    scores, checkpoint = results["scores"], results["checkpoint"]
    rows = [HEADS, *map(_cells, scores)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    wide[0] = max(8, min(wide[0], WIDTH - sum(wide[1:]) - len(wide) + 1))
    lines = [
        f"{results['experiment']}: {checkpoint['which']} checkpoint, step {checkpoint['step']}"
    ]
    lines += [_aligned(row, wide) for row in rows]
    return [*lines, *_legend(results)]


def _cells(score: dict[str, Any]) -> tuple[str, ...]:
    low, high = (number("hits@1", value) for value in score["intervals"]["hits@1"])
    values = (number(name, score["metrics"][name]) for name in NAMES)
    scorer = SCORERS.get(score["scorer"], score["scorer"])
    direction = " ".join(filter(None, (score["direction"], score["tier"], scorer)))
    pool, right = f"{score['pool']:,}", RIGHT[score["right"]]
    return score["protocol"], direction, right, pool, *values, f"{low}-{high}"


def _aligned(cells: Sequence[str], wide: Sequence[int]) -> str:
    protocol = cells[0]
    if len(protocol) > wide[0]:  # its end tells pools apart
        protocol = "..." + protocol[3 - wide[0] :]
    text = (cell.ljust(width) for cell, width in zip((protocol, *cells[1:3]), wide, strict=False))
    numbers = (cell.rjust(width) for cell, width in zip(cells[3:], wide[3:], strict=True))
    return " ".join((*text, *numbers))


def _legend(results: dict[str, Any]) -> list[str]:
    """What holds for all scores, said once below the table."""
    scores = results["scores"]
    ties, seeds = ({str(s[name]) for s in scores} for name in ("ties", "seed"))
    rights = [right for right in RIGHT if any(s["right"] == right for s in scores)]
    lines = [
        "Hits@k in per cent; 95 % @1: bootstrap interval of Hits@1, "
        f"{results['resamples']:,} resamples of the queries",
        *(f"right, {RIGHT[right]}: {right}" for right in rights),
        f"ties: {', '.join(sorted(ties))}; seed {', '.join(sorted(seeds))}",
    ]
    for score in (s for s in scores if s["model_over"] is not None):
        gain = gain_words(score["model_over"]["mrr"])
        lines.append(f"MRR over {SCORERS[score['scorer']]}, {score_name(score)}: {gain}")
    if labels := sorted({label for s in scores for label in s["labels"]}):
        lines.append(f"note: {', '.join(labels)}")
    return lines


def detail_lines(results: dict[str, Any]) -> list[str]:
    """Everything else: each score with its intervals and facts, then the other records."""
    lines = []
    for score in results["scores"]:
        lines += [score_name(score), f"  {_intervals(score)}"]
        lines += [f"  {fact}" for fact in score["about"]]
    lines += [
        "duplicate ceiling: the highest Hits@1 that any ranking of these model inputs can expect",
        "also in training: the same InChIKey block 1 (connectivity)",
    ]
    lines += [line for record in results["analysis"] for line in analysis_lines(record)]
    lines += [line for record in results["trust"] for line in diagnostic_lines(record)]
    return lines + (slot_lines(results["slots"]) if "slots" in results else [])


def _intervals(score: dict[str, Any]) -> str:
    shown = []
    for name in NAMES:
        low, high = (number(name, value) for value in score["intervals"][name])
        shown.append(f"{name} {number(name, score['metrics'][name])} ({low} to {high})")
    return ", ".join(shown)


def print_scores(results: dict[str, Any], verbose: bool = False) -> None:
    """The table, with `verbose` the details, and where the result files are."""
    lines = table_lines(results) + (detail_lines(results) if verbose else [])
    files = [f"{results['run']}/{name}" for name in ("results.json", "report.html")]
    print("\n".join([*lines, *files]))


def analysis_lines(record: dict[str, Any]) -> list[str]:
    """Subgroups, variety and uncertainty of one stage."""
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


def diagnostic_lines(record: dict[str, Any]) -> list[str]:
    """OOD scores, calibration and geometry of one pool."""
    ood, shape = record["ood"], record["geometry"]
    own = record["protocol"]
    lines = [
        f"{own}; diagnostics fitted on {record['validation']}",
        f"  OOD score: 1 - mean cosine to {signal_words(ood)}; above the threshold "
        f"{ood['threshold']:.3f} are {100 * ood['flagged'][own]:.1f} % of the queries",
    ]
    for name, value in ood["auroc"].items():
        lines.append(
            f"  AUROC {value:.3f} against {name} ({ood['queries'][name]:,}, "
            f"{100 * ood['flagged'][name]:.1f} % above the threshold)"
        )
    for one in record["calibration"]:
        lines.append(
            f"  {one['direction']}: ECE {one['ece_before']:.3f} at T "
            f"{one['temperature_before']:.4f}, {one['ece']:.3f} at T {one['temperature']:.4f}; "
            f"mean confidence {100 * one['confidence']:.1f}, hits@1 {100 * one['hits@1']:.1f}"
        )
    lines.append(
        f"  alignment {shape['alignment']:.3f}; uniformity of texts "
        f"{shape['uniformity_text']:.3f}, of molecules {shape['uniformity_mol']:.3f}"
    )
    return [*lines, f"  modality gap {gap_words(shape)}"]


def signal_words(ood: dict[str, Any]) -> str:
    """The rows that the chosen signal compares with."""
    count = ood["neighbours"]
    if count == 1:
        return f"the nearest of the {ood['reference']}"
    return f"the {count} nearest {ood['reference']}"


def gap_words(shape: dict[str, Any]) -> str:
    """The modality gap, before and after if both are known."""
    after = f"{shape['modality_gap']:.3f}"
    if shape["gap_of_parts"] is None:
        return after
    return f"{shape['gap_of_parts']:.3f} of the means of words and atoms, {after} of embeddings"


def slot_lines(record: dict[str, Any]) -> list[str]:
    """Movement and sharpness of memory slots, with the dead ones."""
    moved, sharp = np.array(record["moved"]), np.array(record["sharpness"])
    dead = record["dead"]
    named = f"dead slots: {', '.join(map(str, dead))}" if dead else "no dead slot"
    return [
        f"memory bank, {len(moved)} slots: {named}",
        f"  moved {moved.min():.3f} to {moved.max():.3f}, median {np.median(moved):.3f}; "
        f"sharpness {sharp.min():.3f} to {sharp.max():.3f} (0: even attention)",
    ]
