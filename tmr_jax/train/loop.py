"""The parts of the training loop: take steps, report them, validate, save, end.

`trainer.train` calls them in order. Nothing here knows a paper: a step is a call of the loader.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tmr_jax.cli import Signals
from tmr_jax.data.files import write_json
from tmr_jax.eval.alpha import keep_alpha
from tmr_jax.eval.rerank import RERANK_STAGES
from tmr_jax.models.checkpoint import Checkpoints, NoCheckpoints, TrainState, parameters_sha256
from tmr_jax.models.runtime import any_process, local, several_processes
from tmr_jax.train.dataset import Plan
from tmr_jax.train.loader import DeviceLoader, HostLoader
from tmr_jax.train.log import Display, History, draw_losses
from tmr_jax.train.throughput import Throughput, Work, sentence
from tmr_jax.train.validation import Validation
from tmr_jax.types import CommandFailed

MAX_IN_A_ROW = 3  # steps that may be skipped one after another before the run stops
AGREE_EVERY = 16  # steps after which several processes compare their signals
IN_FLIGHT = 4  # calls that an accelerator may be ahead of the metrics read from it
BAD_STEPS = "nonfinite.json"
MEASURES = ("hits@1", "mrr", *(f"{stage}/mrr" for stage in ("det", *RERANK_STAGES)))
SHOWN = ("alpha", *(f"{side}/{measure}" for side in ("t2m", "m2t") for measure in MEASURES))


class NotFinite(CommandFailed):
    """Too many steps in a row had no finite loss or gradient."""


class PendingSteps(NamedTuple):
    """The steps of one call, whose metrics are read some calls later."""

    before: int  # steps done before them
    rows: np.ndarray  # int64 [steps, B]
    metrics: dict[str, Any]  # arrays [steps]
    work: Work
    compiled: bool  # by this call, whose time then says nothing about a step


class SkippedStep(NamedTuple):
    """A step that was not finite."""

    step: int
    rows: np.ndarray  # int64 [B]


@dataclass
class Loop:
    run: Path
    ids: tuple[str, ...]  # of the training pairs
    plan: Plan
    loader: HostLoader | DeviceLoader
    validation: Validation
    checkpoints: Checkpoints | NoCheckpoints
    history: History
    display: Display
    throughput: Throughput
    signals: Signals
    saved: int  # step of the last save
    _pending: deque[PendingSteps] = field(default_factory=deque)
    _skipped: deque[SkippedStep] = field(default_factory=lambda: deque(maxlen=MAX_IN_A_ROW))

    def take_steps(self, state: TrainState, step: int, key: Any) -> tuple[TrainState, int]:
        """One call of the loader; the state after it, and how many steps it took.

        Raises NotFinite where steps that were read from the device are not.
        """
        rows = self.plan.rows(step, self.plan.steps_of_a_call(step, self.loader.per_call))
        state, metrics, shape, compiled, work = self.loader(state, rows, key)
        if compiled is not None:
            self.throughput.compiled(compiled)
            self.display.print(f"compiled for {shape}: {compiled:.1f} s")
        self._pending.append(PendingSteps(step, rows, metrics, work, compiled is not None))
        # On CPU each pending step holds all its memory, and waiting gains nothing.
        self._read_all_but(0 if jax.default_backend() == "cpu" else IN_FLIGHT)
        self.checkpoints.poll()
        return state, len(rows)

    def validate(self, state: TrainState, step: int) -> float:
        """Ranks the validation pool and reports it; returns the score that chooses checkpoints."""
        self._read_all_but(0)
        start = time.perf_counter()
        stop = (lambda done: None) if several_processes() else self.signals.check
        scores = self.validation.scores(local(state.params), stop)
        seconds = time.perf_counter() - start
        speed = self.throughput.summary()
        self.history.add(
            {
                "step": step,
                **{f"validation/{k}": v for k, v in scores.items()},
                **{f"throughput/{k}": v for k, v in speed.items()},
            }
        )
        if (choice := self.validation.choice) is not None:
            digest = parameters_sha256(state.params)
            keep_alpha(self.run, digest, self.validation.protocol, choice)
        parts = [f"{k} {scores[k]:.3f}" for k in SHOWN if k in scores]
        self.display.print(
            f"step {step}, {self.validation.protocol}: {'  '.join(parts)}  ({seconds:.1f} s)"
        )
        draw_losses(self.run)
        self._pause()
        return scores["mrr"]

    def save_due(self, step: int) -> bool:
        return self.plan.save_due(step) and step > self.saved

    def save(self, state: TrainState, step: int, score: float | None = None) -> None:
        """Saves a checkpoint. Metrics up to this step are written first: a resumed run writes none
        of them."""
        self._read_all_but(0)
        self.checkpoints.save(state, step, score)
        self.saved = step
        self._pause()

    def check_signals(self, step: int) -> None:
        """Raises Stopped if a signal arrived. Several processes agree on it now and then, because a
        step needs them all."""
        if several_processes():
            if step % AGREE_EVERY >= self.loader.per_call:
                return
            self.signals.share(any_process)
        self.signals.check()

    def finish(self, step: int) -> None:
        """After the last step."""
        self.checkpoints.close()
        draw_losses(self.run)
        self.display.print(sentence(self.throughput.summary()))
        self.display.print(f"trained: {step} steps, in {self.run}")

    def stop(self, state: TrainState, step: int) -> None:
        """After a signal."""
        self._read_all_but(0)
        if step > self.saved:
            self.save(state, step)
        self.checkpoints.close()
        self.display.print(f"saved: step {step} in {self.run}")

    def _read_all_but(self, count: int) -> None:
        while len(self._pending) > count:
            self._read(self._pending.popleft())

    def _read(self, steps: PendingSteps) -> None:
        """Waits for the metrics of some steps, shows and writes them."""
        values = {name: array.tolist() for name, array in jax.device_get(steps.metrics).items()}
        in_a_row = values.pop("skipped_in_a_row")
        if steps.compiled:
            self._pause()
        self.throughput.done(steps.work)
        self.display.clock(steps.before + len(steps.rows))
        speed = round(self.display.pairs_per_second(), 1)
        for i, rows in enumerate(steps.rows):
            step = steps.before + i + 1
            row = {"step": step, "epoch": (step - 1) // self.plan.epoch_steps}
            row |= {name: numbers[i] for name, numbers in values.items()}
            self.history.add({**row, "pairs_per_second": speed} if speed else row)
            self.display.step(row)
            if in_a_row[i]:
                self._skipped.append(SkippedStep(step, rows))
            if in_a_row[i] >= MAX_IN_A_ROW:
                self._give_up()

    def _pause(self) -> None:
        """Time was spent on something else: speeds are measured from here on."""
        self.display.pause()
        self.throughput.pause()

    def _give_up(self) -> None:
        bad = [{"step": s.step, "pairs": [self.ids[i] for i in s.rows]} for s in self._skipped]
        write_json(self.run / BAD_STEPS, bad, indent=1)
        steps = ", ".join(str(s.step) for s in self._skipped)
        self.checkpoints.close()
        raise NotFinite(
            f"expected a finite loss and gradients; got {MAX_IN_A_ROW} steps in a row without "
            f"({steps}); their pairs are in {self.run / BAD_STEPS}, the parameters before them in "
            "the last checkpoint: look at those pairs, or start again with --fresh and a lower "
            "--optim.base-lr and --optim.text-lr"
        )
