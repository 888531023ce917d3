"""Charts of a report as inline SVG, drawn by matplotlib.

Colours come out as CSS variables of document.jinja, so that a page follows the reader's light or
dark theme. Strings from data belong into titles, legends and captions, which the template escapes;
`axes` text is never parsed as mathematics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 560, 240, 48, 30, 10  # of a chart and its margins, in pixels
CELL = 13  # height of a row of cells
POINTS = 300  # of one curve
COLOURS = ("#2f6fde", "#d9622b", "#2c9a62", "#8a55c7")
INK, DIM, LINE = "#1d2430", "#5d6878", "#d5dae3"
CSS = dict(zip((*COLOURS, INK, DIM, LINE), ("a", "b", "c", "d", "ink", "dim", "line"), strict=True))
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "font.family": "sans-serif",
    "text.color": DIM,
    "axes.edgecolor": LINE,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
# What matplotlib adds that a page must not have: a style for all of it, names used twice, notes.
EXTRA = re.compile(
    r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->"
    r'| id="[\w.]+_\d+"| (?:width|height)="[\d.]+pt"',
    re.DOTALL,
)


class Chart(NamedTuple):
    """A figure of the page."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]  # (CSS colour, label)
    caption: str


def chart(
    title: str,
    paint: Callable[[Axes], None],
    names: Sequence[str] = (),
    caption: str = "",
    height: float = HEIGHT,
    left: float = LEFT,
) -> Chart:
    """What `paint` draws on the axes; `names` are the labels of COLOURS in the legend."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Ids in the SVG are hashes: the same for the same chart, others for another one of the page.
    salted = SETTINGS | {"svg.hashsalt": f"{title} {caption}"}
    with rc_context(salted):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        size = (WIDTH - left - EDGE) / WIDTH, (height - BOTTOM - EDGE) / height
        axes = figure.add_axes((left / WIDTH, BOTTOM / height, *size))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: short(value))
        paint(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    svg = EXTRA.sub("", file.getvalue()[file.getvalue().index("<svg") :])
    for colour, name in CSS.items():
        svg = svg.replace(colour, f"var(--{name})")
    legend = [(f"var(--{CSS[c]})", name) for c, name in zip(COLOURS, names, strict=False)]
    return Chart(title, Markup(svg), legend, caption)


def short(value: float) -> str:
    """A number short enough for an axis label."""
    plain = f"{value:.3g}"
    return plain if len(plain) < 8 and "e" not in plain else f"{value:.0e}"


def line_chart(title: str, curves: dict[str, list[tuple[float, float]]]) -> Chart:
    """Curves of (step, value), at most as many as there are colours."""
    shown = dict(list(curves.items())[: len(COLOURS)])

    def paint(axes: Axes) -> None:
        for colour, points in zip(COLOURS, shown.values(), strict=False):
            dot = "o" if len(points) == 1 else ""  # a line of one point cannot be seen
            axes.plot(*np.transpose(smoothed(points)), marker=dot, color=colour, lw=1.6, ms=5)

    return chart(title, paint, [f"{n} ({points[-1][1]:.3g})" for n, points in shown.items()])


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of as many neighbours: single steps are noise."""
    block = -(-len(points) // POINTS)
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def outline_chart(title: str, histogram: dict[str, Any], caption: str) -> Chart:
    """Histograms over the same `edges`, each as fractions of its own count."""
    counts = histogram["counts"]
    shares = {name: np.array(count) / max(sum(count), 1) for name, count in counts.items()}
    used = np.flatnonzero(sum(shares.values()))
    first, end = used[0], used[-1] + 1
    edges = histogram["edges"][first : end + 1]

    def paint(axes: Axes) -> None:
        for i, share in enumerate(shares.values()):
            colour = COLOURS[i % len(COLOURS)]
            axes.stairs(share[first:end], edges, baseline=None, color=colour, lw=1.6)

    return chart(title, paint, [f"{n} ({sum(count):,})" for n, count in counts.items()], caption)


def bar_chart(
    title: str,
    heights: Sequence[float],
    caption: str,
    places: Sequence[str] = (),
    labels: Sequence[str] = (),
    marked: Sequence[int] = (),
) -> Chart:
    """Bars with names below (`places`) and labels above; `marked` ones in the second colour.

    Bars without labels get an axis of values.
    """

    def paint(axes: Axes) -> None:
        colours = [COLOURS[i in marked] for i in range(len(heights))]
        bars = axes.bar(range(len(heights)), heights, 0.9, color=colours)
        if labels:
            axes.bar_label(bars, labels)
            axes.yaxis.set_visible(False)
            axes.spines.left.set_visible(False)
        if places:
            axes.set_xticks(range(len(heights)), places)

    return chart(title, paint, (), caption)


def cell_chart(title: str, values: np.ndarray, labels: Sequence[str], below: str) -> Chart:
    """A picture of cells, from transparent at the lowest value to blue at the highest."""
    low, high = float(values.min()), float(values.max())
    height = BOTTOM + EDGE + CELL * len(values)

    def paint(axes: Axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("cells", [COLOURS[0] + "00", COLOURS[0]])
        axes.pcolormesh(values, cmap=colours, edgecolors="none")
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(values)) + 0.5, labels)
        axes.set_xticks([])
        axes.set_xlabel(f"{below}; {low:.3f} to {high:.3f}")

    return chart(title, paint, height=height, left=120)
