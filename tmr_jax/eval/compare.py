"""tmr compare RUN OTHER: which of two runs ranks better, query by query.

In: two evaluated runs. Out: for each pool, direction and stage that both have, Hits@1, Hits@10 and
MRR of both, the difference OTHER - RUN, and its 95 % interval by a bootstrap over queries in pairs.
A query whose right answer ties with others has its mean rank. Runs whose pools differ are refused:
other texts or molecules, or other queries left out because they were trained on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float

from tmr_jax import cli
from tmr_jax.eval.metrics import bootstrap
from tmr_jax.eval.protocols import HOLDER, PAIR
from tmr_jax.types import UserError

RANKS, RESULTS = "ranks.json", "results.json"
METRICS = ("hits@1", "hits@10", "mrr")
HEADS = ("pool, direction, stage", "metric", "first", "second", "difference", "95 % interval")


@dataclass(frozen=True)
class Arguments:
    """Compare two evaluated runs query by query."""

    first: tyro.conf.Positional[Path]
    """Run directory, e.g. runs/det_open."""
    second: tyro.conf.Positional[Path]
    """Run directory; positive differences are in its favour."""
    seed: int = 0
    """Of the resamples."""
    resamples: int = 1000
    """Of the queries."""


class Ranked(NamedTuple):
    """The ranks of one score, and what says that two of them may be compared."""

    ranks: Float[np.ndarray, " Q"]  # from 1
    rule: dict[str, Any]

    def values(self) -> Float[np.ndarray, "3 Q"]:
        """METRICS of every query."""
        return np.stack([self.ranks <= 1, self.ranks <= 10, 1 / self.ranks]).astype(float)


def ranked(run: Path) -> dict[str, Ranked]:
    """The scores of a run's model. Errors: UserError for a run that lacks them."""
    try:
        ranks, results = (json.loads((run / n).read_text("utf-8")) for n in (RANKS, RESULTS))
    except OSError as error:
        raise UserError(
            f"expected an evaluated run; got {run}, which lacks {Path(error.filename).name}; "
            f"evaluate it: tmr eval --run {run}"
        ) from error
    found = {}
    for score in results["scores"]:
        name = ", ".join(filter(None, (score["protocol"], score["direction"], score["tier"])))
        if score["scorer"] == "model" and score["right"] in (PAIR, HOLDER):
            rule = {key: score.get(key) for key in ("digest", "right", "ties", "queries", "pool")}
            found[name] = Ranked(np.array(ranks[name]), rule)
    if not all(one.rule["digest"] for one in found.values()):
        raise UserError(
            f"expected a run whose results say which pools they are of; got older ones in {run}; "
            f"evaluate it again: tmr eval --run {run}"
        )
    return found


def compared(args: Arguments) -> list[tuple[str, ...]]:
    """The cells of the table. Errors: UserError for runs without a common pool, and for other
    queries or candidates under the same name."""
    one, two = ranked(args.first), ranked(args.second)
    names = [name for name in one if name in two]
    if not names:
        raise UserError(
            f"expected runs with a pool in common; got {', '.join(one)} and {', '.join(two)}; "
            "evaluate one of them on the other's pools with --protocol"
        )
    rows = []
    for name in names:
        if one[name].rule != two[name].rule:
            raise UserError(
                f"expected the same queries and candidates for {name}; got "
                f"{_words(one[name])} in {args.first} and {_words(two[name])} in {args.second}; "
                "train both on the same data, or evaluate both with one version of tmr_jax"
            )
        rows += _rows(name, one[name].values(), two[name].values(), args)
    return rows


def _words(one: Ranked) -> str:
    return f"{one.rule['queries']:,} queries, {one.rule['pool']:,} candidates"


def _rows(name: str, one: np.ndarray, two: np.ndarray, args: Arguments) -> list[tuple[str, ...]]:
    low, high = bootstrap(two - one, args.resamples, args.seed)
    means = np.stack([one.mean(1), two.mean(1), (two - one).mean(1), low, high], 1)
    rows = []
    for metric, row in zip(METRICS, means, strict=True):
        digits, scale = (4, 1) if metric == "mrr" else (2, 100)
        first, second, *rest = row * scale
        more, least, most = (f"{value:+.{digits}f}" for value in rest)
        shown = f"{first:.{digits}f}", f"{second:.{digits}f}"
        rows.append((name, metric, *shown, more, f"{least} to {most}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("compare", _compare, arguments)


def _compare(words: list[str]) -> int:
    args = cli.parse(Arguments, "compare", words)
    rows = [HEADS, *compared(args)]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip())
    print(
        f"first: {args.first}; second: {args.second}; Hits in per cent; {args.resamples:,} "
        f"resamples of the queries in pairs, seed {args.seed}; ties have their mean rank"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
