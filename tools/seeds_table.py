"""Runs that differ in their seed, as one Markdown table:

    python tools/seeds_table.py runs/difftmr_open runs/difftmr_open-1 runs/difftmr_open-2

A row for every pool, direction and tier that all runs have: mean over the runs, the range between
the seeds, and the widest 95 % bootstrap interval of any of them. Reads results.json of each run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from tmr_jax.evaluation_report import number

SHOWN = ("hits@1", "hits@10", "mrr")
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
    own = [s for s in found if s["scorer"] == "model" and s["right"] == "its own partner"]
    return {(s["protocol"], s["direction"], s["tier"]): s for s in own}


def cell(metric: str, records: list[dict[str, Any]]) -> str:
    """Mean, range of the seeds in round brackets, widest interval in square ones."""
    values = [r["metrics"][metric] for r in records]
    bounds = [r["intervals"][metric] for r in records]
    show = [number(metric, v) for v in (sum(values) / len(values), min(values), max(values))]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return f"{show[0]} ({show[1]}-{show[2]}) [{number(metric, low)}-{number(metric, high)}]"


def table(runs: list[dict[Key, dict[str, Any]]]) -> str:
    lines = [
        f"| pool | direction | tier | alpha | {' | '.join(SHOWN)} |",
        "|" + "---|" * (4 + len(SHOWN)),
    ]
    for key in runs[0]:
        if not all(key in run for run in runs):
            continue
        records = [run[key] for run in runs]
        refined = [r["refined"] for r in records if r["refined"]]
        alpha = ", ".join(f"{r['alpha']:g}" for r in refined) if key[2] == "fused" else ""
        cells = [cell(metric, records) for metric in SHOWN]
        lines.append(f"| {' | '.join((*key, alpha, *cells))} |")
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
