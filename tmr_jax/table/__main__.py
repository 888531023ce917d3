"""python -m tmr_jax.table --name NAME: the runs that a table needs, then the table.

In: experiments/tables/NAME.py. Each row is trained and evaluated for each seed by the ordinary
programs, whatever of it is not there yet; rows of one experiment share its runs. Out: table.md and
table.html in runs/tables/NAME. Ctrl-C ends the program that is at work as it would alone; the same
words go on from there. A row that cannot be run here says why, and the table goes on.
"""

# Heavy imports wait inside the functions: a wrong word is said at once.
from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tmr_jax import cli
from tmr_jax.cli import Signals, Stopped
from tmr_jax.config import Experiment, from_json, load_experiment
from tmr_jax.data.files import write_text
from tmr_jax.eval.protocols import CLEAN, IDENTITY, PAIR
from tmr_jax.models.rundir import CONFIG
from tmr_jax.table.plan import Row, Table, load_table, slug
from tmr_jax.table.results import Cost, Line, SeedResult, lines
from tmr_jax.types import UserError

TRAIN = ("train",)
COST = "cost.json"  # in a run: what its training and evaluations took
EXCEPTION = re.compile(r"[\w.]+(Error|Exception): ")  # last line of a traceback
POLL = 0.2  # seconds between looks at a program at work


@dataclass(frozen=True)
class Arguments:
    """What a table may be told; all else is in its declaration."""

    name: str
    """A table of experiments/tables/, e.g. smoke."""
    runs: Path | None = None
    """Where its runs are and are made; without it runs/tables/NAME, where the table goes."""


class Failed(Exception):
    """A program ended with an error; the text is its first line."""


@dataclass
class Outcome:
    """What became of the jobs."""

    current: set[Path] = field(default_factory=set)  # results of the runs as declared
    # why there are none, by experiment and words of the evaluation (TRAIN: no run either)
    failed: dict[tuple, str] = field(default_factory=dict)


class Job(NamedTuple):
    """One run that rows share, and how they want it evaluated."""

    experiment: str
    train_args: tuple[str, ...]
    seed: int
    run: Path
    evaluations: tuple[tuple[str, ...], ...]  # words; the run's own sizes, (), come last


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("table", make, arguments, resumable=True)


def make(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "table", args)
    table, out = load_table(chosen.name), Path("runs/tables") / Path(chosen.name).stem
    runs = chosen.runs or out
    todo, outcome = jobs(table, runs), Outcome()
    for job in todo:  # before the first of them takes its hours
        check_start(job)
    try:
        run_jobs(todo, outcome)
    finally:  # stopped, too: what is there already
        write_table(table, collect(table, runs, outcome), out)
    return 0


# What there is to do


def run_of(row: Row, seed: int, runs: Path) -> Path:
    return runs / f"{row.run_name}-s{seed}"


def results_of(run: Path, words: tuple[str, ...]) -> Path:
    """The results of an evaluation: results.json is that of the run's own sizes."""
    return run / (f"results-{slug(words)}.json" if words else "results.json")


def ranks_of(results: Path) -> Path:
    """Beside the results: the rank of every query."""
    return results.with_name(results.name.replace("results", "ranks", 1))


def jobs(table: Table, runs: Path) -> list[Job]:
    """Every run of the table once, all experiments of the first seed before the second."""
    found: dict[Path, Job] = {}
    for seed in table.seeds:
        for row in (r for r in table.rows if r.experiment):
            run = run_of(row, seed, runs)
            before = found[run].evaluations if run in found else ()
            told = tuple(dict.fromkeys((*before, row.eval_overrides)))
            others = tuple(words for words in told if words)
            found[run] = Job(row.experiment, row.train_args, seed, run, (*others, ()))
    return list(found.values())


def run_jobs(todo: list[Job], outcome: Outcome) -> None:
    """Trains and evaluates whatever is missing.

    What failed for one seed would fail for the others too: they are left out.
    """
    with progress(todo) as watch:
        for at, job in enumerate(todo):
            watch(at)
            if (_group(job), TRAIN) in outcome.failed:
                continue
            try:
                digest = trained(job)
            except Failed as error:
                outcome.failed[_group(job), TRAIN] = str(error)
                continue
            evaluated(job, digest, outcome)


def _group(job: Job | Row) -> tuple[str, tuple[str, ...]]:
    """What runs that differ in their seed alone have in common."""
    return job.experiment, job.train_args


def trained(job: Job) -> str:
    """Trains a run to its end if it is not there; SHA-256 of its best parameters."""
    from tmr_jax.train.two_stage import finished

    words, config = _words(job), _config(job)
    if not (finished(job.run) and _configured_as(job.run, config)):
        start = config.train.start
        if start and "/" not in start and not finished(job.run.parent / start):
            train(job.run.parent / start, ["--exp", start])  # by itself: its time is no row's
        check_start(job)  # which may be a new one now
        train(job.run, words)
    return best_digest(job.run)


def check_start(job: Job) -> None:
    """Raises ValueError where a start that is there is another than declared, or a run that is
    there began with another one.

    Neither is trained over, as both may be somebody's work of hours; nor is the run shown as it is,
    as rows above different starts do not compare. Who reads the error moves one of them aside.
    """
    from tmr_jax.models.run import FEATURES
    from tmr_jax.train.two_stage import finished

    name = _config(job).train.start
    start, features = Path(name) if "/" in name else job.run.parent / name, job.run / FEATURES
    if not name or not (start / CONFIG).is_file():
        return
    if "/" not in name and not _configured_as(start, load_experiment(name)):
        raise UserError(
            f"expected the run of experiment {name} in {start}, which {job.run} starts with; got "
            "one of another configuration; move it aside, or name other runs with --runs"
        )
    if not (features.is_file() and finished(start)):
        return
    began = json.loads(features.read_text(encoding="utf-8"))["weights"].get("start_sha256")
    if began != best_digest(start):
        raise UserError(
            f"expected {job.run} to have begun with {start} as that is now; got one that began "
            "with other parameters; move it aside to train it again, or name other runs with --runs"
        )


def _words(job: Job) -> list[str]:
    return ["--exp", job.experiment, "--train.seed", str(job.seed), *job.train_args]


def _config(job: Job) -> Experiment:
    from tmr_jax.train.__main__ import parse

    return parse(_words(job)).config


def evaluated(job: Job, digest: str, outcome: Outcome) -> None:
    """Evaluates a run in every way that rows ask for, where that was not done."""
    current = {e: is_current(results_of(job.run, e), digest, e) for e in job.evaluations}
    if not all(current.values()):
        current[()] = False  # another evaluation is about to replace results.json
    for words, there in current.items():
        try:
            if not there:
                evaluate(job.run, words)
            outcome.current.add(results_of(job.run, words))
        except Failed as error:
            outcome.failed[_group(job), words] = str(error)


def _configured_as(run: Path, config: Experiment) -> bool:
    """Fields that are newer than the run have their defaults in it."""
    return from_json((run / CONFIG).read_text(encoding="utf-8")) == config


def best_digest(run: Path) -> str:
    from tmr_jax.models.checkpoint import restore_params
    from tmr_jax.models.state import parameters_sha256

    return parameters_sha256(restore_params(run, "best")[0])


def is_current(path: Path, digest: str, words: tuple[str, ...]) -> bool:
    """Whether a results file is of these parameters and was told just these words."""
    if not path.is_file():
        return False
    results = json.loads(path.read_text(encoding="utf-8"))
    return results["checkpoint"]["sha256"] == digest and _told(results["command"]) == words


def _told(command: str) -> tuple[str, ...]:
    """The words of an evaluation's command, but for the run's name."""
    told = shlex.split(command)[3:]  # after python -m tmr_jax.eval
    if "--run" not in told:
        return tuple(told)
    at = told.index("--run")
    return (*told[:at], *told[at + 2 :])


def train(run: Path, words: list[str]) -> None:
    ended = program("train", [*words, "--run", str(run)], run)
    if (run / CONFIG).is_file():  # it began
        before = read_cost(run).get("train", {"seconds": 0.0, "peak_bytes": 0})
        # of a run that was resumed: the time of all parts, the memory of the hungriest
        seconds = before["seconds"] + ended.seconds
        keep_cost(run, "train", seconds, max(before["peak_bytes"], ended.peak_bytes))
    ended.check()


def evaluate(run: Path, words: tuple[str, ...]) -> None:
    """Leaves the results under a name of their own; results.json is for the run's own sizes."""
    ended = program("eval", ["--run", str(run), *words], run)
    ended.check()
    path = results_of(run, words)
    if words:
        own = results_of(run, ())
        for source, place in ((ranks_of(own), ranks_of(path)), (own, path)):
            write_text(place, source.read_text(encoding="utf-8"))
    keep_cost(run, path.name, ended.seconds, ended.peak_bytes)


def read_cost(run: Path) -> dict[str, Any]:
    path = run / COST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep_cost(run: Path, part: str, seconds: float, peak_bytes: int) -> None:
    cost = {"seconds": round(seconds, 1), "peak_bytes": peak_bytes}
    write_text(run / COST, json.dumps(read_cost(run) | {part: cost}, indent=1) + "\n")


# Programs


class Ended(NamedTuple):
    """How a program ended, and what it took."""

    seconds: float
    peak_bytes: int
    signal: int  # that came to us and was handed on; 0: none
    error: str  # its first line; empty: none

    def check(self) -> None:
        if self.signal:
            raise Stopped(self.signal)
        if self.error:
            raise Failed(self.error)


def program(name: str, words: list[str], run: Path) -> Ended:
    """Runs python -m tmr_jax.NAME to its end; what it prints goes to a log beside the run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log, start = run.parent / f"{run.name}.log", time.monotonic()
    children: list[subprocess.Popen] = []

    def forward(number: int) -> None:
        for child in children:
            child.send_signal(number)

    # Signals go to the program at work, which saves and ends.
    with log.open("ab") as out, Signals() as signals, signals.deferred(forward):
        begin = out.seek(0, os.SEEK_END)
        # in a group of its own, so that Ctrl-C reaches it once: from us
        child = subprocess.Popen(
            [sys.executable, "-m", f"tmr_jax.{name}", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        children.append(child)
        if signals.number:  # arrived while the program was being started
            forward(signals.number)
        status, peak = wait(child)
    error = first_error(log, begin, status) if status else ""
    return Ended(time.monotonic() - start, peak, signals.number, error)


def wait(child: subprocess.Popen) -> tuple[int, int]:
    """Exit status and the most memory that this one program held, in bytes.

    What the system says at the end holds our own memory too, which the child shared for a moment
    before it became another program; where it can be asked while it runs, that counts.
    """
    peak = 0
    while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
        peak = max(peak, _high_water(child.pid))
        time.sleep(POLL)
    child.returncode = os.waitstatus_to_exitcode(ended[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, peak or ended[2].ru_maxrss * unit


def _high_water(pid: int) -> int:
    """Bytes; 0 where the system has no such file, or the program has just ended."""
    try:
        said = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", said, re.M)
    return int(found[1]) * 1024 if found else 0


def first_error(log: Path, begin: int, status: int) -> str:
    """What the program said was wrong, or the exception it ended with, or its last line."""
    with log.open("rb") as file:
        file.seek(begin)
        said = file.read().decode("utf-8", "replace").splitlines()
    errors = [x.removeprefix("error: ") for x in said if x.startswith("error: ")]
    raised = [x for x in said if EXCEPTION.match(x)][-1:]  # JAX adds advice after it
    last = [x.strip() for x in said if x.strip()][-1:]
    return next(iter(errors + raised + last), f"exit status {status}")


# Progress


@contextmanager
def progress(todo: list[Job]) -> Iterator[Callable[[int], None]]:
    """Shows which run of how many is at work, and the time left by what others took."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TextColumn("{task.fields[left]}"), console=console)
    task = bar.add_task("", total=len(todo), left="")

    def watch(at: int) -> None:
        name, left = todo[at].run.name, time_left(todo, at)
        bar.update(task, completed=at, description=name, left=left)
        if not console.is_terminal:
            print(f"run {at + 1} of {len(todo)}: {name}, {left}", flush=True)

    bar.disable = not console.is_terminal
    with bar:
        yield watch
        bar.update(task, completed=len(todo), description="all runs", left="")


def time_left(todo: list[Job], at: int) -> str:
    """By the mean of the finished runs of the same experiment, or of all."""
    took = [_seconds(job.run) for job in todo]
    known = [t for t in took if t]
    if not known:
        return "time left unknown"
    left = 0.0
    for job, already in zip(todo[at:], took[at:], strict=True):
        alike = [t for j, t in zip(todo, took, strict=True) if t and _group(j) == _group(job)]
        left += 0.0 if already else sum(alike or known) / len(alike or known)
    minutes, seconds = divmod(round(left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"


def _seconds(run: Path) -> float:
    """Of training and evaluations; 0 for a run without results."""
    if not (run / "results.json").is_file():
        return 0.0
    return sum(part["seconds"] for part in read_cost(run).values())


# The table


def collect(table: Table, runs: Path, outcome: Outcome) -> list[Line]:
    """The lines of the results that are sure to be of the runs as declared."""
    found = [[_found(row, seed, runs, outcome) for seed in table.seeds] for row in table.rows]
    return lines(table, found)


def _found(row: Row, seed: int, runs: Path, outcome: Outcome) -> SeedResult:
    if not row.experiment:
        return SeedResult(seed, [], None, None)
    run, words = run_of(row, seed, runs), row.eval_overrides
    path, cost = results_of(run, words), read_cost(run)
    if path not in outcome.current:
        why = [outcome.failed.get((_group(row), part)) for part in (TRAIN, words)]
        return SeedResult(seed, [], None, None, next(filter(None, why), "stopped before it"))
    results = json.loads(path.read_text(encoding="utf-8"))
    scores = [s for s in results["scores"] if s["scorer"] == "model"]
    own = [s | {"beside": _beside(s, scores)} for s in scores if s["right"] == PAIR]
    if ranks_of(path).is_file():
        ranks = json.loads(ranks_of(path).read_text(encoding="utf-8"))
        own = [s | {"ranks": ranks[_name(s)]} for s in own]
    took = None
    if {"train", path.name} <= cost.keys():
        train = cost["train"]
        took = Cost(train["seconds"], cost[path.name]["seconds"], train["peak_bytes"])
    return SeedResult(seed, own, took, results.get("trust"))


def _beside(own: dict[str, Any], scores: list[dict[str, Any]]) -> dict[str, float]:
    """Hits@1 of the same ranking by identity and without twins; a note says it is no other."""
    from tmr_jax.eval.scores import NO_DUPLICATE, SAME

    same = [
        right for right, note in ((IDENTITY, SAME), (CLEAN, NO_DUPLICATE)) if note in own["notes"]
    ]
    others = [s for s in scores if _name(s) == _name(own) and s["right"] != PAIR]
    told: dict[str, float] = {s["right"]: s["metrics"]["hits@1"] for s in others}
    hits: float = own["metrics"]["hits@1"]
    return dict.fromkeys(same, hits) | told


def _name(score: dict[str, Any]) -> str:
    return ", ".join(filter(None, (score["protocol"], score["direction"], score["tier"])))


def write_table(table: Table, found: list[Line], out: Path) -> None:
    from tmr_jax.table.report import markdown, page

    out.mkdir(parents=True, exist_ok=True)
    text = markdown(table, found)
    write_text(out / "table.md", text)
    write_text(out / "table.html", page(table, found))
    print(text)
    for name in ("table.md", "table.html"):
        print(out / name)


if __name__ == "__main__":
    sys.exit(main())
