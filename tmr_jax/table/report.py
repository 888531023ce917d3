"""A table as Markdown, and as one HTML file with its plots, all inline and without scripts.

In: the declaration and its lines. Every line says what its numbers depend on: pool, direction, what
counts as right, the rule of ties, seeds. Published numbers stand beside, those that no ranking can
have marked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from tmr_jax.eval.protocols import BATCH, CLEAN, IDENTITY, IN_BATCH, find
from tmr_jax.eval.records import number
from tmr_jax.eval.report.charts import BOTTOM, HEIGHT, LEFT, WIDTH
from tmr_jax.eval.report.page import templates
from tmr_jax.table.plan import Table, impossible
from tmr_jax.table.results import Line, sentences, summary

FACTS = ("row", "protocol", "pool", "direction", "relevance", "ties", "seeds")
BESIDE = {"hits@1 by identity": IDENTITY, "hits@1 without twins": CLEAN}
REST = ("published", "training", "memory", "notes")
NONE, UNSTATED = "-", "not stated"
STROKES = {"positive": "", "negative": ";stroke-dasharray:5 4"}  # partners; strangers dashed
COMMANDS = "Each row trained by itself, with its experiment's own seed:"
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")
BAR = 22  # height of a bar of costs and the space below it
LABEL = 200  # width of the labels beside such bars


def markdown(table: Table, found: Sequence[Line]) -> str:
    heads = (*FACTS, *table.metrics, *BESIDE, *REST)
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for line in found:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells_of(line, table))
        rows.append(f"| {' | '.join(cells)} |")
    parts = [f"# {table.title}", explanation(table), "\n".join(rows)]
    if table.claims:
        said = "\n".join(f"- {told}" for claim in table.claims for told in sentences(claim, found))
        parts.append(f"## Claims\n\n{said}")
    listed = "\n".join(f"- {labels}: `{command}`" for command, labels in commands(table).items())
    if listed:
        parts.append(f"## Commands\n\n{COMMANDS}\n\n{listed}")
    return "\n\n".join(parts) + "\n"


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
        "are in the order of the columns and of the papers' own runs; a line whose seeds say "
        "“cited” is only that, with the protocol and pool of its source. Impossible: no ranking "
        "has these Hits@k and this MRR. By identity: any candidate with the same text or molecule "
        "is right; without twins: of the queries whose connectivity is not in training; means over "
        "the seeds. Training: median wall time of the seeds on this machine, without the stages "
        "before; memory: the most that its process held."
    )


def cells_of(line: Line, table: Table) -> list[str]:
    """The cells of a line as plain text, in the order of the heads."""
    if line.records:
        told = [_measured(line, metric) for metric in table.metrics]
    else:
        first = "cited" if line.cited_only else f"not run: {line.missing}"
        told = [first, *[NONE] * (len(table.metrics) - 1)]
    beside = [_share(line.beside(right)) for right in BESIDE.values()]
    cited = _published(line, table.metrics)
    return [*_facts(line), *told, *beside, cited, *_costs(line), _notes(line)]


def _share(value: float | None) -> str:
    return NONE if value is None else number("hits@1", value)


def _facts(line: Line) -> list[str]:
    row = line.row
    if line.records:
        seeds = ", ".join(map(str, line.seeds))
        pool, right, ties = f"{line.common('pool'):,}", line.common("right"), line.common("ties")
        return [row.label, row.protocol, pool, line.direction, right, ties, seeds]
    if row.cited and line.cited_only:
        protocol, pool, seeds = row.cited.protocol, _size(row.cited.pool) or UNSTATED, "cited"
    else:
        protocol, pool, seeds = row.protocol, _size(_declared_size(row.protocol)) or NONE, NONE
    return [row.label, protocol, pool, line.direction, NONE, NONE, seeds]


def _declared_size(protocol: str) -> int:
    """How many candidates a query of ours would meet; 0: known when it runs."""
    if protocol == IN_BATCH:  # of a run's own pool, whichever that is
        return BATCH
    declared = find(protocol, "")
    return declared.batch or declared.size


def _size(pool: int) -> str:
    return f"{pool:,}" if pool else ""


def _measured(line: Line, metric: str) -> str:
    found = summary(line, metric)
    mean, low, high = (number(metric, v) for v in (found.mean, found.low, found.high))
    std = "" if found.std is None else f" ± {number(metric, found.std)}"
    return f"{mean}{std} [{low} to {high}]"


def _published(line: Line, metrics: Sequence[str]) -> str:
    """Beside a line of ours also the source's protocol, where that is another one."""
    cited = line.row.cited
    if cited is None or not (printed := cited.of(line.direction)):
        return NONE
    shown = " / ".join(number(m, printed[m]) if m in printed else NONE for m in metrics)
    mark = " IMPOSSIBLE" if impossible(printed) else ""
    source = cited.source
    if not line.cited_only and cited.protocol != line.row.protocol:
        source += f"; {cited.protocol}, pool {_size(cited.pool) or UNSTATED}"
    return f"{shown}{mark} ({source})"


def _costs(line: Line) -> list[str]:
    if not line.costs:
        return [NONE, NONE]
    # The first run alone computes what the others find kept, e.g. a frozen text encoder's states.
    seconds = float(np.median([cost.train_seconds for cost in line.costs]))
    return [_time(seconds), f"{max(c.peak_bytes for c in line.costs) / 1e9:.1f} GB"]


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _notes(line: Line) -> str:
    cited, notes = line.row.cited, _notes_of_run(line) if line.records else []
    notes += [line.row.note] if line.row.note else []
    if cited is not None and cited.note and cited.of(line.direction):
        notes.append(cited.note if line.cited_only else f"published: {cited.note}")
    return "; ".join(notes) or NONE


def _notes_of_run(line: Line) -> list[str]:
    record = line.records[0]
    notes = [f"tier {record['tier']}"] if record["tier"] else []
    if (told := record["refined"]) is not None:
        notes.append(f"F {told['samples']}, S {told['steps']}")
    notes += record["labels"]
    if line.missing:
        notes.append(f"other seeds not run: {line.missing}")
    return notes


# HTML


def page(table: Table, found: Sequence[Line]) -> str:
    """The whole document."""
    told = [text for claim in table.claims for text in sentences(claim, found)]
    claims = "".join(f"<li>{escape(text)}</li>" for text in told)
    parts = [
        section("Rows", _rows(table, found)),
        section("Claims", f"<ul>{claims}</ul>" if claims else ""),
        section("Curve", _curve(table, [x for x in found if len(x.row.at) == 1])),
        section("Grid", _grid(table, [x for x in found if len(x.row.at) == 2])),
        section("Similarity of partners and of strangers", _similarities(found)),
        section("Cost of each row", _bars(found)),
        section("Commands", _commands(table)),
    ]
    body = Markup("\n".join(parts))
    document = templates().get_template("document.jinja")
    return document.render(title=table.title, intro=explanation(table), body=body)


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def figure(title: str, drawing: str, caption: str) -> str:
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{drawing}</svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _commands(table: Table) -> str:
    listed = "".join(
        f"<li>{escape(labels)}: <code>{escape(command)}</code></li>"
        for command, labels in commands(table).items()
    )
    return f"<p>{COMMANDS}</p><ul>{listed}</ul>" if listed else ""


def _rows(table: Table, found: Sequence[Line]) -> str:
    """What a line depends on goes below its name, so that its numbers need no scrolling."""
    heads = (FACTS[0], *table.metrics, *BESIDE, *REST)
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    rows = []
    for line in found:
        cells = cells_of(line, table)
        label, *facts = (escape(cell) for cell in cells[: len(FACTS)])
        notes = f'<td style="white-space:normal;min-width:14rem">{escape(cells[-1])}</td>'
        about = "<br>".join(f"{name}: {fact}" for name, fact in zip(FACTS[1:], facts, strict=True))
        told = "".join(f"<td>{_small(cell)}</td>" for cell in cells[len(FACTS) : -1])
        head_cell = f'<th scope="row">{label}<br><small>{about}</small></th>'
        rows.append(f"<tr>{head_cell}{told}{notes}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _small(cell: str) -> str:
    """An interval, or who published a number, goes below it."""
    value, *below = re.split(r" [\[(]", escape(cell), maxsplit=1)
    if not below or cell[-1] not in "])":
        return escape(cell)
    return f"{value}<br><small>{below[0][:-1]}</small>"


def _curve(table: Table, found: list[Line]) -> str:
    """The first metric by what the rows count: ours with its deviation, and what was published."""
    metric, curves = table.metrics[0], {}
    for line in found:
        if line.records:
            ours = curves.setdefault(f"ours, {line.direction}", [])
            ours.append((line.row.at[0], summary(line, metric).mean))
        printed = line.row.cited.of(line.direction) if line.row.cited else {}
        if metric in printed:
            theirs = curves.setdefault(f"published, {line.direction}", [])
            theirs.append((line.row.at[0], printed[metric]))
    return _lines(f"{metric} by {table.curve}", metric, curves) if curves else ""


def _lines(title: str, metric: str, curves: dict[str, list[tuple[int, float]]]) -> str:
    points = np.array([point for curve in curves.values() for point in curve], float)
    (x0, low), (x1, high) = points.min(0), points.max(0)
    across, up = _scale(x0, x1, LEFT, WIDTH - 20), _scale(low, high, HEIGHT - BOTTOM, 14)
    drawn, legend = [], []
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        places = [(across(x), up(y)) for x, y in sorted(curve)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" style="stroke:{colour}"/>')
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{colour}"/>' for x, y in places
        ]
        legend.append(f'<span><i style="background:{colour}"></i>{escape(name)}</span>')
    drawn += [
        f'<text x="{across(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:g}</text>'
        for x in sorted(set(points[:, 0]))
    ]
    drawn += [
        f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{number(metric, y)}</text>'
        for y in sorted({low, high})
    ]
    return figure(title, "".join(drawn), "".join(legend))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From values to places of a drawing."""
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (end - start)


def _grid(table: Table, found: list[Line]) -> str:
    """A heat map of the first metric: trained with so many steps down, evaluated across."""
    metric, figures = table.metrics[0], []
    for direction in dict.fromkeys(line.direction for line in found):
        here = [line for line in found if line.direction == direction]
        ours = {x.row.at: summary(x, metric).mean for x in here if x.records}
        printed = {x.row.at: x.row.cited.of(direction).get(metric) for x in here if x.row.cited}
        title = f"{metric}, {direction}: {table.curve}"
        if ours or any(printed.values()):
            figures.append(figure(title, _cells(metric, ours, printed), "below: as published"))
    return "".join(figures)


def _cells(metric: str, ours: dict[tuple, float], printed: dict[tuple, Any]) -> str:
    downs, acrosses = ([*dict.fromkeys(sorted(p[i] for p in {*ours, *printed}))] for i in (0, 1))
    width, height = (WIDTH - LEFT - 10) / len(acrosses), (HEIGHT - BOTTOM - 10) / len(downs)
    weight = _scale(*_ends(ours.values()), 0.15, 0.75)
    drawn = []
    for place in {**ours, **printed}:
        left, top = LEFT + acrosses.index(place[1]) * width, 10 + downs.index(place[0]) * height
        opacity = weight(ours[place]) if place in ours else 0.05
        middle = f'x="{left + width / 2:.1f}" text-anchor="middle" style="fill:var(--ink)"'
        own = number(metric, ours[place]) if place in ours else "not run"
        theirs = printed.get(place)
        drawn.append(
            f'<rect x="{left + 1:.1f}" y="{top + 1:.1f}" width="{width - 2:.1f}" '
            f'height="{height - 2:.1f}" style="fill-opacity:{opacity:.2f}"/>'
            f'<text {middle} y="{top + height / 2:.1f}">{own}</text>'
            f'<text {middle} y="{top + height / 2 + 14:.1f}">'
            f"{'' if theirs is None else number(metric, theirs)}</text>"
        )
    for i, steps in enumerate(downs):
        y = 10 + (i + 0.5) * height
        drawn.append(f'<text x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">{steps:,}</text>')
    for i, steps in enumerate(acrosses):
        x = LEFT + (i + 0.5) * width
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{steps:,}</text>')
    return "".join(drawn)


def _ends(values: Any) -> tuple[float, float]:
    held = list(values) or [0.0]
    return min(held), max(held)


def _similarities(found: Sequence[Line]) -> str:
    """For each run, cosines in every pool that its rows rank: in and out of its domain."""
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    for line in found:
        for record in line.trust[0] if line.trust else ():  # of the first seed
            if record["protocol"] == line.row.protocol:
                pools = groups.setdefault((line.row.experiment, line.row.overrides), {})
                pools[record["protocol"]] = record["similarity"]
    return "".join(
        _outlines(f"cosines of {' '.join((experiment, *overrides))}", pools)
        for (experiment, overrides), pools in groups.items()
    )


def _outlines(title: str, pools: dict[str, dict[str, Any]]) -> str:
    """Histograms over the same edges, as shares of their own count; a colour for each of at most
    four pools. A pool's record has those of other data sets too, which are no rows here."""
    shown = dict(zip(pools, COLOURS, strict=False))
    edges = np.array(next(iter(pools.values()))["edges"])
    counts = {
        (kind, pool): np.array(pools[pool]["counts"][f"{kind}, {pool}"])
        for pool in shown
        for kind in STROKES
    }
    shares = {name: held / max(held.sum(), 1) for name, held in counts.items()}
    used = np.flatnonzero(sum(shares.values()))
    inside, ends = slice(used[0], used[-1] + 1), edges[used[0] : used[-1] + 2]
    most = max(float(share.max()) for share in shares.values())
    across, up = _scale(ends[0], ends[-1], LEFT, WIDTH - 10), _scale(0, most, HEIGHT - BOTTOM, 10)
    drawn = [
        f'<text x="{LEFT}" y="{HEIGHT - 10}">{ends[0]:.2f}</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 10}" text-anchor="end">{ends[-1]:.2f}</text>'
    ]
    for (kind, pool), share in shares.items():
        places = zip(np.repeat(ends, 2)[1:-1], np.repeat(share[inside], 2), strict=True)
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in places)
        style = f"stroke:{shown[pool]}{STROKES[kind]}"
        drawn.append(f'<polyline points="{path}" style="{style}"/>')
    legend = [
        f'<span><i style="background:{colour}"></i>{escape(pool)} '
        f"({', '.join(f'{counts[kind, pool].sum():,} {kind}' for kind in STROKES)})</span>"
        for pool, colour in shown.items()
    ]
    caption = "solid, positive: a text and its molecule; dashed, negative: a text and any other"
    return figure(title, "".join(drawn), f"{''.join(legend)}<br>{caption}; first seed")


def _bars(found: Sequence[Line]) -> str:
    """Training time and memory, one bar for each run that rows share."""
    costs = {(x.row.experiment, x.row.overrides): x.costs for x in found if x.costs}
    if not costs:
        return ""
    names = [" ".join((experiment, *overrides)) for experiment, overrides in costs]
    seconds = [float(np.median([c.train_seconds for c in held])) for held in costs.values()]
    ranked = [float(np.median([c.eval_seconds for c in held])) for held in costs.values()]
    memory = [max(c.peak_bytes for c in held) / 1e9 for held in costs.values()]
    return (
        _bar_chart("training, wall time", names, seconds, _time)
        + _bar_chart("evaluation, wall time", names, ranked, _time)
        + _bar_chart("memory of the training process", names, memory, "{:.2f} GB".format)
    )


def _bar_chart(
    title: str, names: list[str], values: list[float], show: Callable[[float], str]
) -> str:
    """Bars below one another; long names need the width."""
    most, drawn = max(values) or 1.0, []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        top, length = 6 + i * BAR, value / most * (WIDTH - LABEL - 80)
        drawn.append(
            f'<text x="{LABEL - 6}" y="{top + 12}" text-anchor="end">{escape(name[-34:])}</text>'
            f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR - 6}"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{top + 12}">{show(value)}</text>'
        )
    height = 10 + len(names) * BAR
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}</svg></figure>"
    )
