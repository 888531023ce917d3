"""tmr train --exp NAME: trains an experiment; the story is in trainer.py.

Exit status: 0 trained; 1 stopped because steps were not finite; 2 an error of yours, explained on
standard error; 3 another trainer works in the directory; 130 and 143 after Ctrl-C and SIGTERM, with
everything saved. Run the same command to resume: the result has the same bits as without the
interruption, because the pairs of a batch and the random keys of a step are functions of
(seed, step) alone.
"""

# JAX is imported inside `train`: a wrong argument or a directory in use is answered before that.
from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from tmr_jax import cli
from tmr_jax.cli import Signals
from tmr_jax.config import Experiment, load_experiment
from tmr_jax.data.files import write_json
from tmr_jax.models.runtime import FITTED, join_processes, leads
from tmr_jax.train.directory import run_directory


@dataclass(frozen=True)
class Options:
    exp: str
    """An experiment of experiments/, or a .py file with a CONFIG."""
    run: Path | None = None
    """Directory of the run; default: runs/NAME."""
    fresh: bool = False
    """Move an existing run aside, to RUN.old-N, and start a new one."""


@dataclass(frozen=True)
class Arguments(Options):
    """Train an experiment; options set its fields, e.g. --optim.base-lr 1e-5."""

    config: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("train", start, arguments, resumable=True)


def start(args: list[str]) -> int:
    options = parse(args)
    if not join_processes():  # only the leading process prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the program ends
    run = options.run or Path("runs") / options.config.name
    with Signals() as signals:
        train(options.config, run, options.fresh, signals)
    print(f"evaluate it: tmr eval --run {shlex.quote(str(run))}")
    return 0


def parse(args: list[str]) -> Arguments:
    """The arguments on top of the experiment they name. Exits 2 on an unknown option.

    Raises UserError for an unknown experiment.
    """
    default = None
    for i, word in enumerate(args):
        name = args[i + 1] if word == "--exp" and i + 1 < len(args) else ""
        name = word.removeprefix("--exp=") if word.startswith("--exp=") else name
        if name:
            default = Arguments(exp=name, config=load_experiment(name))
    return cli.parse(Arguments, "train", args, default, brief=Options)


def train(config: Experiment, run: Path, fresh: bool, signals: Signals) -> None:
    """Trains an experiment in the directory `run`, or resumes it there."""
    with run_directory(config, run, fresh) as directory:
        from tmr_jax.train import trainer

        trainer.train(config, directory, signals)
        if config.train.lexical and leads():
            from tmr_jax.train import lexical

            lexical.fit(directory.output, again=False)
        if config.train.facts and leads():
            from tmr_jax.train.facts import fit

            fit(directory.output, again=False)
        if (config.train.lexical or config.train.facts) and leads():
            tried = {"lexical": config.train.lexical, "facts": config.train.facts}
            write_json(directory.output / FITTED, tried)


if __name__ == "__main__":
    sys.exit(main())
