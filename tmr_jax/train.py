"""python -m tmr_jax.train --exp NAME: configuration, data, model, state, then step after step.

Exit status: 0 trained; 1 stopped because steps were not finite; 2 an error of the user's that
standard error explains; 3 another trainer works in the directory; 130 and 143 after Ctrl-C and
SIGTERM, with everything saved. Started again with the same words it goes on where it was, and
ends with the same numbers as if it had never stopped: which pairs make a batch and which random
keys a step uses are functions of (seed, step) alone.
"""

# Heavy imports wait inside the functions: a wrong word or a directory in use is said at once.
from __future__ import annotations

import io
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from tmr_jax.config import Experiment, from_json, load_experiment, to_json
from tmr_jax.training.lock import Locked, hold
from tmr_jax.training.rundir import (
    GIT,
    LOCK,
    describe_code,
    move_aside,
    open_directory,
    settle_config,
    write,
)

if TYPE_CHECKING:
    from tmr_jax.assembly import Assembly, TrainingSet
    from tmr_jax.data.table import Report
    from tmr_jax.feed import HostFeed, ResidentFeed
    from tmr_jax.generator import FeatureSet
    from tmr_jax.training.checkpoint import Checkpoints, NoCheckpoints
    from tmr_jax.training.report import Display, History
    from tmr_jax.training.state import TrainState
    from tmr_jax.training.throughput import Throughput, Work
    from tmr_jax.validation import Validation

NOT_FINITE, USER_ERROR, IN_USE = 1, 2, 3
MAX_IN_A_ROW = 3  # steps that may be skipped one after another before the run stops
AGREE_EVERY = 16  # steps between two looks of several processes at each other's signals
IN_FLIGHT = 4  # steps that an accelerator may be ahead of what has been read from it
BAD_STEPS = "nonfinite.json"
TIERS = ("det", "tapr", "fused", "x0")
MEASURES = ("hits@1", "mrr", *(f"{tier}/mrr" for tier in TIERS))
SHOWN = ("alpha", *(f"{side}/{measure}" for side in ("t2m", "m2t") for measure in MEASURES))


@dataclass(frozen=True)
class Arguments:
    """What training may be told; every field of the experiment may be set, e.g. --optim.base-lr."""

    exp: str
    """An experiment of experiments/, or a .py file with a CONFIG."""
    run: Path | None = None
    """Directory of the run; without it runs/NAME."""
    fresh: bool = False
    """Move a run that is there aside, to RUN.old-N, and begin a new one."""
    config: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)


class Stopped(Exception):
    """A signal to end came in; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class NotFinite(Exception):
    """Too many steps in a row had no finite loss or gradient."""


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the locale cannot write
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    again = f"python -m tmr_jax.train {shlex.join(w for w in words if w != '--fresh')}"
    try:
        chosen = parse(words)
        if not _leads():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the program lives
        run = chosen.run or Path("runs") / chosen.config.name
        with Signals() as signals:
            train(chosen.config, run, chosen.fresh, signals)
        print(f"evaluate it: python -m tmr_jax.eval --run {shlex.quote(str(run))}")
        return 0
    except Locked as error:
        return _fail(error, IN_USE)
    except ValueError as error:
        return _fail(error, USER_ERROR)
    except NotFinite as error:
        return _fail(error, NOT_FINITE)
    except Stopped as stop:
        print(f"stopped by {stop}; to go on: {again}", flush=True)
        return 128 + stop.number


def _several() -> bool:
    """Whether this is one of several processes that train together."""
    return any(os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "TMR_JAX_CLUSTER"))


def _leads() -> bool:
    """Joins the other processes if there are any; whether this one speaks and saves for them."""
    if not _several():
        return True
    from tmr_jax.training.parallel import join_processes

    return join_processes()


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def parse(words: list[str]) -> Arguments:
    """The arguments on top of the experiment they name. Exits 2 on an unknown option.

    Raises ValueError for an unknown experiment.
    """
    default = Arguments(exp=tyro.MISSING)
    for i, word in enumerate(words):
        name = words[i + 1] if word == "--exp" and i + 1 < len(words) else ""
        name = word.removeprefix("--exp=") if word.startswith("--exp=") else name
        if name:
            default = Arguments(exp=name, config=load_experiment(name))
    return tyro.cli(Arguments, args=words, default=default, prog="python -m tmr_jax.train")


class Signals:
    """Ctrl-C and SIGTERM: they end the program at once, but inside `deferred` after the step."""

    def __init__(self) -> None:
        self._deferred = False
        self._number = 0

    def __enter__(self) -> Signals:
        self._before = {n: signal.signal(n, self._came) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self._number:
            print("still saving; a moment", file=sys.stderr, flush=True)
            return
        self._number = number
        if not self._deferred:
            raise Stopped(number)
        print(f"{signal.Signals(number).name}: ending after this step", file=sys.stderr, flush=True)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def share(self, any_process: Callable[[bool], bool]) -> None:
        """What came to one of several processes came to all; they call it together."""
        if any_process(bool(self._number)) and not self._number:
            self._number = signal.SIGTERM

    def check(self, _: int = 0) -> None:
        """Raises Stopped if a signal came meanwhile."""
        if self._number:
            raise Stopped(self._number)


def train(config: Experiment, run: Path, fresh: bool, signals: Signals) -> None:
    """Trains an experiment in a directory, or goes on with it. Errors: see the module's head."""
    second_stage = config.train.start and config.train.freeze == "none"
    if config.train.word_dropout and not second_stage:
        raise ValueError(
            "expected --train.start, and no --train.freeze, beside --train.word-dropout, which is "
            "of the second of two stages; got another plan; in one stage say "
            "--model.text.word-dropout"
        )
    with _directory(config, run, fresh) as out:
        _train(config, run, out, signals)


@contextmanager
def _directory(config: Experiment, run: Path, fresh: bool) -> Iterator[Path]:
    """The run's directory, locked, with the configuration in it. A process that does not lead has
    one that is thrown away."""
    if _several():
        import jax

        from tmr_jax.training.parallel import meet

        if jax.process_index():
            with tempfile.TemporaryDirectory() as other:
                meet("the run's directory")
                yield Path(other)
            return
    open_directory(run)
    if fresh and any(p.name != LOCK for p in run.iterdir()):
        with hold(run / LOCK):
            aside = move_aside(run)
        print(f"the old run is now {aside}")
        open_directory(run)
    with hold(run / LOCK) as stale:
        if stale:
            print(f"the lock of {stale} was left behind; it is ours now")
        if not settle_config(run, to_json(config), lambda old: to_json(from_json(old))):
            write(run / GIT, describe_code())
        if _several():
            meet("the run's directory")
        yield run


def _train(config: Experiment, run: Path, out: Path, signals: Signals) -> None:
    """Reads what other runs have beside `run`, and writes into `out`."""
    import jax

    from tmr_jax.assembly import (
        assemble_for_training,
        freeze_text,
        init_params,
        save_assembly,
        started_text,
    )
    from tmr_jax.compile_cache import use_compile_cache
    from tmr_jax.data import load_pairs_with_report
    from tmr_jax.data.cache import cache_folder
    from tmr_jax.data.pools import load_pool, validation_protocol
    from tmr_jax.data.table import show_report
    from tmr_jax.feed import feed_of
    from tmr_jax.generator import (
        FeatureSet,
        assemble_for_generator,
        init_generator,
        write_earlier_data,
    )
    from tmr_jax.memory import keep_freed_memory
    from tmr_jax.models.difftmr import GENERATOR
    from tmr_jax.training.checkpoint import Checkpoints, NoCheckpoints
    from tmr_jax.training.optim import build_adversary, build_optimizer
    from tmr_jax.training.parallel import WHOLE, everywhere, spread_over, training_devices
    from tmr_jax.training.report import Display, History
    from tmr_jax.training.state import STATISTICS, new_state, without
    from tmr_jax.training.throughput import Throughput
    from tmr_jax.validation import Validation

    keep_freed_memory()
    use_compile_cache(cache_folder())
    # data
    pairs, report = load_pairs_with_report(config.data)
    show_report(report)
    pool = load_pool(validation_protocol(config.data), config.data)
    # model
    how = config.train.parallel, config.train.batch_size, config.train.chunk
    spread = spread_over(training_devices(), *how)
    frozen: frozenset[str] = frozenset()
    start, freezes = None, config.train.freeze == "text"
    if config.train.start:
        start = _started(config.train.start, run, signals)
        write_earlier_data(out, start)
    if start is not None and not freezes:
        assembly, data, encoder = assemble_for_generator(config, pairs, start)
        validation = Validation(assembly, pool, encoder)
        frozen = frozenset(encoder) - GENERATOR
        spread = WHOLE
    else:
        assembly, data, text_weights = assemble_for_training(config, pairs, spread.parts)
        if start is not None:
            assembly, text_weights = started_text(assembly, start)
        validation = Validation(assembly, pool)
    _save_report(out, report, data, validation)
    save_assembly(out, assembly, data.shapes)
    plan = Plan(config, data)
    # state
    pad_token = assembly.tokenizer.pad_token
    if isinstance(data, FeatureSet):
        first = data.batch(plan.rows(0, 1)[0], pad_token)
        params = init_generator(assembly, first, config.train.seed, encoder)
    else:
        share = plan.rows(0, 1)[0][: config.train.batch_size // data.shards]
        one = data._replace(shards=1).batch(share, pad_token)
        params = init_params(assembly, one, config.train.seed, text_weights)
        if freezes:
            data, frozen = freeze_text(assembly, data, params), frozenset({"text_encoder"})
    rivals = assembly.model.adversary
    trained = without(params, frozen | rivals | {STATISTICS})
    optimizer = build_optimizer(config.optim, plan.total, trained)
    adversary = build_adversary(config.optim) if rivals else None
    state = new_state(params, optimizer, frozen, adversary, rivals)
    with Display(plan.total, config.train.batch_size) as display:
        leads = jax.process_index() == 0
        checkpoints = Checkpoints(out, display.say) if leads else NoCheckpoints()
        restored = checkpoints.restore(state)
        step, evaluated = 0, False
        if restored is not None:
            state, step, evaluated = restored.state, restored.step, restored.score is not None
        state, step, evaluated = _agreed(state, step, evaluated)
        history = History(out, step, evaluated)
        display.say(_opening(config, run, data, plan, step))
        loop = Loop(
            config=config,
            run=out,
            assembly=assembly,
            data=data,
            plan=plan,
            feed=feed_of(data, assembly.model, optimizer, frozen, adversary, pad_token, spread),
            validation=validation,
            checkpoints=checkpoints,
            history=history,
            display=display,
            throughput=Throughput(spread.devices, jax.devices()[0].device_kind),
            signals=signals,
        )
        try:
            with signals.deferred():
                key = everywhere(jax.random.key(config.train.seed), spread)
                loop.go(everywhere(state, spread), key, step, evaluated)
        finally:
            history.close()


def _agreed(state: TrainState, step: int, evaluated: bool) -> tuple[TrainState, int, bool]:
    """Where the leading process begins, which alone has read the checkpoints."""
    from tmr_jax.training.parallel import of_the_leader

    state, begins = of_the_leader((state, (step, evaluated)))
    return state, int(begins[0]), bool(begins[1])


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


def _started(start: str, run: Path, signals: Signals) -> Path:
    """The run with the encoder of the first stage; an experiment is trained beside `run` if it
    was not, or not to its end."""
    from tmr_jax.generator import finished

    beside = Path(start) if "/" in start else run.parent / start
    if finished(beside):
        return beside
    if "/" in start:
        raise ValueError(
            f"expected a finished run in {start} (--train.start); got none; train it to its end, "
            "or name an experiment, which is then trained first"
        )
    print(f"first stage: {start}, in {beside}", flush=True)
    train(load_experiment(start), beside, False, signals)
    return beside


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
    assembly: Assembly
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
        if not _several():
            self.signals.check()
        elif done % AGREE_EVERY < self.feed.per_call:
            from tmr_jax.training.parallel import any_process

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
        write(self.run / BAD_STEPS, json.dumps(bad, indent=1) + "\n")
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
        from tmr_jax.refinement import keep_alpha
        from tmr_jax.training.parallel import local
        from tmr_jax.training.report import draw_losses
        from tmr_jax.training.state import parameters_sha256

        self._drain()
        start = time.perf_counter()
        stop = (lambda done: None) if _several() else self.signals.check
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
        from tmr_jax.training.report import draw_losses
        from tmr_jax.training.throughput import sentence

        self.checkpoints.close()
        draw_losses(self.run)
        self.display.say(sentence(self.throughput.summary()))
        self.display.say(f"trained: {done} steps, in {self.run}")


def _opening(
    config: Experiment, run: Path, data: TrainingSet | FeatureSet, plan: Plan, step: int
) -> str:
    import jax

    where = f"{jax.default_backend()} ({jax.device_count()})"
    begin = f"goes on after step {step}" if step else "begins"
    return (
        f"{config.name}: {len(data.ids):,} pairs, {plan.total:,} steps of "
        f"{config.train.batch_size} in {config.train.epochs} epochs on {where}; {begin} in {run}"
    )


def _save_report(
    run: Path, report: Report, data: TrainingSet | FeatureSet, validation: Validation
) -> None:
    """validation.json: the account of the rows, of reading and of making features."""
    reasons: dict[str, int] = {}
    for refused in data.refused:
        reasons[refused.reason] = reasons.get(refused.reason, 0) + 1
    content = {
        "source": report.source,
        "rows": report.rows,
        "kept": report.kept,
        "left_out": report.dropped,
        "refused": report.refused,
        "splits": report.splits,
        "examples": [e._asdict() for e in report.examples],
        "notes": report.notes,
        "training": {
            "pairs": len(data.ids),
            "molecules_refused": reasons,
            "texts_cut": data.texts_cut,
        },
        "validation": {
            "protocol": validation.protocol,
            "molecules_refused": len(validation.refused),
        },
    }
    write(run / "validation.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
