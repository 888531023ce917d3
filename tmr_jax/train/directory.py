"""The directory of a training run: created, locked, with the configuration inside.

No JAX here: a directory that cannot be used is reported before anything slow starts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tmr_jax.config import Experiment, from_json, to_json
from tmr_jax.data.files import hold, write_text
from tmr_jax.models.runtime import (
    GIT,
    LOCK,
    barrier,
    describe_code,
    leads,
    move_aside,
    open_directory,
    settle_config,
    several_processes,
)
from tmr_jax.types import UserError


class RunDirectory(NamedTuple):
    path: Path  # as the user names it; runs named by experiment are next to it
    output: Path  # where this process writes: `path`, or a temporary folder if it does not lead


@contextmanager
def run_directory(config: Experiment, path: Path, fresh: bool = False) -> Iterator[RunDirectory]:
    """The directory of a run while it trains; `fresh` moves a run that is there aside.

    Raises UserError where options contradict each other, or another experiment or something else is
    there, and Locked while another trainer works in it.
    """
    _check(config)
    if not leads():
        with tempfile.TemporaryDirectory() as folder:
            barrier("the run's directory")
            yield RunDirectory(path, Path(folder))
        return
    open_directory(path)
    if fresh and any(p.name != LOCK for p in path.iterdir()):
        with hold(path / LOCK):
            aside = move_aside(path)
        print(f"the old run is now {aside}")
        open_directory(path)
    with hold(path / LOCK) as stale:
        if stale:
            print(f"took over the lock that {stale} left behind")
        if not settle_config(path, to_json(config), lambda old: to_json(from_json(old))):
            write_text(path / GIT, describe_code())
        if config.model.is_own:
            from tmr_jax.models.own import keep_code

            keep_code(path, config.model.name)
        if several_processes():
            barrier("the run's directory")
        yield RunDirectory(path, path)


def _check(config: Experiment) -> None:
    if config.model.is_own:
        from tmr_jax.models.own import read_code

        read_code(config.model.name)
    if config.train.log == "tensorboard" and find_spec("tensorboardX") is None:
        raise UserError(
            "expected the package tensorboardX for --train.log tensorboard; found none; run make "
            "setup EXTRAS=dev,tensorboard"
        )
    second_stage = config.train.start and config.train.freeze == "none"
    if config.train.word_dropout and not second_stage:
        raise UserError(
            "expected --train.start without --train.freeze, because --train.word-dropout belongs "
            "to the second of two stages; got a single stage; set --model.text.word-dropout there"
        )
    if config.train.teachers and second_stage:
        raise UserError(
            "expected a single stage with --train.teachers, since the second of two has features "
            "that do not change; got --train.start; set --train.teachers in the first stage"
        )
    if config.train.masked_words < 0 or (config.train.masked_words and config.train.start):
        raise UserError(
            "expected --train.masked-words of at least 0, and 0 with --train.start, whose run has "
            f"a text encoder that was trained; got {config.train.masked_words}; leave it out"
        )
    if not 0 <= config.optim.ema < 1:
        raise UserError(
            f"expected a decay from 0 to below 1 as --optim.ema; got {config.optim.ema}; 0.999 "
            "averages over about a thousand steps, 0 keeps no average"
        )
