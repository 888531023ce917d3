"""The loop of training: step after step, what is due between them, and how it ends.

In: everything that train.py has built. Nothing of it knows a paper: a step is a call of the feed.
"""

# Heavy imports wait inside the functions: train.py says a wrong word at once.
from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tmr_jax.cli import Signals, Stopped
from tmr_jax.config import Experiment
from tmr_jax.data.files import write_text
from tmr_jax.types import CommandFailed

if TYPE_CHECKING:
    from tmr_jax.models.checkpoint import Checkpoints, NoCheckpoints
    from tmr_jax.models.run import TrainedModel
    from tmr_jax.models.state import TrainState
    from tmr_jax.train.dataset import TrainingSet
    from tmr_jax.train.loader import HostFeed, ResidentFeed
    from tmr_jax.train.log import Display, History
    from tmr_jax.train.throughput import Throughput, Work
    from tmr_jax.train.two_stage import FeatureSet
    from tmr_jax.train.validation import Validation

MAX_IN_A_ROW = 3  # steps that may be skipped one after another before the run stops
AGREE_EVERY = 16  # steps between two looks of several processes at each other's signals
IN_FLIGHT = 4  # steps that an accelerator may be ahead of what has been read from it
BAD_STEPS = "nonfinite.json"
TIERS = ("det", "tapr", "fused", "x0")
MEASURES = ("hits@1", "mrr", *(f"{tier}/mrr" for tier in TIERS))
SHOWN = ("alpha", *(f"{side}/{measure}" for side in ("t2m", "m2t") for measure in MEASURES))


class NotFinite(CommandFailed):
    """Too many steps in a row had no finite loss or gradient."""


def several() -> bool:
    """Whether this is one of several processes that train together."""
    return any(os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "TMR_JAX_CLUSTER"))


class Plan:
    """Which pairs make the batch of each step: a function of (seed, step)."""

    def __init__(self, config: Experiment, data: TrainingSet | FeatureSet) -> None:
        self._seed, self._composition = config.train.seed, data.composition
        self._epoch, self._rows = 0, data.composition.epoch(self._seed, 0)
        self.epoch_steps = len(self._rows)
        self.total = config.train.epochs * self.epoch_steps

    def rows(self, step: int, count: int) -> Any:
        """Pairs of the steps from `step`, counted from 0, within its epoch: int64 [count, B]."""
        epoch, place = divmod(step, self.epoch_steps)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._composition.epoch(self._seed, epoch)
        return self._rows[place : place + count]


class Taken(NamedTuple):
    """Steps that the device was given in one call; their metrics are read some calls later."""

    before: int  # steps done before them
    rows: Any  # int64 [steps, B]
    metrics: dict[str, Any]  # arrays [steps]
    work: Work
    compiled: bool  # before them: the time that this took is no step's


class Skipped(NamedTuple):
    """A step that was not finite."""

    step: int
    rows: Any  # int64 [B]


@dataclass
class Loop:
    """Step after step: is anything due, batch, step, report."""

    config: Experiment
    run: Path
    assembly: TrainedModel
    data: TrainingSet | FeatureSet
    plan: Plan
    feed: HostFeed | ResidentFeed
    validation: Validation
    checkpoints: Checkpoints | NoCheckpoints
    history: History
    display: Display
    throughput: Throughput
    signals: Signals

    def __post_init__(self) -> None:
        self._taken: deque[Taken] = deque()
        self._skipped: deque[Skipped] = deque(maxlen=MAX_IN_A_ROW)

    def go(self, state: TrainState, key: Any, done: int, evaluated: bool) -> None:
        """From `done` steps to the last; everything is saved when it returns or raises Stopped."""
        saved = done
        try:
            while True:
                if self._evaluation_due(done) and not evaluated:
                    self._save(state, done, self._evaluate(state, done))
                    saved, evaluated = done, True
                elif done % self.config.train.save_every == 0 and done > saved:
                    self._save(state, done, None)
                    saved = done
                self._check_signals(done)
                if done == self.plan.total:
                    break
                state, steps = self._advance(state, done, key)
                done, evaluated = done + steps, False
                self.checkpoints.poll()
            self._end(done)
        except Stopped:
            self._drain()
            if done > saved:
                self._save(state, done, None)
            self.checkpoints.close()
            self.display.say(f"saved: step {done} in {self.run}")
            raise
        except NotFinite:
            self.checkpoints.close()
            raise

    def _advance(self, state: TrainState, done: int, key: Any) -> tuple[TrainState, int]:
        """One call of the feed; the state after it, and how many steps it was."""
        import jax

        rows = self.plan.rows(done, self._steps_of_a_call(done))
        state, metrics, shape, compiled, work = self.feed(state, rows, key)
        if compiled is not None:
            self.throughput.compiled(compiled)
            self.display.say(f"compiled for {shape}: {compiled:.1f} s")
        self._taken.append(Taken(done, rows, metrics, work, compiled is not None))
        # On CPU every step that waits already holds all its memory, and nothing is gained.
        while len(self._taken) > (0 if jax.default_backend() == "cpu" else IN_FLIGHT):
            self._read(self._taken.popleft())
        return state, len(rows)

    def _check_signals(self, done: int) -> None:
        """Raises Stopped if a signal came meanwhile. Several processes agree on it now and then,
        for a step needs them all."""
        if not several():
            self.signals.check()
        elif done % AGREE_EVERY < self.feed.per_call:
            from tmr_jax.train.parallel import any_process

            self.signals.share(any_process)
            self.signals.check()

    def _steps_of_a_call(self, done: int) -> int:
        """A whole call, or a single step where the epoch's end or the next save comes before."""
        left = (-done % n or n for n in (self.plan.epoch_steps, self.config.train.save_every))
        return self.feed.per_call if min(left) >= self.feed.per_call else 1

    def _read(self, taken: Taken) -> None:
        """Waits for the metrics of some steps, shows and writes them. NotFinite: one too many were
        not."""
        import jax

        values = {name: array.tolist() for name, array in jax.device_get(taken.metrics).items()}
        in_a_row = values.pop("skipped_in_a_row")
        if taken.compiled:
            self._pause()
        self.throughput.done(taken.work)
        self.display.clock(taken.before + len(taken.rows))
        speed = round(self.display.pairs_per_second(), 1)
        for i, rows in enumerate(taken.rows):
            step = taken.before + i + 1
            row = {"step": step, "epoch": (step - 1) // self.plan.epoch_steps}
            row |= {name: numbers[i] for name, numbers in values.items()}
            self.history.add({**row, "pairs_per_second": speed} if speed else row)
            self.display.step(row)
            if in_a_row[i]:
                self._skipped.append(Skipped(step, rows))
            if in_a_row[i] >= MAX_IN_A_ROW:
                self._give_up()

    def _pause(self) -> None:
        """Something else took time: speeds are measured anew from here."""
        self.display.pause()
        self.throughput.pause()

    def _drain(self) -> None:
        while self._taken:
            self._read(self._taken.popleft())

    def _give_up(self) -> None:
        bad = [{"step": t.step, "pairs": [self.data.ids[i] for i in t.rows]} for t in self._skipped]
        write_text(self.run / BAD_STEPS, json.dumps(bad, indent=1) + "\n")
        steps = ", ".join(str(t.step) for t in self._skipped)
        raise NotFinite(
            f"expected a finite loss and gradients; got {MAX_IN_A_ROW} steps in a row without "
            f"({steps}); their pairs are in {self.run / BAD_STEPS}, the parameters before them in "
            "the last checkpoint: look at those pairs, or begin again with --fresh and a lower "
            "--optim.base-lr and --optim.text-lr"
        )

    def _evaluation_due(self, done: int) -> bool:
        epoch, rest = divmod(done, self.plan.epoch_steps)
        due = done > 0 and rest == 0 and epoch % self.config.train.eval_every == 0
        return due or done == self.plan.total

    def _evaluate(self, state: TrainState, done: int) -> float:
        from tmr_jax.eval.alpha import keep_alpha
        from tmr_jax.models.devices import local
        from tmr_jax.models.state import parameters_sha256
        from tmr_jax.train.log import draw_losses

        self._drain()
        start = time.perf_counter()
        stop = (lambda done: None) if several() else self.signals.check
        scores = self.validation.scores(local(state.params), stop)
        seconds = time.perf_counter() - start
        speed = self.throughput.summary()
        self.history.add(
            {
                "step": done,
                **{f"validation/{k}": v for k, v in scores.items()},
                **{f"throughput/{k}": v for k, v in speed.items()},
            }
        )
        if (choice := self.validation.choice) is not None:
            digest = parameters_sha256(state.params)
            keep_alpha(self.run, digest, self.validation.protocol, choice)
        parts = [f"{k} {scores[k]:.3f}" for k in SHOWN if k in scores]
        self.display.say(
            f"step {done}, {self.validation.protocol}: {'  '.join(parts)}  ({seconds:.1f} s)"
        )
        draw_losses(self.run)
        self._pause()
        return scores["mrr"]

    def _save(self, state: TrainState, done: int, score: float | None) -> None:
        """What is in metrics.jsonl up to this step comes first: a resumed run writes none of it."""
        self._drain()
        self.checkpoints.save(state, done, score)
        self._pause()

    def _end(self, done: int) -> None:
        from tmr_jax.train.log import draw_losses
        from tmr_jax.train.throughput import sentence

        self.checkpoints.close()
        draw_losses(self.run)
        self.display.say(sentence(self.throughput.summary()))
        self.display.say(f"trained: {done} steps, in {self.run}")
