"""A table as Markdown, and as one HTML file with its charts and without scripts.

In: the declaration and its lines. Every line states what its numbers depend on: pool, direction,
what counts as right, the rule of ties, seeds. Published numbers stand next to ours; those that no
ranking can have are marked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from tmr_jax.eval.protocols import BATCH, CLEAN, IDENTITY, IN_BATCH, find
from tmr_jax.eval.records import number
from tmr_jax.eval.report.page import templates
from tmr_jax.table import charts
from tmr_jax.table.plan import Table, impossible
from tmr_jax.table.results import Line, duration, sentences, summary

FACTS = ("row", "protocol", "pool", "direction", "relevance", "ties", "seeds")
OTHER_RIGHT = {"hits@1 by identity": IDENTITY, "hits@1 without twins": CLEAN}
REST = ("published", "training", "memory", "notes")
NONE, UNSTATED = "-", "not stated"
ABOUT_COMMANDS = "Each command trains a row by itself, with the seed of its experiment:"


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
    environment = templates()
    loaders = [jinja2.PackageLoader("tmr_jax.table", ""), environment.loader]
    environment.loader = jinja2.ChoiceLoader([loader for loader in loaders if loader])
    sections = [
        ("Curve", charts.curve(table, [x for x in lines if len(x.row.at) == 1])),
        ("Grid", charts.grids(table, [x for x in lines if len(x.row.at) == 2])),
        ("Similarity of positive and negative pairs", charts.similarities(lines)),
        ("Cost of each run", charts.costs(lines)),
    ]
    return environment.get_template("table.jinja").render(
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
    other_hits = [_share(line.other_hits(right)) for right in OTHER_RIGHT.values()]
    cited = _published(line, table.metrics)
    return [*_facts(line), *scores, *other_hits, cited, *_costs(line), _notes(line)]


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
    """How many candidates a query has by its protocol; 0: known when it runs."""
    if protocol == IN_BATCH:  # in the pool of any run
        return BATCH
    declared = find(protocol, "")
    return declared.batch or declared.size


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
    mark = " IMPOSSIBLE" if impossible(printed) else ""
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
    cited, notes = line.row.cited, _notes_of_run(line) if line.records else []
    notes += [line.row.note] if line.row.note else []
    if cited is not None and cited.note and cited.of(line.direction):
        notes.append(cited.note if line.cited_only else f"published: {cited.note}")
    return "; ".join(notes) or NONE


def _notes_of_run(line: Line) -> list[str]:
    record = line.records[0]
    notes = [f"tier {record['tier']}"] if record["tier"] else []
    if (settings := record["refined"]) is not None:
        notes.append(f"F {settings['samples']}, S {settings['steps']}")
    notes += record["labels"]
    if line.missing:
        notes.append(f"other seeds not run: {line.missing}")
    return notes
