"""tmr table --name NAME: the runs that a table needs, then the table.

In: experiments/tables/NAME.py. Each row is trained and evaluated for each seed by the commands
train and eval, unless that is done already; rows with the same settings share their runs. Out:
table.md and table.html in runs/tables/NAME. Ctrl-C ends the running command as it would end alone;
run the same command to resume. A row that cannot run here shows why, and the others continue.
"""

# Heavy imports wait inside the functions, so that --help and wrong options respond at once.
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tmr_jax import cli

if TYPE_CHECKING:
    from tmr_jax.table.plan import Table
    from tmr_jax.table.results import Line


@dataclass(frozen=True)
class Arguments:
    """Run what a table of results lacks, then print it; all else is in the table's file."""

    name: str
    """A table of experiments/tables/, e.g. smoke, or the path of a .py file with a TABLE."""
    runs: Path | None = None
    """Folder of the runs; default: runs/tables/NAME, where the table goes."""


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("table", make, arguments, resumable=True)


def make(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "table", args)
    from tmr_jax.table import runner
    from tmr_jax.table.plan import load_table

    table, out = load_table(chosen.name), Path("runs/tables") / Path(chosen.name).stem
    runs = chosen.runs or out
    todo, outcome = runner.jobs(table, runs), runner.Outcome()
    for job in todo:  # before the first of them runs for hours
        runner.check_start(job)
    try:
        runner.run_jobs(todo, outcome)
    finally:  # also after Ctrl-C: the results so far
        write_table(table, runner.collect(table, runs, outcome), out)
    return 0


def write_table(table: Table, lines: list[Line], out: Path) -> None:
    from tmr_jax.data.files import write_text
    from tmr_jax.table.report import markdown, page

    out.mkdir(parents=True, exist_ok=True)
    text = markdown(table, lines)
    write_text(out / "table.md", text)
    write_text(out / "table.html", page(table, lines))
    print(text)
    for name in ("table.md", "table.html"):
        print(out / name)


if __name__ == "__main__":
    sys.exit(main())
