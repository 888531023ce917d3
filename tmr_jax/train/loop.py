"""The parts of the training loop: take steps, report them, validate, save, finish.

`trainer.train` calls them in order. Nothing here knows a paper: a step is a call of the loader.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tmr_jax.cli import Signals
from tmr_jax.data.files import write_json
from tmr_jax.data.pools import without
from tmr_jax.data.tables import text_table
from tmr_jax.eval.metrics import RERANK_STAGES, metrics
from tmr_jax.eval.rank import rank
from tmr_jax.models.checkpoint import (
    Checkpoints,
    NoCheckpoints,
    TrainState,
    evaluated,
    parameters_sha256,
)
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import TrainedModel
from tmr_jax.models.runtime import any_process, local, several_processes
from tmr_jax.train.dataset import Plan
from tmr_jax.train.loader import DeviceLoader, HostLoader
from tmr_jax.train.log import Display, History, Throughput, Work, draw_losses, sentence
from tmr_jax.types import CommandFailed, Direction, Pool

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
    _skipped: deque[tuple[int, np.ndarray]] = field(
        default_factory=lambda: deque(maxlen=MAX_IN_A_ROW)
    )  # steps that were not finite, and their pairs

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
        params = evaluated(state)
        scores = self.validation.scores(local(params), stop)
        seconds = time.perf_counter() - start
        row = {f"validation/{k}": v for k, v in scores.items()}
        row |= {f"throughput/{k}": v for k, v in self.throughput.summary().items()}
        self.history.add({"step": step, **row})
        protocol = self.validation.protocol
        if self.validation.choice is not None:
            from tmr_jax.eval.rerank import keep_alpha

            keep_alpha(self.run, parameters_sha256(params), protocol, self.validation.choice)
        shown = "  ".join(f"{k} {scores[k]:.3f}" for k in SHOWN if k in scores)
        self.display.print(f"step {step}, {protocol}: {shown}  ({seconds:.1f} s)")
        draw_losses(self.run)
        self.throughput.pause()
        return scores["mrr"]

    def save_due(self, step: int) -> bool:
        return self.plan.save_due(step) and step > self.saved

    def save(self, state: TrainState, step: int, score: float | None = None) -> None:
        """Saves a checkpoint. Metrics up to this step are written first: a resumed run writes none
        of them."""
        self._read_all_but(0)
        self.checkpoints.save(state, step, score)
        self.saved = step
        self.throughput.pause()

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
            self.throughput.pause()
        self.throughput.done(steps.work)
        speed = round(self.throughput.pairs_per_second(), 1)
        for i, rows in enumerate(steps.rows):
            step = steps.before + i + 1
            row = {"step": step, "epoch": (step - 1) // self.plan.epoch_steps}
            row |= {name: numbers[i] for name, numbers in values.items()}
            row |= {"pairs_per_second": speed} if speed else {}
            self.history.add(row)
            self.display.step(row)
            if in_a_row[i]:
                self._skipped.append((step, rows))
            if in_a_row[i] >= MAX_IN_A_ROW:
                self._give_up()

    def _give_up(self) -> None:
        bad = [{"step": n, "pairs": [self.ids[i] for i in rows]} for n, rows in self._skipped]
        write_json(self.run / BAD_STEPS, bad, indent=1)
        steps = ", ".join(str(step) for step, _ in self._skipped)
        self.checkpoints.close()
        raise NotFinite(
            f"expected a finite loss and gradients; got {MAX_IN_A_ROW} steps in a row without "
            f"({steps}); their pairs are in {self.run / BAD_STEPS}, the parameters before them in "
            "the last checkpoint: look at those pairs, or start again with --fresh and a lower "
            "--optim.base-lr and --optim.text-lr"
        )


class Validation:
    """Ranks the validation pool while a model trains; the score chooses the best checkpoint.

    The pool's features are computed once; invalid molecules are skipped with their texts.
    `frozen`: parameters, where the encoders never change; the pool is then encoded only once.
    """

    def __init__(self, model: TrainedModel, pool: Pool, frozen: Any = None) -> None:
        self._encoder = Encoder(model, frozen, parts=model.reranks)
        self._mol, valid, self.refused = self._encoder.molecule_table(pool.smiles)
        pool = without(pool, np.isin(np.arange(len(pool.smiles)), valid))
        max_tokens = model.config.features.max_tokens
        self._text = text_table(pool.texts, model.tokenizer, max_tokens)
        targets: dict[Direction, np.ndarray] = {"t2m": pool.text_target, "m2t": pool.mol_target}
        self._targets = {d: target for d, target in targets.items() if (target >= 0).any()}
        self.protocol = pool.protocol
        self.choice: Any = None  # `Choice` of the last scores, where there is a second stage
        self._reranker: Any = None
        if model.reranks:
            from tmr_jax.eval.rerank import PoolReranker, settings_of

            self._reranker = PoolReranker(model, None, settings_of(model.config))
        self._encoded = None if frozen is None else self._encode(lambda done: None)

    def scores(
        self, params: Any, on_progress: Callable[[int], None] = lambda done: None
    ) -> dict[str, float]:
        """`t2m/hits@1` ... `m2t/mr` where the pool has such queries, and `mrr`, their mean MRR.

        For a model with a second stage the names say the stage, `t2m/fused/hits@1`, and `mrr` is
        that of `fused` with the best alpha.
        """
        if self._encoded is not None:
            text, mol = self._encoded
        else:
            self._encoder.params = params
            text, mol = self._encode(on_progress)
            self._encoder.params = None  # training needs this memory
        if self._reranker is not None:
            return self._reranked_scores(text, mol, params, on_progress)
        scores: dict[str, float] = {}
        for direction, target in self._targets.items():
            query, candidate = (text, mol) if direction == "t2m" else (mol, text)
            rows = np.flatnonzero(target >= 0)
            ranking = rank(query.rows[rows], candidate.rows, target[rows], candidate.group)
            scores |= {f"{direction}/{name}": v for name, v in metrics(ranking).items()}
        mean = float(np.mean([v for name, v in scores.items() if name.endswith("/mrr")]))
        return scores | {"mrr": mean}

    def _reranked_scores(
        self, text: Encoded, mol: Encoded, params: Any, on_progress: Callable[[int], None]
    ) -> dict[str, float]:
        from tmr_jax.eval.rerank import choose_alpha, stage_scores

        self._reranker.params = params
        lists = {
            direction: self._reranker.lists(text, mol, direction, target, on_progress)
            for direction, target in self._targets.items()
        }
        self._reranker.params = None
        self.choice = choose_alpha(lists.values())
        return stage_scores(lists, self.choice)

    def _encode(self, on_progress: Callable[[int], None]) -> tuple[Encoded, Encoded]:
        encoder = self._encoder
        return encoder.text_rows(self._text, on_progress), encoder.mol_rows(self._mol, on_progress)
