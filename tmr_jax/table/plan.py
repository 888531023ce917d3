"""A table of results as experiments/tables/NAME.py declares it: rows of experiments, published
numbers and claims.
"""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tmr_jax.config import EXPERIMENTS, load_experiment
from tmr_jax.data.pools import final_protocol
from tmr_jax.eval.protocols import find
from tmr_jax.types import UserError, did_you_mean

TABLES = EXPERIMENTS / "tables"
PUBLISHED = "published"  # the file with published numbers, next to the tables


@dataclass(frozen=True)
class Cited:
    """Published numbers of one model; metrics by direction, hits and MRR as shares of 1."""

    source: str
    protocol: str  # of the source, as far as known
    pool: int  # 0: not stated
    t2m: dict[str, float]
    m2t: dict[str, float]
    note: str = ""  # caveat for comparisons

    def of(self, direction: str) -> dict[str, float]:
        return {"t2m": self.t2m, "m2t": self.m2t}[direction]


@dataclass(frozen=True)
class Row:
    """One line for each direction; without an experiment it only has published numbers."""

    label: str
    experiment: str = ""
    protocol: str = ""  # of our runs
    tier: str = ""  # of a model with a second stage; empty: fused
    overrides: tuple[str, ...] = ()  # arguments of training, e.g. ("--train.epochs", "1")
    eval_overrides: tuple[str, ...] = ()  # arguments of the evaluation
    cited: Cited | None = None
    at: tuple[int, ...] = ()  # place in the table's plot: (F,) or (train steps, eval steps)
    name: str = ""  # of its runs; empty: the experiment's, and the overrides
    note: str = ""  # what differs from the paper or the other rows; shown on the table's page

    @property
    def train_args(self) -> tuple[str, ...]:
        """Arguments of training, after the experiment."""
        return ("--name", self.name, *self.overrides) if self.name else self.overrides

    @property
    def run_name(self) -> str:
        """Of the run's directory, without the seed."""
        return self.name or "-".join(
            filter(None, (Path(self.experiment).stem, slug(self.overrides)))
        )

    @property
    def title(self) -> str:
        """The run in the charts."""
        return self.name or " ".join((self.experiment, *self.overrides))

    @property
    def command(self) -> str:
        """Trains this row alone, with the experiment's own seed."""
        command = f"make train EXP={shlex.quote(self.experiment)}"
        if not self.train_args:
            return command
        return f'{command} RUN=runs/{self.run_name} ARGS="{shlex.join(self.train_args)}"'


@dataclass(frozen=True)
class Claim:
    """`better` scores higher than `worse`: a claim of a paper, or of ours."""

    text: str
    source: str
    better: str  # labels of rows
    worse: str
    metric: str = "mrr"  # or hits@k: higher is better
    direction: str = ""  # t2m or m2t; empty: both
    threshold: float = 0.005  # smaller differences do not count


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ("hits@1", "hits@10", "mrr", "mr")
    curve: str = ""  # what `at` counts


def slug(args: Sequence[str]) -> str:
    """Arguments as a part of a file name."""
    return re.sub(r"[^\w.]+", "-", " ".join(args)).strip("-")


def load_table(name: str) -> Table:
    """The TABLE of experiments/tables/NAME.py, or of a .py file given by path.

    Errors: UserError for an unknown table, a file without one, an unknown experiment or protocol
    of a row, two settings of training under one name, and a claim about a missing row.
    """
    path = Path(name) if name.endswith(".py") else TABLES / f"{name}.py"
    known = sorted(p.stem for p in TABLES.glob("*.py") if p.stem not in ("__init__", PUBLISHED))
    if not path.is_file():
        raise UserError(f"expected a table; got {name!r}; {did_you_mean(name, known)}")
    table = runpy.run_path(str(path)).get("TABLE")
    if table is None:
        raise UserError(f"expected a TABLE in {path}; got none; {did_you_mean(name, known)}")
    table = replace(table, rows=tuple(_with_protocol(row, path) for row in table.rows))
    trained: dict[str, Row] = {}
    for row in (row for row in table.rows if row.experiment):
        other = trained.setdefault(row.run_name, row)
        if (row.experiment, row.overrides) != (other.experiment, other.overrides):
            raise UserError(
                f"expected a run for each setting of training; got {row.run_name!r} for the rows "
                f"{other.label!r} and {row.label!r} of {path}; give one of them another name"
            )
    labels = [row.label for row in table.rows]
    for claim in table.claims:
        for label in (claim.better, claim.worse):
            if labels.count(label) != 1:
                raise UserError(
                    f"expected one row {label!r} for the claim {claim.text!r}; got "
                    f"{labels.count(label)} in {path}; give each row of a claim its own label"
                )
    return table


def _with_protocol(row: Row, path: Path) -> Row:
    """The row with the evaluation's name of its protocol: inbatch-64/POOL, and → for ->."""
    if not row.experiment:
        return row
    try:
        own = final_protocol(load_experiment(row.experiment).data)
        return replace(row, protocol=find(row.protocol, own).name)
    except ValueError as error:
        raise UserError(f"row {row.label!r} of {path}: {error}") from error


def published() -> dict[str, Any]:
    """Published numbers, by their names in experiments/tables/published.py."""
    return runpy.run_path(str(TABLES / f"{PUBLISHED}.py"))
