"""Trains and evaluates the runs of a table by the commands train and eval, and reads their results.

A run is trained again only where its configuration or its best parameters changed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from tmr_jax.cli import Signals, Stopped
from tmr_jax.config import Experiment, from_json, load_experiment
from tmr_jax.data.files import write_json, write_text
from tmr_jax.data.workers import duration, progress
from tmr_jax.eval.protocols import CLEAN, HOLDER, IDENTITY, PAIR
from tmr_jax.eval.scores import NO_DUPLICATE, SAME, score_name
from tmr_jax.models.checkpoint import restore_params
from tmr_jax.models.run import FEATURES, run_sha256
from tmr_jax.models.runtime import CONFIG
from tmr_jax.table.plan import Row, Table, slug
from tmr_jax.table.results import Cost, Line, SeedResult, lines
from tmr_jax.train.__main__ import parse
from tmr_jax.train.two_stage import finished
from tmr_jax.types import UserError

Args = tuple[str, ...]
TRAIN = ("train",)
COST = "cost.json"  # in a run: the time and memory of its training and evaluations
EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")  # last line of a traceback
POLL = 0.2  # seconds between looks at a running command


class Failed(Exception):
    """A command ended with an error; the text is its first line."""


@dataclass
class Outcome:
    """Results and failures of the jobs."""

    current: set[Path] = field(default_factory=set)  # results files of the runs as declared
    # messages by experiment, train_args and arguments of the evaluation (TRAIN: of training)
    failed: dict[tuple, str] = field(default_factory=dict)


class Job(NamedTuple):
    """One run that rows share, and its evaluations."""

    experiment: str
    train_args: Args
    seed: int
    run: Path
    evaluations: tuple[Args, ...]  # arguments; those of the run itself, (), come last

    @property
    def args(self) -> list[str]:
        """Arguments of training."""
        return ["--exp", self.experiment, "--train.seed", str(self.seed), *self.train_args]

    @property
    def config(self) -> Experiment:
        return parse(self.args).config


def results_of(run: Path, args: Args) -> Path:
    """The results of an evaluation: results.json without arguments."""
    return run / (f"results-{slug(args)}.json" if args else "results.json")


def ranks_of(results: Path) -> Path:
    """The file next to the results with the rank of every query."""
    return results.with_name(results.name.replace("results", "ranks", 1))


def jobs(table: Table, runs: Path) -> list[Job]:
    """Every run of the table once, all experiments of the first seed before the second."""
    by_run: dict[Path, Job] = {}
    for seed in table.seeds:
        for row in (r for r in table.rows if r.experiment):
            run = runs / f"{row.run_name}-s{seed}"
            before = by_run[run].evaluations if run in by_run else ()
            special = dict.fromkeys(filter(None, (*before, row.eval_overrides)))
            by_run[run] = Job(row.experiment, row.train_args, seed, run, (*special, ()))
    return list(by_run.values())


def run_jobs(todo: list[Job], outcome: Outcome) -> None:
    """Trains and evaluates what is missing.

    After a failure the other seeds of the same settings are skipped, as they would fail too.
    """
    with run_progress(todo) as on_run:
        for i, job in enumerate(todo):
            on_run(i)
            if (_settings(job), TRAIN) in outcome.failed:
                continue
            try:
                digest = train_job(job)
            except Failed as error:
                outcome.failed[_settings(job), TRAIN] = str(error)
                continue
            evaluate_job(job, digest, outcome)


def _settings(job: Job | Row) -> tuple[str, Args]:
    """What the runs of all seeds share."""
    return job.experiment, job.train_args


def train_job(job: Job) -> str:
    """Trains a run unless that is done; SHA-256 of its best parameters."""
    config = job.config
    if not (finished(job.run) and _has_config(job.run, config)):
        start = config.train.start
        if start and "/" not in start and not finished(job.run.parent / start):
            train(job.run.parent / start, ["--exp", start])  # its time counts for no row
        check_start(job)  # the start may be new
        train(job.run, job.args)
    return best_digest(job.run)


def check_start(job: Job) -> None:
    """Raises UserError where the start of a run is not as declared, or is not the run's own.

    Both may have taken hours, so neither is overwritten; and rows with different starts do not
    compare, so the run is not shown as it is.
    """
    name = job.config.train.start
    start, features = Path(name) if "/" in name else job.run.parent / name, job.run / FEATURES
    if not name or not (start / CONFIG).is_file():
        return
    if "/" not in name and not _has_config(start, load_experiment(name)):
        raise UserError(
            f"expected the run of experiment {name} in {start}, which {job.run} starts with; got "
            "one of another configuration; move it aside, or choose another folder with --runs"
        )
    if not (features.is_file() and finished(start)):
        return
    used = json.loads(features.read_text(encoding="utf-8"))["weights"].get("start_sha256")
    if used != best_digest(start):
        raise UserError(
            f"expected {job.run} to start with the present parameters of {start}; got a run that "
            "started with other parameters; move it aside to train it again, or choose another "
            "folder with --runs"
        )


def evaluate_job(job: Job, digest: str, outcome: Outcome) -> None:
    """Evaluates a run in every way that rows ask for, unless that is done."""
    current = {
        args: is_current(results_of(job.run, args), digest, args) for args in job.evaluations
    }
    if not all(current.values()):
        current[()] = False  # another evaluation is about to replace results.json
    for args, done in current.items():
        try:
            if not done:
                evaluate(job.run, args)
            outcome.current.add(results_of(job.run, args))
        except Failed as error:
            outcome.failed[_settings(job), args] = str(error)


def _has_config(run: Path, config: Experiment) -> bool:
    """Fields that are newer than the run count with their defaults."""
    return from_json((run / CONFIG).read_text(encoding="utf-8")) == config


def best_digest(run: Path) -> str:
    return run_sha256(run, restore_params(run, "best")[0])


def is_current(path: Path, digest: str, args: Args) -> bool:
    """Whether a results file is of these parameters and of an evaluation with these arguments."""
    if not path.is_file():
        return False
    results = json.loads(path.read_text(encoding="utf-8"))
    return results["checkpoint"]["sha256"] == digest and _eval_args(results["command"]) == args


def _eval_args(command: str) -> Args:
    """The arguments of an evaluation's command without the run."""
    words = shlex.split(command)
    args = words[3 if words[0] == "python" else 2 :]  # python -m tmr_jax.eval: older
    if "--run" in args:
        i = args.index("--run")
        del args[i : i + 2]
    return tuple(args)


def train(run: Path, args: list[str]) -> None:
    ended = run_command("train", [*args, "--run", str(run)], run)
    if (run / CONFIG).is_file():  # training began
        before = read_cost(run).get("train", {"seconds": 0.0, "peak_bytes": 0})
        # a resumed run: the sum of the times, the highest memory
        seconds = before["seconds"] + ended.seconds
        write_cost(run, "train", seconds, max(before["peak_bytes"], ended.peak_bytes))
    ended.check()


def evaluate(run: Path, args: Args) -> None:
    """Results of an evaluation with arguments move to a file of their own."""
    ended = run_command("eval", ["--run", str(run), *args], run)
    ended.check()
    path, default = results_of(run, args), results_of(run, ())
    if args:
        for source, target in ((ranks_of(default), ranks_of(path)), (default, path)):
            write_text(target, source.read_text(encoding="utf-8"))
    write_cost(run, path.name, ended.seconds, ended.peak_bytes)


def read_cost(run: Path) -> dict[str, Any]:
    path = run / COST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_cost(run: Path, part: str, seconds: float, peak_bytes: int) -> None:
    cost = {"seconds": round(seconds, 1), "peak_bytes": peak_bytes}
    write_json(run / COST, read_cost(run) | {part: cost}, indent=1)


# Commands


class Ended(NamedTuple):
    """How a command ended, and its cost."""

    seconds: float
    peak_bytes: int
    signal: int  # received and forwarded; 0: none
    error: str  # its first line; empty: none

    def check(self) -> None:
        if self.signal:
            raise Stopped(self.signal)
        if self.error:
            raise Failed(self.error)


def run_command(name: str, args: list[str], run: Path) -> Ended:
    """Runs python -m tmr_jax.NAME; its output goes to a log next to the run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log, start = run.parent / f"{run.name}.log", time.monotonic()
    children: list[subprocess.Popen] = []

    def forward(number: int) -> None:
        for child in children:
            child.send_signal(number)

    # Signals go to the child, which saves and ends.
    with log.open("ab") as out, Signals() as signals, signals.deferred(forward):
        offset = out.seek(0, os.SEEK_END)
        # in a process group of its own, so that Ctrl-C reaches it once, through `forward`
        child = subprocess.Popen(
            [sys.executable, "-m", f"tmr_jax.{name}", *args],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        children.append(child)
        if signals.number:  # arrived while the child was starting
            forward(signals.number)
        status, peak = wait(child)
    error = first_error(log, offset, status) if status else ""
    return Ended(time.monotonic() - start, peak, signals.number, error)


def wait(child: subprocess.Popen) -> tuple[int, int]:
    """Exit status and peak memory in bytes of one process.

    The system's own figure includes this process's memory, which the child shared before it became
    another program; so the child's is read while it runs, where possible.
    """
    peak = 0
    while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
        peak = max(peak, _peak_memory(child.pid))
        time.sleep(POLL)
    child.returncode = os.waitstatus_to_exitcode(ended[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, peak or ended[2].ru_maxrss * unit


def _peak_memory(pid: int) -> int:
    """Bytes; 0 where the system has no such file, or the process has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    return int(match[1]) * 1024 if match else 0


def first_error(log: Path, offset: int, status: int) -> str:
    """The error that a command printed, or its exception, or its last line."""
    with log.open("rb") as file:
        file.seek(offset)
        output = file.read().decode("utf-8", "replace").splitlines()
    errors = [x.removeprefix("error: ") for x in output if x.startswith("error: ")]
    raised = [x for x in output if EXCEPTION.match(x)][-1:]  # JAX prints advice after it
    last = [x.strip() for x in output if x.strip()][-1:]
    return next(iter(errors + raised + last), f"exit status {status}")


# Progress


@contextmanager
def run_progress(todo: list[Job]) -> Iterator[Callable[[int], None]]:
    """Shows the present run and the time left; call the yielded function with the run's index."""
    console = Console()
    columns = MofNCompleteColumn(), TextColumn("{task.fields[left]}")
    with progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(todo), left="")

        def on_run(i: int) -> None:
            name, left = todo[i].run.name, time_left(todo, i)
            bar.update(task, completed=i, description=name, left=left)
            if not console.is_terminal:
                print(f"run {i + 1} of {len(todo)}: {name}, {left}", flush=True)

        yield on_run
        bar.update(task, completed=len(todo), description="all runs", left="")


def time_left(todo: list[Job], i: int) -> str:
    """From the mean of the finished runs with the same settings, or of all."""
    costs = [read_cost(job.run) if (job.run / "results.json").is_file() else {} for job in todo]
    times = [sum(part["seconds"] for part in cost.values()) for cost in costs]  # 0: no results
    known = [t for t in times if t]
    if not known:
        return "time left unknown"
    left = 0.0
    for job, seconds in zip(todo[i:], times[i:], strict=True):
        same = [t for j, t in zip(todo, times, strict=True) if t and _settings(j) == _settings(job)]
        left += 0.0 if seconds else sum(same or known) / len(same or known)
    return f"{duration(left)} left"


# Results


def collect(table: Table, runs: Path, outcome: Outcome) -> list[Line]:
    """The lines of the table; only results of runs as declared count."""
    results = [[_result(row, seed, runs, outcome) for seed in table.seeds] for row in table.rows]
    return lines(table, results)


def _result(row: Row, seed: int, runs: Path, outcome: Outcome) -> SeedResult:
    if not row.experiment:
        return SeedResult(seed, [], None, None)
    run, args = runs / f"{row.run_name}-s{seed}", row.eval_overrides
    path, cost = results_of(run, args), read_cost(run)
    if path not in outcome.current:
        reasons = [outcome.failed.get((_settings(row), part)) for part in (TRAIN, args)]
        return SeedResult(seed, [], None, None, next(filter(None, reasons), "stopped before it"))
    results = json.loads(path.read_text(encoding="utf-8"))
    scores = [s for s in results["scores"] if s["scorer"] == "model"]
    main = [s for s in scores if s["right"] in (PAIR, HOLDER)]
    pairs = [s | {"other_hits": _other_hits(s, scores)} for s in main]
    if ranks_of(path).is_file():
        ranks = json.loads(ranks_of(path).read_text(encoding="utf-8"))
        pairs = [s | {"ranks": ranks[score_name(s)]} for s in pairs]
    spent = None
    if {"train", path.name} <= cost.keys():
        train = cost["train"]
        spent = Cost(train["seconds"], cost[path.name]["seconds"], train["peak_bytes"])
    return SeedResult(seed, pairs, spent, results.get("trust"))


def _other_hits(score: dict[str, Any], scores: list[dict[str, Any]]) -> dict[str, float]:
    """Hits@1 of the same ranking by identity and without twins; a note says where it is equal."""
    notes = {SAME: IDENTITY, NO_DUPLICATE: CLEAN}
    hits = {notes[note]: score["metrics"]["hits@1"] for note in score["notes"] if note in notes}
    for other in scores:
        if other["right"] in (IDENTITY, CLEAN) and score_name(other) == score_name(score):
            hits[other["right"]] = other["metrics"]["hits@1"]
    return hits
