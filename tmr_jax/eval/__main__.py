"""tmr eval --run runs/NAME: rank the pools of a run, print the scores.

The run directory gets results.json, report.html and ranks.json. The configuration comes from the
run, never from experiments/, so an old run can still be evaluated after its experiment was edited.
Without --run a copy of the shipped weights is evaluated, in runs/shipped.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tmr_jax import cli
from tmr_jax.config import DataConfig, RefineConfig
from tmr_jax.data.files import new_folder
from tmr_jax.models.runtime import SUMS, move_aside, run_folder


@dataclass(frozen=True)
class Options:
    run: Path | None = None
    """Run directory, e.g. runs/quickstart, or exported weights; default: runs/shipped, a copy of
    the weights that come with tmr_jax."""
    protocol: tuple[str, ...] = ()
    """Pools to rank, e.g. chebi20-molt5/test-split, inbatch-64 or "ood/open->pcdes"; the default
    is what the run's configuration names."""
    which: Literal["best", "newest"] = "best"
    """Which checkpoint: the best on validation, or the newest."""
    draws: int = 0
    """Rerank the text queries this many times with other noise, to measure the uncertainty."""
    verbose: bool = False
    """Print intervals and facts of every score, OOD scores, calibration and subgroups, too."""


@dataclass(frozen=True)
class Arguments(Options):
    """Rank the pools of a run; print and write the scores."""

    data: DataConfig = field(default_factory=DataConfig)
    """Data of the table pools; the default is the run's own data."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Sizes of the second stage; the default is the run's own, which search always uses."""


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("eval", _evaluate, arguments, expected=(OSError,))


def _evaluate(args: list[str]) -> int:
    chosen = parse(args)
    assert chosen.run is not None, "parse names one"
    from tmr_jax.eval.evaluate import evaluate
    from tmr_jax.eval.terminal import print_scores

    command = f"tmr eval {shlex.join(args)}"
    more = {"command": command, "draws": chosen.draws, "refine": chosen.refine}
    results = evaluate(chosen.run, chosen.protocol, chosen.which, chosen.data, **more)
    print_scores(results, chosen.verbose)
    return 0


def parse(args: list[str]) -> Arguments:
    """Arguments; --data.* and --refine.* default to the run's. Exits 2 on an unknown option."""
    run = _named_run(args)
    if run is None and {"-h", "--help", "--help-all"} & {*args}:
        return cli.parse(Arguments, "eval", args, brief=Options)
    run = run or _shipped()
    from tmr_jax.eval.evaluate import read_config

    config = read_config(run)
    default = Arguments(run=run, data=config.data, refine=config.eval.refine)
    return cli.parse(Arguments, "eval", args, default, brief=Options)


def _shipped() -> Path:
    """A copy of the shipped weights: the package may be read-only, and evaluation writes files."""
    source, run = run_folder(None), Path("runs") / "shipped"
    sums, wanted = run / SUMS, (source / SUMS).read_bytes()
    if run.exists() and not (sums.is_file() and sums.read_bytes() == wanted):
        print(f"other weights were in {run}; they are now in {move_aside(run)}", file=sys.stderr)
    if not run.exists():
        with new_folder(run) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)
    return run


def _named_run(words: list[str]) -> Path | None:
    for i, word in enumerate(words):
        if word.startswith("--run="):
            return Path(word.removeprefix("--run="))
        if word == "--run" and i + 1 < len(words):
            return Path(words[i + 1])
    return None


if __name__ == "__main__":
    sys.exit(main())
