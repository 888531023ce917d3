"""A table as Markdown, and as one HTML file with its charts and without scripts.

In: the declaration and its lines. Every line states what its numbers depend on: pool, direction,
what counts as right, the rule of ties, seeds. Published numbers stand next to ours; those that no
ranking can have are marked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from tmr_jax.data.workers import duration
from tmr_jax.eval.metrics import impossible
from tmr_jax.eval.protocols import CLEAN, IDENTITY, find
from tmr_jax.eval.report import page as charts
from tmr_jax.eval.report.page import COLOURS, Chart, chart
from tmr_jax.eval.scores import number
from tmr_jax.table.plan import Table
from tmr_jax.table.results import Line, sentences, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FACTS = ("row", "protocol", "pool", "direction", "relevance", "ties", "seeds")
OTHER_RIGHT = {"hits@1 by identity": IDENTITY, "hits@1 without twins": CLEAN}
REST = ("published", "training", "memory", "notes")
NONE, UNSTATED = "-", "not stated"
ABOUT_COMMANDS = "Each command trains a row by itself, with the seed of its experiment:"
DASHES = {"positive": "-", "negative": (0, (5, 4))}
# Half of the last digit of a printed number, .001 or 0.1 per cent: of MRR, and of its bound.
ROUNDING = 2 * 0.0005
BAR = 22  # height of a bar of costs and the space below it
LABEL = 200  # width of the labels next to such bars
SIMILARITIES = (
    "solid, positive: a text and its molecule; dashed, negative: a text and any other; first seed"
)


def markdown(table: Table, lines: Sequence[Line]) -> str:
    heads = (*FACTS, *table.metrics, *OTHER_RIGHT, *REST)
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for line in lines:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells_of(line, table))
        rows.append(f"| {' | '.join(cells)} |")
    parts = [f"# {table.title}", explanation(table), "\n".join(rows)]
    if claims := _claims(table, lines):
        parts.append("## Claims\n\n" + "\n".join(f"- {text}" for text in claims))
    if by_command := commands(table):
        items = "\n".join(f"- {labels}: `{command}`" for command, labels in by_command.items())
        parts.append(f"## Commands\n\n{ABOUT_COMMANDS}\n\n{items}")
    return "\n\n".join(parts) + "\n"


def page(table: Table, lines: Sequence[Line]) -> str:
    """The whole HTML document."""
    sections = [
        ("Curve", curve(table, [x for x in lines if len(x.row.at) == 1])),
        ("Grid", grids(table, [x for x in lines if len(x.row.at) == 2])),
        ("Similarity of positive and negative pairs", similarities(lines)),
        ("Cost of each run", costs(lines)),
    ]
    template = charts.templates(jinja2.PackageLoader("tmr_jax.table", "")).get_template(
        "table.jinja"
    )
    return template.render(
        title=table.title,
        intro=explanation(table),
        heads=(FACTS[0], *table.metrics, *OTHER_RIGHT, *REST),
        rows=[_page_row(line, table) for line in lines],
        claims=_claims(table, lines),
        sections=[(heading, list(drawn)) for heading, drawn in sections],
        commands=commands(table),
        about_commands=ABOUT_COMMANDS,
    )


def _page_row(line: Line, table: Table) -> dict[str, Any]:
    """What a line depends on goes below its label, so that its numbers need no scrolling."""
    cells = cells_of(line, table)
    label, *facts = cells[: len(FACTS)]
    return {
        "label": label,
        "facts": list(zip(FACTS[1:], facts, strict=True)),
        "cells": [_divided(cell) for cell in cells[len(FACTS) : -1]],
        "notes": cells[-1],
    }


def _divided(cell: str) -> tuple[str, str]:
    """A value, and its interval or source, which goes below it."""
    value, *below = re.split(r" [\[(]", cell, maxsplit=1)
    return (value, below[0][:-1]) if below and cell[-1] in "])" else (cell, "")


def _claims(table: Table, lines: Sequence[Line]) -> list[str]:
    return [text for claim in table.claims for text in sentences(claim, lines)]


def commands(table: Table) -> dict[str, str]:
    """The command that trains each run by itself, with the labels of its rows."""
    labels: dict[str, list[str]] = {}
    for row in table.rows:
        if row.experiment:
            labels.setdefault(row.command, []).append(row.label)
    return {command: "; ".join(of) for command, of in labels.items()}


def explanation(table: Table) -> str:
    return (
        f"Mean ± standard deviation over the seeds {', '.join(map(str, table.seeds))} [widest "
        "95 % bootstrap interval over queries of any seed]; Hits@k in per cent. Published numbers "
        "are in the order of the columns and are single runs of the papers; a line with “cited” "
        "for its seeds is only published, with the protocol and pool of its source. Impossible: no "
        "ranking has these Hits@k and this MRR. By identity: any candidate with the same text or "
        "molecule is right; without twins: only queries whose connectivity is not in training; "
        "means over the seeds. Training: median wall time of the seeds on this machine, without "
        "earlier stages; memory: the peak of the training process."
    )


def cells_of(line: Line, table: Table) -> list[str]:
    """The cells of a line as plain text, in the order of the heads."""
    if line.records:
        scores = [_measured(line, metric) for metric in table.metrics]
    else:
        first = "cited" if line.cited_only else f"not run: {line.missing}"
        scores = [first, *[NONE] * (len(table.metrics) - 1)]
    hits = (line.other_hits(right) for right in OTHER_RIGHT.values())
    others = [NONE if value is None else number("hits@1", value) for value in hits]
    cited = _published(line, table.metrics)
    return [*_facts(line), *scores, *others, cited, *_costs(line), _notes(line)]


def _facts(line: Line) -> list[str]:
    row = line.row
    protocol, right, ties, seeds = row.protocol, NONE, NONE, NONE
    if line.records:
        first = line.records[0]  # these are the same for all seeds
        right, ties, pool = first["right"], first["ties"], f"{first['pool']:,}"
        seeds = ", ".join(map(str, line.seeds))
    elif row.cited and line.cited_only:
        protocol, pool, seeds = row.cited.protocol, _size(row.cited.pool) or UNSTATED, "cited"
    else:
        declared = find(protocol, "")
        pool = _size(declared.batch or declared.size) or NONE  # else it is known when it runs
    return [row.label, protocol, pool, line.direction, right, ties, seeds]


def _size(pool: int) -> str:
    return f"{pool:,}" if pool else ""


def _measured(line: Line, metric: str) -> str:
    over = summary(line, metric)
    mean, low, high = (number(metric, v) for v in (over.mean, over.low, over.high))
    std = "" if over.std is None else f" ± {number(metric, over.std)}"
    return f"{mean}{std} [{low} to {high}]"


def _published(line: Line, metrics: Sequence[str]) -> str:
    """With the source, and its protocol where that is not the one of the line."""
    cited = line.row.cited
    if cited is None or not (printed := cited.of(line.direction)):
        return NONE
    shown = " / ".join(number(m, printed[m]) if m in printed else NONE for m in metrics)
    mark = " IMPOSSIBLE" if impossible(printed, ROUNDING) else ""
    source = cited.source
    if not line.cited_only and cited.protocol != line.row.protocol:
        source += f"; {cited.protocol}, pool {_size(cited.pool) or UNSTATED}"
    return f"{shown}{mark} ({source})"


def _costs(line: Line) -> list[str]:
    if not line.costs:
        return [NONE, NONE]
    # Only the first run computes what the cache keeps, such as a frozen text encoder's states.
    seconds = float(np.median([cost.train_seconds for cost in line.costs]))
    return [duration(seconds), f"{max(c.peak_bytes for c in line.costs) / 1e9:.1f} GB"]


def _notes(line: Line) -> str:
    cited, notes = line.row.cited, []
    for record in line.records[:1]:
        notes += [f"tier {record['tier']}"] if record["tier"] else []
        settings = record["refined"] or {}
        if "samples" in settings:
            notes.append(f"F {settings['samples']}, S {settings['steps']}")
        notes += record["labels"]
        notes += [f"other seeds not run: {line.missing}"] if line.missing else []
    notes += [line.row.note] if line.row.note else []
    if cited is not None and cited.note and cited.of(line.direction):
        notes.append(cited.note if line.cited_only else f"published: {cited.note}")
    return "; ".join(notes) or NONE


# Charts: a curve, a grid, similarities of pairs, costs


def curve(table: Table, lines: list[Line]) -> Iterator[Chart]:
    """The first metric by the number that the rows vary, ours and published."""
    metric = table.metrics[0]
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line.records:
            mean = summary(line, metric).mean
            curves.setdefault(f"ours, {line.direction}", []).append((line.row.at[0], mean))
        printed = line.row.cited.of(line.direction) if line.row.cited else {}
        if metric in printed:
            point = line.row.at[0], printed[metric]
            curves.setdefault(f"published, {line.direction}", []).append(point)

    def paint(axes: Axes) -> None:
        for colour, points in zip(COLOURS, curves.values(), strict=False):
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colour, lw=1.6, ms=4)
        axes.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
        axes.yaxis.set_major_formatter(lambda value, _: number(metric, value))

    if curves:
        yield chart(f"{metric} by {table.curve}", paint, list(curves))


def grids(table: Table, lines: list[Line]) -> Iterator[Chart]:
    """A heat map of the first metric for each direction: trained steps down, evaluated across."""
    metric = table.metrics[0]
    for direction in dict.fromkeys(line.direction for line in lines):
        shown = [line for line in lines if line.direction == direction]
        ours = {x.row.at: summary(x, metric).mean for x in shown if x.records}
        printed = {x.row.at: x.row.cited.of(direction).get(metric) for x in shown if x.row.cited}
        title = f"{metric}, {direction}: {table.curve}"
        if ours or any(printed.values()):
            yield chart(title, _cells(metric, ours, printed), (), "below: as published")


def _cells(
    metric: str, ours: dict[tuple[int, ...], float], printed: dict[tuple[int, ...], Any]
) -> Callable[[Axes], None]:
    downs, acrosses = (sorted({place[i] for place in {*ours, *printed}}) for i in (0, 1))
    low, high = min(ours.values(), default=0.0), max(ours.values(), default=0.0)

    def paint(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for place in {**ours, **printed}:
            x, y = acrosses.index(place[1]), downs.index(place[0])
            weight = 0.15 + 0.6 * (ours.get(place, low) - low) / ((high - low) or 1)
            alpha = weight if place in ours else 0.05
            square = (x - 0.49, y - 0.49), 0.98, 0.98
            axes.add_patch(Rectangle(*square, color=COLOURS[0], alpha=alpha, lw=0))
            texts = [number(metric, ours[place]) if place in ours else "not run"]
            texts += [number(metric, printed[place])] if printed.get(place) is not None else []
            axes.text(x, y, "\n".join(texts), ha="center", va="center", color=charts.INK)
        axes.set(xlim=(-0.5, len(acrosses) - 0.5), ylim=(len(downs) - 0.5, -0.5))
        axes.set_xticks(range(len(acrosses)), [f"{steps:,}" for steps in acrosses])
        axes.set_yticks(range(len(downs)), [f"{steps:,}" for steps in downs])

    return paint


def similarities(lines: Sequence[Line]) -> Iterator[Chart]:
    """For each run, the cosines in every pool that its rows rank: in and out of its domain."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines:
        for record in line.trust[0] if line.trust else ():  # of the first seed
            if record["protocol"] == line.row.protocol:
                pools = runs.setdefault(line.row.title, {})
                pools[record["protocol"]] = record["similarity"]
    for title, pools in runs.items():
        yield _outlines(f"cosines of {title}", pools)


def _outlines(title: str, pools: dict[str, dict[str, Any]]) -> Chart:
    """Histograms as fractions of their own count; a colour for each of at most four pools.

    The record of a pool also holds those of other data sets, which are not rows.
    """
    counts, names = {}, []
    for pool in list(pools)[: len(COLOURS)]:
        own = {kind: pools[pool]["counts"][f"{kind}, {pool}"] for kind in DASHES}
        counts |= {(kind, pool): count for kind, count in own.items()}
        sizes = (f"{sum(count):,} {kind}" for kind, count in own.items())
        names.append(f"{pool} ({', '.join(sizes)})")
    histogram = {"edges": next(iter(pools.values()))["edges"], "counts": counts}
    return charts.outline_chart(title, histogram, SIMILARITIES, names, [*DASHES.values()])


def costs(lines: Sequence[Line]) -> Iterator[Chart]:
    """Time and memory, one bar for each run that rows share."""
    runs = {x.row.title: x.costs for x in lines if x.costs}
    if not runs:
        return
    for what, field in (("training", "train_seconds"), ("evaluation", "eval_seconds")):
        times = [float(np.median([getattr(c, field) for c in run])) for run in runs.values()]
        yield _bars(f"{what}, wall time", list(runs), times, duration)
    memory = [max(c.peak_bytes for c in run) / 1e9 for run in runs.values()]
    yield _bars("memory of the training process", list(runs), memory, "{:.2f} GB".format)


def _bars(title: str, names: list[str], values: list[float], show: Callable[[float], str]) -> Chart:
    """Horizontal bars, since long names need the width."""

    def paint(axes: Axes) -> None:
        bars = axes.barh(range(len(values)), values, 0.7, color=COLOURS[0])
        axes.bar_label(bars, [show(value) for value in values], padding=4)
        axes.set_yticks(range(len(names)), [name[-34:] for name in names])
        axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.25 * max(values) or 1))
        axes.xaxis.set_visible(False)
        axes.spines.bottom.set_visible(False)

    height = charts.BOTTOM + charts.EDGE + BAR * len(names)
    return chart(title, paint, height=height, left=min(LABEL, charts.WIDTH / 2))
