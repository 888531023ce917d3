"""Runs that differ in their seed, as one Markdown table:

    python tools/seeds_table.py runs/difftmr_open runs/difftmr_open-1 runs/difftmr_open-2

A row for every pool, direction and tier that all runs have: mean over the runs, the range between
the seeds, and the widest 95 % bootstrap interval of any of them; last, what MRR gains over det, of
pairs of queries. Reads results.json of each run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from tmr_jax.eval.protocols import PAIR
from tmr_jax.eval.report.page import number

SHOWN = ("hits@1", "hits@10", "mrr")
TIERS = ("", "det", "tapr", "fused", "x0")
Key = tuple[str, str, str]  # protocol, direction, tier


@dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]


def scores(run: Path) -> dict[Key, dict[str, Any]]:
    """The model's own lines of results.json.

    Errors: ValueError for a run that was not evaluated.
    """
    path = run / "results.json"
    if not path.is_file():
        raise ValueError(
            f"expected {path}; it is not there: evaluate the run (make eval RUN={run})"
        )
    found = json.loads(path.read_text(encoding="utf-8"))["scores"]
    own = [s for s in found if s["scorer"] == "model" and s["right"] == PAIR]
    return {(s["protocol"], s["direction"], s["tier"]): s for s in own}


def cell(values: list[float], bounds: list[tuple[float, float]], show: Callable) -> str:
    """Mean, range of the seeds in round brackets, widest interval in square ones."""
    mean = sum(values) / len(values)
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    seeds = f"{show(min(values))} to {show(max(values))}"
    return f"{show(mean)} ({seeds}) [{show(low)} to {show(high)}]"


def row(key: Key, records: list[dict[str, Any]]) -> str:
    cells = []
    for metric in SHOWN:
        values = [r["metrics"][metric] for r in records]
        bounds = [r["intervals"][metric] for r in records]
        cells.append(cell(values, bounds, partial(number, metric)))
    alpha = gain = ""
    if key[2] not in ("", "det"):
        gains = [r["over_det"]["mrr"] for r in records]
        gain = cell([g[0] for g in gains], [(g[1], g[2]) for g in gains], "{:+.4f}".format)
    if key[2] == "fused":
        alpha = ", ".join(f"{r['refined']['alpha']:g}" for r in records)
    return f"| {' | '.join((*key, alpha, *cells, gain))} |"


def table(runs: list[dict[Key, dict[str, Any]]]) -> str:
    heads = ("pool", "direction", "tier", "alpha", *SHOWN, "mrr over det")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    pools = list(dict.fromkeys(key[:2] for key in runs[0]))
    shared = [key for key in runs[0] if all(key in run for run in runs)]
    for key in sorted(shared, key=lambda k: (pools.index(k[:2]), TIERS.index(k[2]))):
        lines.append(row(key, [run[key] for run in runs]))
    return "\n".join(lines)


def main() -> None:
    chosen = tyro.cli(Arguments, description=__doc__)
    try:
        found = [scores(run) for run in chosen.runs]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    seeds = sorted({s["seed"] for run in found for s in run.values()})
    print(f"seeds {', '.join(map(str, seeds))}: mean (range of the seeds) [widest 95 % interval]\n")
    print(table(found))


if __name__ == "__main__":
    main()
