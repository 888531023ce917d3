"""python -m tmr_jax.eval --run runs/NAME: rank the pools of a run, print the scores.

The run directory gets results.json, report.html and ranks.json. The configuration comes from the
run, never from experiments/, so an old run can still be evaluated after its experiment was edited.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tmr_jax import cli
from tmr_jax.config import DataConfig, RefineConfig


@dataclass(frozen=True)
class Arguments:
    """What an evaluation may be told; all else is in the run directory."""

    run: Path
    """Directory that training wrote, e.g. runs/quickstart."""
    protocol: tuple[str, ...] = ()
    """What to rank, e.g. chebi20-molt5/test-split, inbatch-64 or "ood/open->pcdes"; none: what the
    run's configuration names."""
    which: Literal["best", "newest"] = "best"
    """Checkpoint: the best on validation, or the newest."""
    draws: int = 0
    """Refine the text queries so many times with other noise, to see how sure the model is."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where table and demo pools come from; the default is the run's own data."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Sizes of the second stage; the default is the run's own, and search keeps to those."""


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("eval", _evaluate, arguments, expected=(OSError,))


def _evaluate(args: list[str]) -> int:
    chosen = parse(args)
    from tmr_jax.eval.evaluate import evaluate
    from tmr_jax.eval.score_lines import print_table

    command = f"python -m tmr_jax.eval {shlex.join(args)}"
    told = {"command": command, "draws": chosen.draws, "refine": chosen.refine}
    print_table(evaluate(chosen.run, chosen.protocol, chosen.which, chosen.data, **told))
    return 0


def parse(args: list[str]) -> Arguments:
    """Arguments; --data.* and --refine.* default to the run's. Exits 2 on an unknown option."""
    run = _named_run(args)
    if run is None:
        return cli.parse(Arguments, "eval", args)
    from tmr_jax.eval.evaluate import read_config

    config = read_config(run)
    default = Arguments(run=run, data=config.data, refine=config.eval.refine)
    return cli.parse(Arguments, "eval", args, default)


def _named_run(words: list[str]) -> Path | None:
    for i, word in enumerate(words):
        if word.startswith("--run="):
            return Path(word.removeprefix("--run="))
        if word == "--run" and i + 1 < len(words):
            return Path(words[i + 1])
    return None


if __name__ == "__main__":
    sys.exit(main())
