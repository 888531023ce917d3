"""Charts of a table: a curve, a grid, histograms of similarities and bars of costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tmr_jax.eval.records import number
from tmr_jax.eval.report.charts import BOTTOM, COLOURS, EDGE, INK, WIDTH, Chart, chart
from tmr_jax.table.plan import Table
from tmr_jax.table.results import Line, duration, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = {"positive": "-", "negative": (0, (5, 4))}
BAR = 22  # height of a bar of costs and the space below it
LABEL = 200  # width of the labels next to such bars
SIMILARITIES = (
    "solid, positive: a text and its molecule; dashed, negative: a text and any other; first seed"
)


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
        for place in {**ours, **printed}:
            x, y = acrosses.index(place[1]), downs.index(place[0])
            weight = 0.15 + 0.6 * (ours.get(place, low) - low) / ((high - low) or 1)
            alpha = weight if place in ours else 0.05
            axes.add_patch(_square(x, y, alpha))
            texts = [number(metric, ours[place]) if place in ours else "not run"]
            texts += [number(metric, printed[place])] if printed.get(place) is not None else []
            axes.text(x, y, "\n".join(texts), ha="center", va="center", color=INK)
        axes.set(xlim=(-0.5, len(acrosses) - 0.5), ylim=(len(downs) - 0.5, -0.5))
        axes.set_xticks(range(len(acrosses)), [f"{steps:,}" for steps in acrosses])
        axes.set_yticks(range(len(downs)), [f"{steps:,}" for steps in downs])

    return paint


def _square(x: int, y: int, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.49, y - 0.49), 0.98, 0.98, color=COLOURS[0], alpha=alpha, lw=0)


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
    shown = list(pools)[: len(COLOURS)]
    edges = np.array(pools[shown[0]]["edges"])
    counts = {
        (kind, pool): np.array(pools[pool]["counts"][f"{kind}, {pool}"])
        for pool in shown
        for kind in DASHES
    }
    shares = {key: count / max(count.sum(), 1) for key, count in counts.items()}
    used = np.flatnonzero(sum(shares.values()))
    first, end = used[0], used[-1] + 1

    def paint(axes: Axes) -> None:
        for (kind, pool), share in shares.items():
            style = {"color": COLOURS[shown.index(pool)], "linestyle": DASHES[kind], "lw": 1.6}
            axes.stairs(share[first:end], edges[first : end + 1], baseline=None, **style)

    sizes = [", ".join(f"{counts[kind, pool].sum():,} {kind}" for kind in DASHES) for pool in shown]
    names = [f"{pool} ({size})" for pool, size in zip(shown, sizes, strict=True)]
    return chart(title, paint, names, SIMILARITIES)


def costs(lines: Sequence[Line]) -> Iterator[Chart]:
    """Time and memory, one bar for each run that rows share."""
    runs = {x.row.title: x.costs for x in lines if x.costs}
    if not runs:
        return
    train = [float(np.median([c.train_seconds for c in run])) for run in runs.values()]
    evaluation = [float(np.median([c.eval_seconds for c in run])) for run in runs.values()]
    memory = [max(c.peak_bytes for c in run) / 1e9 for run in runs.values()]
    yield _bars("training, wall time", list(runs), train, duration)
    yield _bars("evaluation, wall time", list(runs), evaluation, duration)
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

    height = BOTTOM + EDGE + BAR * len(names)
    return chart(title, paint, height=height, left=min(LABEL, WIDTH / 2))
