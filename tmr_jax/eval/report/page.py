"""report.html of a run: one file without scripts that makes no external requests.

In: the results of an evaluation, the curves of training, and examples of hits and misses. Out: the
page with tables, charts and structures. The templates escape everything that comes from data
(texts, SMILES, names); the page's policy forbids scripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.eval.metrics import NAMES, TIES
from tmr_jax.eval.records import number, score_name
from tmr_jax.eval.report.charts import COLOURS, Chart, bar_chart, chart, line_chart, outline_chart
from tmr_jax.eval.report.examples import Example
from tmr_jax.eval.report.worked_query import WorkedQuery
from tmr_jax.eval.terminal import gap_words, signal_words
from tmr_jax.models.runtime import series
from tmr_jax.types import Ranking

RANK_EDGES = (1, 2, 6, 11, 21, 51, 101, 501, 1001, 5001)  # first rank of each bar


def templates() -> jinja2.Environment:
    """The templates of this folder; `document.jinja` is the page that others extend, too."""
    loader = jinja2.PackageLoader("tmr_jax.eval", "report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["molecule"] = lambda smiles: Markup(molecule_svg(smiles, 240, 180))
    return environment


def page(
    results: dict[str, Any],
    rankings: dict[str, Ranking],
    examples: list[Example],
    history: list[dict[str, Any]],
    worked: WorkedQuery | None = None,
) -> str:
    """The whole document; `rankings` are named by "protocol, direction"."""
    records = results.get("trust") or []
    sections = [
        ("Training", list(_curves(history)), ""),
        ("Ranks", [rank_chart(name, ranking) for name, ranking in rankings.items()], ""),
        *(("Diagnostics", list(_diagnostics(record)), _geometry(record)) for record in records),
        ("Memory bank", list(_slots(results.get("slots"), history)), ""),
    ]
    return (
        templates()
        .get_template("page.jinja")
        .render(
            title=f"{results['experiment']}: text-molecule retrieval",
            labels=results["labels"],
            facts=_facts(results),
            metrics=NAMES,
            scores=[_score(score) for score in results["scores"]],
            resamples=results["resamples"],
            sections=sections,
            worked=worked,
            hits=[e for e in examples if e.rank <= 1.0],
            misses=[e for e in examples if e.rank > 1.0],
        )
    )


def _facts(results: dict[str, Any]) -> dict[str, str]:
    checkpoint = results["checkpoint"]
    which = f"step {checkpoint['step']} ({checkpoint['which']})"
    return {
        "run": results["run"],
        "checkpoint": f"{which}, SHA-256 {checkpoint['sha256'][:16]}",
        "code": results["commit"],
        "command": results["command"],
        "ties": TIES,
    }


def _score(score: dict[str, Any]) -> dict[str, Any]:
    """Name, facts and cells (value, lower, upper end) of a row."""
    values = {name: (score["metrics"][name], *score["intervals"][name]) for name in NAMES}
    cells = [[number(name, value) for value in values[name]] for name in NAMES]
    return {"name": score_name(score), "about": score["about"], "cells": cells}


def _curves(history: list[dict[str, Any]]) -> Iterator[Chart]:
    """Loss and its parts, then validation scores, if the run recorded them."""
    losses = series(history, lambda name: name == "loss" or name.startswith(("loss/", "loss_")))
    metrics = ("hits@1", "mrr", "det/mrr", "fused/mrr")
    watched = {f"{direction}/{name}" for direction in ("t2m", "m2t") for name in metrics}
    scores = series(history, lambda name: name.removeprefix("validation/") in watched)
    for title, points in (("loss by step", losses), ("validation scores by step", scores)):
        if points:
            yield line_chart(title, points)


def rank_histogram(ranking: Ranking) -> list[tuple[str, int]]:
    """How many queries have their expected rank in each range; ranges end at the pool's size."""
    ranks = 1 + ranking.greater + ranking.equal / 2
    edges = [e for e in RANK_EDGES if e <= ranking.pool_size] + [ranking.pool_size + 1]
    # A tie puts an expected rank between two whole ones: 1.5 counts with 2.
    counts = np.histogram(np.ceil(ranks), edges)[0]
    return [
        (_range(low, high - 1), int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _range(low: int, high: int) -> str:
    """The label below a bar, which is too narrow for two long numbers."""
    if low == high:
        return f"{low:,}"
    return f"{low:,}+" if low > 500 else f"{low}-{high}"


def rank_chart(name: str, ranking: Ranking) -> Chart:
    """Bars of how many queries fall into each range of ranks."""
    places, counts = zip(*rank_histogram(ranking), strict=True)
    size = f"{len(ranking.greater):,} queries, pool of {ranking.pool_size:,}, ties {TIES}"
    title = f"rank of the right candidate: {name}"
    return bar_chart(title, counts, size, places, [f"{count:,}" for count in counts])


def _diagnostics(record: dict[str, Any]) -> Iterator[Chart]:
    """OOD scores, reliability and similarities of one evaluated pool."""
    name, ood = record["protocol"], record["ood"]
    aurocs = [f"AUROC {v:.3f} against {other}" for other, v in ood["auroc"].items()]
    signal = f"1 - mean cosine to {signal_words(ood)}, chosen on {record['validation']}"
    title = f"OOD scores of text queries: {name}"
    yield outline_chart(title, ood["histogram"], "; ".join([signal, *aurocs]))
    for one in record["calibration"]:
        yield reliability_chart(one, name)
    kinds = "positive: a text and its molecule; negative: a text and any other molecule"
    yield outline_chart(
        f"cosines of positive and negative pairs: {name}", record["similarity"], kinds
    )


def _geometry(record: dict[str, Any]) -> str:
    name, shape = record["protocol"], record["geometry"]
    return (
        f"{name}: alignment {shape['alignment']:.3f} (mean squared distance of pairs), "
        f"uniformity of texts {shape['uniformity_text']:.3f}, of molecules "
        f"{shape['uniformity_mol']:.3f} (0 to -4, lower is more even), modality gap "
        f"{gap_words(shape)}."
    )


def reliability_chart(one: dict[str, Any], name: str) -> Chart:
    """Fraction of right first places by confidence; bars on the diagonal are calibrated."""
    counts, correct = (np.array(one["bins"][key]) for key in ("count", "correct"))
    used = np.flatnonzero(counts)
    width = 1 / len(counts)

    def paint(axes: Any) -> None:
        bars = axes.bar((used + 0.5) * width, correct[used], 0.9 * width, color=COLOURS[0])
        axes.bar_label(bars, [f"{count:,}" for count in counts[used]])
        axes.plot([0, 1], [0, 1], color=COLOURS[1], lw=1.6)
        axes.set(xlim=(0, 1), ylim=(0, 1.08), xlabel="confidence")

    caption = (
        "fraction of queries whose first candidate is right, by confidence, with their number; "
        f"line: perfect calibration. ECE {one['ece']:.3f} at T {one['temperature']:.4f} of "
        f"validation, {one['ece_before']:.3f} at T {one['temperature_before']:.4f} before"
    )
    return chart(f"reliability: {name}, {one['direction']}", paint, (), caption)


def _slots(record: dict[str, Any] | None, history: list[dict[str, Any]]) -> Iterator[Chart]:
    """How far each slot moved and how sharply it attends, dead ones marked; norms by step."""
    if record is None:
        return
    dead = record["dead"]
    named = f"dead slots: {', '.join(map(str, dead))}" if dead else "no dead slot"
    rule = "dead: moved at most 1 % of the median slot, and its attention is even within 1 %"
    values = {
        "distance that each slot moved in training": record["moved"],
        "norm of each slot": record["norm_end"],
        "sharpness of each slot's attention (0 even, 1 on one part)": record["sharpness"],
    }
    for i, (title, heights) in enumerate(values.items()):
        yield bar_chart(title, heights, "" if i else f"{named}; {rule}", marked=dead)
    if norms := series(history, lambda name: name.startswith("bank/norm_")):
        yield line_chart("norms of the slots by step", norms)
