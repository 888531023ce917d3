"""Tables of results: which runs are missing, means and intervals by hand, claims, charts.

A stand-in for the commands writes the files of training and evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmr_jax.config import load_experiment, to_json
from tmr_jax.eval.metrics import impossible
from tmr_jax.eval.protocols import CLEAN, IDENTITY, PAIR
from tmr_jax.eval.scores import NO_DUPLICATE, SAME
from tmr_jax.table import __main__ as command
from tmr_jax.table import runner
from tmr_jax.table.plan import Cited, Claim, Row, Table, load_table, published
from tmr_jax.table.report import ROUNDING, markdown, page
from tmr_jax.table.results import NO_QUERIES, Line, difference, sentences, summary, verdict
from tmr_jax.table.runner import Ended, Outcome, collect, jobs, run_jobs

POOL = "table/test"
PYTHON = sys.executable
TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")
FEW, MANY = ("--refine.samples", "5"), ("--refine.samples", "9")


def score(value: float, direction: str = "t2m", **changes: Any) -> dict[str, Any]:
    """A score of results.json with `value` for every metric and an interval of 0.1 around it."""
    names = ("hits@1", "hits@10", "mrr", "mr")
    return {
        "protocol": POOL,
        "direction": direction,
        "scorer": "model",
        "right": PAIR,
        "tier": "",
        "refined": None,
        "pool": 1234,
        "ties": "expected under random order",
        "labels": ["open-pairs training"],
        "notes": [],
        "metrics": dict.fromkeys(names, value),
        "intervals": {name: [value - 0.05, value + 0.05] for name in names},
    } | changes


class Programs:
    """In place of training and evaluation; `calls` lists them in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.digest = "abc"
        self.fails: Callable[[str, list[str]], str] = lambda name, words: ""
        self.stops = ""  # the run that Ctrl-C ends
        self.notes: list[str] = []  # of every score

    def __call__(self, name: str, words: list[str], run: Path) -> Ended:
        own = " ".join(w for w in words if w not in ("--run", str(run)))
        self.calls.append(f"{name} {run.name}: {own}")
        if error := self.fails(name, words):
            return Ended(1.0, 5, 0, error)
        if run.name == self.stops:
            return Ended(1.0, 5, signal.SIGINT, "")
        getattr(self, name)(words, run)
        return Ended(60.0, 2_500_000_000, 0, "")

    def train(self, words: list[str], run: Path) -> None:
        from tmr_jax.train.__main__ import parse

        run.mkdir(parents=True, exist_ok=True)
        config = parse(words).config
        (run / "config.json").write_text(to_json(config))
        weights = {"start_sha256": self.digest} if config.train.start else {}
        (run / "features.json").write_text(json.dumps({"weights": weights}))
        (run / "done").touch()

    def eval(self, words: list[str], run: Path) -> None:
        seed = json.loads((run / "config.json").read_text())["train"]["seed"]
        few = 0.25 if "--refine.samples" in words else 0.0
        scores = [
            score(0.2 + 0.1 * seed + few, notes=self.notes),
            score(0.5, "m2t", notes=self.notes),
            score(0.6 + 0.1 * seed, right=IDENTITY),
            score(0.75, right=CLEAN),
        ]
        baseline = score(0.8, scorer="ridge")
        command = f"tmr eval {' '.join(words)}"
        told = {"checkpoint": {"sha256": self.digest}, "command": command}
        content = told | {"scores": [*scores, baseline]}
        (run / "results.json").write_text(json.dumps(content))
        ranks = {f"{POOL}, t2m": [1.0, 2.0 + seed + few], f"{POOL}, m2t": [1.0, 9.0]}
        (run / "ranks.json").write_text(json.dumps(ranks))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs()
    monkeypatch.setattr(runner, "run_command", found)
    monkeypatch.setattr(runner, "best_digest", lambda run: found.digest)
    monkeypatch.setattr(runner, "finished", lambda run: (run / "done").is_file())
    return found


def table(*rows: Row, **changes: Any) -> Table:
    return Table("A <table>", rows or (Row("tiny", TINY, POOL),), **changes)


def filled(one: Table, runs: Path) -> list[Line]:
    outcome = Outcome()
    run_jobs(jobs(one, runs), outcome)
    return collect(one, runs, outcome)


# What is run


def test_lines_have_the_ranks_of_their_own_evaluation(programs, tmp_path):
    rows = (Row("plain", TINY, POOL), Row("few", TINY, POOL, eval_overrides=FEW))
    found = filled(table(*rows, seeds=(0, 1)), tmp_path)
    ranks = [[r["ranks"] for r in line.records] for line in found if line.direction == "t2m"]
    assert ranks == [[[1.0, 2.0], [1.0, 3.0]], [[1.0, 2.25], [1.0, 3.25]]]


def test_runs_what_is_missing_and_nothing_twice(programs, tmp_path):
    found = filled(table(), tmp_path)
    assert [call.split(":")[0] for call in programs.calls] == [
        f"{name} tiny-s{seed}" for seed in range(3) for name in ("train", "eval")
    ]
    assert found[0].seeds == (0, 1, 2)
    programs.calls.clear()
    assert filled(table(), tmp_path) == found
    assert programs.calls == []


def test_resumes_where_it_stopped(programs, tmp_path):
    programs.stops = "tiny-s1"
    with pytest.raises(runner.Stopped):
        filled(table(), tmp_path)
    programs.stops = ""
    programs.calls.clear()
    assert filled(table(), tmp_path)[0].seeds == (0, 1, 2)
    assert [call.split(":")[0] for call in programs.calls] == [
        *(f"{name} tiny-s{seed}" for seed in (1, 2) for name in ("train", "eval"))
    ]


def test_results_of_other_parameters_or_arguments_are_made_again(programs, tmp_path):
    filled(table(), tmp_path)
    for change in ("digest", "words"):
        programs.calls.clear()
        if change == "digest":
            programs.digest = "another"
        else:
            programs.eval(
                ["--run", str(tmp_path / "tiny-s0"), "--draws", "5"], tmp_path / "tiny-s0"
            )
        filled(table(), tmp_path)
        seeds = (0, 1, 2) if change == "digest" else (0,)
        assert programs.calls == [f"eval tiny-s{seed}: " for seed in seeds]


def test_another_configuration_is_left_to_training_to_refuse(programs, tmp_path):
    filled(table(), tmp_path)
    path = tmp_path / "tiny-s0" / "config.json"
    path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 6'))
    programs.calls.clear()
    filled(table(), tmp_path)
    assert programs.calls[0].startswith("train tiny-s0: ")


def test_rows_share_runs_and_the_own_evaluation_is_last(programs, tmp_path):
    rows = (
        Row("own", TINY, POOL),
        Row("five", TINY, POOL, eval_overrides=FEW),
        Row("nine", TINY, POOL, eval_overrides=MANY),
    )
    found = filled(table(*rows, seeds=(0,)), tmp_path)
    assert [call.split(": ")[1] for call in programs.calls[1:]] == [
        " ".join(FEW),
        " ".join(MANY),
        "",
    ]
    run = tmp_path / "tiny-s0"
    assert "--refine" not in json.loads((run / "results.json").read_text())["command"]
    assert (run / "results-refine.samples-5.json").is_file()
    values = {
        x.row.label: [r["metrics"]["mrr"] for r in x.records] for x in found if x.direction == "t2m"
    }
    assert values == {"own": [0.2], "five": [0.45], "nine": [0.45]}
    programs.calls.clear()
    filled(table(*rows, seeds=(0,)), tmp_path)
    assert programs.calls == []


def test_other_arguments_of_training_are_another_run(programs, tmp_path):
    rows = (Row("a", TINY, POOL), Row("b", TINY, POOL, overrides=("--train.epochs", "2")))
    filled(table(*rows, seeds=(1,)), tmp_path)
    trained = [c for c in programs.calls if c.startswith("train")]
    assert trained == [
        f"train tiny-s1: --exp {TINY} --train.seed 1",
        f"train tiny-train.epochs-2-s1: --exp {TINY} --train.seed 1 --train.epochs 2",
    ]


def test_a_named_row_has_its_own_run_note_and_command(programs, tmp_path):
    wide = ("--model.dim", "32")
    rows = (
        Row("tiny", TINY, POOL),
        Row("wide", TINY, POOL, overrides=wide, name="tiny_wide", note="not in the paper"),
        Row("long", "quickstart", POOL, overrides=("--train.epochs", "9"), at=(1,)),
    )
    assert [row.command for row in rows] == [
        f"make train EXP={TINY}",
        f'make train EXP={TINY} RUN=runs/tiny_wide ARGS="--name tiny_wide --model.dim 32"',
        'make train EXP=quickstart RUN=runs/quickstart-train.epochs-9 ARGS="--train.epochs 9"',
    ]
    one = table(*rows[:2], seeds=(0,))
    found = filled(one, tmp_path)
    assert (
        json.loads((tmp_path / "tiny_wide-s0" / "config.json").read_text())["name"] == "tiny_wide"
    )
    text = markdown(one, found)
    assert f"- wide: `{rows[1].command}`\n" in text
    assert sum(line.endswith("; not in the paper |") for line in text.splitlines()) == 2
    assert "<li>wide: <code>" in page(one, found)


def test_a_start_is_trained_before_and_by_itself(programs, tmp_path):
    filled(table(Row("second stage", "difftmr_open", POOL), seeds=(0,)), tmp_path)
    trained = [c.split(":")[0] for c in programs.calls if c.startswith("train")]
    assert trained == ["train det_open", "train difftmr_open-s0"]


def test_a_start_of_another_configuration_is_refused(programs, tmp_path):
    one = table(Row("second stage", "difftmr_open", POOL), seeds=(0,))
    programs.train(["--exp", "det_open", "--train.epochs", "2"], tmp_path / "det_open")
    (job,) = jobs(one, tmp_path)
    with pytest.raises(ValueError, match=r"experiment det_open in .*/det_open, which .*_open-s0"):
        runner.check_start(job)
    with pytest.raises(ValueError, match="of another configuration"):
        filled(one, tmp_path)
    assert programs.calls == []  # no run was overwritten


def test_a_run_from_another_start_is_refused(programs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "from tmr_jax.table.plan import Row, Table\n"
        f"TABLE = Table('t', (Row('second stage', 'difftmr_open', {POOL!r}),), seeds=(0,))\n"
    )
    one, words = load_table(str(path)), ["--name", str(path), "--runs", str(tmp_path)]
    filled(one, tmp_path)
    (job,) = jobs(one, tmp_path)
    runner.check_start(job)
    features = tmp_path / "difftmr_open-s0" / "features.json"
    features.write_text(json.dumps({"weights": {"start_sha256": "of old"}}))
    with pytest.raises(
        ValueError, match=r"difftmr_open-s0 to start with the present parameters of .*/det_open;"
    ):
        runner.check_start(job)
    programs.calls.clear()
    assert command.main(words) == 2 and "started with other" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()  # refused before anything else
    (tmp_path / "difftmr_open-s0" / "done").unlink()  # nor is a half-trained run resumed from it
    with pytest.raises(ValueError, match="other parameters"):
        filled(one, tmp_path)
    assert programs.calls == []


def test_a_row_that_fails_shows_why_and_the_others_continue(programs, tmp_path):
    programs.fails = lambda name, words: "expected weights" if "quickstart" in words else ""
    rows = (Row("no data", "quickstart", POOL), Row("tiny", TINY, POOL))
    found = filled(table(*rows), tmp_path)
    assert sum("quickstart" in call for call in programs.calls) == 1  # other seeds: no better
    assert [x.missing for x in found] == ["expected weights"] * 2 + [""] * 2
    text = markdown(table(*rows), found)
    assert "not run: expected weights" in text and "| tiny |" in text


def test_an_evaluation_that_fails_spares_the_others(programs, tmp_path):
    programs.fails = lambda name, words: "expected a pool" if MANY[1] in words else ""
    rows = (Row("own", TINY, POOL), Row("nine", TINY, POOL, eval_overrides=MANY))
    found = filled(table(*rows, seeds=(0, 1)), tmp_path)
    assert [bool(x.records) for x in found] == [True, True, False, False]
    assert found[0].seeds == (0, 1)
    assert found[-1].missing == "expected a pool"


def test_costs_of_a_run_that_was_resumed_add_up(programs, tmp_path):
    programs.stops, run = "tiny-s0", tmp_path / "tiny-s0"
    run.mkdir()
    config = dataclasses.replace(load_experiment(TINY))
    (run / "config.json").write_text(to_json(config))
    with pytest.raises(runner.Stopped):
        filled(table(seeds=(0,)), tmp_path)
    programs.stops = ""
    (line, _) = filled(table(seeds=(0,)), tmp_path)
    assert line.costs[0] == (61.0, 60.0, 2_500_000_000)


def test_time_left_comes_from_runs_with_the_same_settings(programs, tmp_path):
    todo = jobs(table(), tmp_path)
    assert runner.time_left(todo, 0) == "time left unknown"
    run_jobs(todo[:1], Outcome())
    assert runner.time_left(todo, 0) == "0:04:00 left"  # of the two missing runs


# Real processes


def script(path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Every command runs these lines of Python instead."""
    path.write_text("\n".join([f"#!{PYTHON}", "import os, signal, sys, time", *lines]))
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_signal_reaches_the_program_once_and_is_waited_for(tmp_path, monkeypatch):
    script(
        tmp_path / "program",
        monkeypatch,
        "def save(*_): time.sleep(0.5); print('saved', flush=True); sys.exit(130)",
        "signal.signal(signal.SIGINT, save)",
        "print('alone', os.getpgrp() == os.getpid(), flush=True)",
        "time.sleep(30)",
    )
    log = tmp_path / "run.log"

    def interrupt() -> None:
        while not log.is_file() or not log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # As from a terminal: a program started in the background may ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    ended = runner.run_command("train", [], tmp_path / "run")
    assert ended.signal == signal.SIGINT and log.read_text() == "alone True\nsaved\n"
    assert ended.seconds < 20
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    with pytest.raises(runner.Stopped):
        ended.check()


def test_memory_and_the_error_are_of_the_program_itself(tmp_path, monkeypatch):
    more = "time.sleep(0.5)"  # longer than POLL
    lines = (
        "held = bytearray(300_000_000)",
        more,
        "print('error: expected a; got b'); sys.exit(2)",
    )
    script(tmp_path / "program", monkeypatch, *lines)
    (tmp_path / "run.log").write_text("error: of an earlier program\n")
    ended = runner.run_command("eval", [], tmp_path / "run")
    assert 300_000_000 < ended.peak_bytes < 600_000_000
    assert ended.error == "expected a; got b"
    advice = "import atexit; atexit.register(print, 'set this or that')"
    script(tmp_path / "program", monkeypatch, advice, "raise OSError('disk is full')")
    assert runner.run_command("eval", [], tmp_path / "run").error == "OSError: disk is full"


# Numbers


def test_mean_deviation_and_widest_interval(programs, tmp_path):
    found = filled(table(), tmp_path)
    over = summary(found[0], "mrr")  # 0.2, 0.3, 0.4
    np.testing.assert_allclose(over, (0.3, 0.1, 0.15, 0.45))
    text = markdown(table(metrics=("hits@1", "mrr")), found)
    assert (
        f"| tiny | {POOL} | 1,234 | t2m | {PAIR} | expected under random order | 0, 1, 2 "
        "| 30.0 ± 10.0 [15.0 to 45.0] | 0.300 ± 0.100 [0.150 to 0.450] | 70.0 | 75.0 | - | 0:01:00 "
        "| 2.5 GB | open-pairs training |"
    ) in text.splitlines()
    (single, _) = filled(table(seeds=(0,)), tmp_path)
    assert summary(single, "mrr").std is None


def test_both_other_notions_of_right_are_shown(programs, tmp_path):
    t2m, m2t = filled(table(seeds=(0, 2)), tmp_path)
    assert t2m.other_hits(IDENTITY) == pytest.approx(0.7)  # 0.6, 0.8
    assert t2m.other_hits(CLEAN) == pytest.approx(0.75)
    assert (
        m2t.other_hits(IDENTITY) is None and m2t.other_hits(CLEAN) is None
    )  # needs the training data
    programs.notes = [SAME, NO_DUPLICATE]  # a note replaces an equal score
    _, m2t = filled(table(seeds=(0, 2)), tmp_path / "noted")
    assert m2t.other_hits(IDENTITY) == 0.5 and m2t.other_hits(CLEAN) == 0.5
    text = page(table(), [t2m, m2t])
    assert "hits@1 by identity</th>" in text and "<td>70.0</td><td>75.0</td>" in text


def test_time_of_training_is_not_of_the_run_that_computed_what_all_share(programs, tmp_path):
    found = filled(table(), tmp_path)
    costs = [
        cost._replace(train_seconds=t)
        for t, cost in zip((960.0, 60.0, 61.0), found[0].costs, strict=True)
    ]
    slow = [x._replace(costs=costs) for x in found]
    assert "| 0:01:01 |" in markdown(table(), slow)
    assert ">0:01:01</text>" in page(table(), slow)


def test_lines_without_a_query_of_the_direction_say_so(programs, tmp_path):
    found = filled(table(Row("x", TINY, "table/validation"), seeds=(0,)), tmp_path)
    assert found[0].missing == f"{NO_QUERIES}: table/validation"
    one, outcome = table(Row("x", TINY, "table/validation")), Outcome()
    run_jobs(jobs(one, tmp_path)[:1], outcome)  # the first seed knows it already
    assert all(x.missing.startswith(NO_QUERIES) for x in collect(one, tmp_path, outcome))


def line(label: str, values: tuple[float, ...], **changes: Any) -> Line:
    seeds = tuple(range(len(values)))
    records = [score(value) | {"other_hits": {}} | changes for value in values]
    return Line(Row(label, TINY, POOL), "t2m", seeds, records, [], [], "")


def test_difference_by_seed_in_pairs():
    found = difference(line("a", (0.5, 0.7, 0.9)), line("b", (0.4, 0.5, 0.6)), "mrr")
    assert found is not None  # 0.1, 0.2, 0.3: mean 0.2, error 0.1 / sqrt(3)
    half = 4.302653 * 0.1 / 3**0.5
    np.testing.assert_allclose(found[:3], (0.2, 0.2 - half, 0.2 + half), rtol=1e-6)
    assert found[3:] == (3, 0)
    assert difference(line("a", (0.5,)), line("b", (0.4,)), "mrr") is None


def test_difference_holds_what_differs_between_queries():
    ours, theirs = line("a", (0.75, 0.75), ranks=[1, 2]), line("b", (0.5, 0.5), ranks=[2, 2])
    found = difference(ours, theirs, "mrr")
    assert found is not None and found.queries == 2
    half = 1.959964 * np.std([0.5, 0.0], ddof=1) / 2**0.5  # seeds do not differ
    np.testing.assert_allclose(found[:3], (0.25, 0.25 - half, 0.25 + half), rtol=1e-6)
    hits = difference(ours, theirs, "hits@1")
    assert hits is not None and hits.high > hits.mean


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.3, 0.31, 0.32), "Held: it helps (a paper)"),
        ((0.1, 0.11, 0.12), "Not held: it helps"),
        ((0.2001, 0.21, 0.2201), "Not held: it helps"),  # surely smaller than the threshold
        ((0.2, 0.3, 0.1), "Undecided at this scale: it helps"),
    ],
)
def test_a_claim_is_one_sentence(values, said):
    claim = Claim("it helps", "a paper", "a", "b", direction="t2m")
    other = line("b", (0.2, 0.21, 0.22))
    (text,) = sentences(claim, [line("a", values), other])
    assert text.startswith(said) and text.count(". ") == 0 and text.endswith("3 seeds).")
    absent = other._replace(records=[], missing="no data")
    (text,) = sentences(claim, [line("a", values), absent])
    assert text.startswith("Not run: it helps (a paper); b:")


def both_ways(label: str, t2m: float, m2t: float) -> list[Line]:
    """Three seeds alike in every direction."""
    return [line(label, (t2m,) * 3), line(label, (m2t,) * 3)._replace(direction="m2t")]


def test_claims_are_judged_in_both_directions():
    claim = Claim("it helps", "a paper", "a", "b")
    found = [*both_ways("a", 0.3, 0.3), *both_ways("b", 0.3, 0.2)]
    told = sentences(claim, found)
    assert [text.split(":")[0] for text in told] == ["Not held", "Held"]
    assert "; t2m mrr of 'a'" in told[0] and "; m2t mrr of 'a'" in told[1]
    assert sentences(dataclasses.replace(claim, direction="m2t"), found) == told[1:]
    text = markdown(table(claims=(claim,)), found)
    assert all(f"- {x}\n" in text for x in told)
    shown = unescape(page(table(claims=(claim,)), found))
    assert all(f"<li>{x}</li>" in shown for x in told)


def test_claims_without_queries_or_runs_are_one_sentence():
    claim, (ours, other_way) = Claim("it helps", "a paper", "a", "b"), both_ways("a", 0.3, 0.3)
    silent = other_way._replace(seeds=(), records=[], missing=f"{NO_QUERIES}: a full pool")
    (text,) = sentences(claim, [ours, silent, *both_ways("b", 0.2, 0.2)])
    assert text.startswith("Held: ") and "t2m" in text
    failed = [x._replace(seeds=(), records=[], missing="no data") for x in both_ways("b", 0, 0)]
    asked = dataclasses.replace(claim, direction="m2t")  # by name: said, and not left out
    (text,) = sentences(asked, [ours, silent, *both_ways("b", 0.2, 0.2)])
    assert text == f"Not run: it helps (a paper); a: {NO_QUERIES}: a full pool."
    told = sentences(claim, [ours, other_way, *failed])
    assert told == ["Not run: it helps (a paper); b: no data."]


def test_verdict_at_its_edges():
    found = difference(line("a", (0.5, 0.6)), line("b", (0.4, 0.5)), "mrr")
    assert found is not None
    assert verdict(found._replace(low=1e-9, high=1), 0.1) == "held"
    assert verdict(found._replace(low=-0.09, high=0.09), 0.1) == "not held"
    assert verdict(found._replace(low=-0.11, high=0.09), 0.1) == "undecided at this scale"


# What was published


def test_what_no_ranking_can_have_is_marked():
    """Three rows of DiffTMR's ablations, none of the main tables."""
    cited = published()
    wrong = [
        (name, key)
        for name in ("CHEBI20", "PCDES", "PERTURBATION", "SAMPLES", "STEPS")
        for key, one in cited[name].items()
        if impossible(one.t2m, ROUNDING) or impossible(one.m2t, ROUNDING)
    ]
    assert wrong == [("PERTURBATION", "mean"), ("PERTURBATION", "scalar"), ("SAMPLES", 5)]
    assert not impossible({"hits@1": 0.4}, ROUNDING)
    below = {"hits@1": 0.5, "hits@5": 0.9, "hits@10": 0.9, "mrr": 0.57}
    assert impossible(below, ROUNDING)  # by @5
    assert not impossible({name: below[name] for name in ("hits@1", "hits@10", "mrr")}, ROUNDING)


def test_published_numbers_are_as_printed():
    cited = published()
    best = cited["CHEBI20"]["DiffTMR"]
    assert best.t2m == {"hits@1": 0.728, "hits@10": 0.965, "mrr": 0.823, "mr": 16.24}
    assert cited["PCDES"]["ORMA"].m2t["hits@5"] == pytest.approx(0.814)
    assert cited["STEPS"][50, 50].t2m == {"hits@1": 0.728}
    assert [len(cited[name]) for name in ("CHEBI20", "PCDES", "STEPS")] == [13, 10, 10]


def test_models_of_one_printed_table_have_their_own_protocols():
    """docs/papers.md#published-numbers."""
    chebi, pcdes = published()["CHEBI20"], published()["PCDES"]
    in_split = {name for name, one in chebi.items() if one.pool != 33_010}
    assert in_split == {"ORMA", "CLASS (ORMA)"} == {n for n in chebi if "doubtful" in chebi[n].note}
    assert {chebi[name].pool for name in in_split} == {3_277}
    assert {n for n in chebi if "pre-trained" in chebi[n].note} == {"Atomas-base"}
    scaffold = {name for name, one in pcdes.items() if one.protocol == "pcdes/scaffold"}
    assert scaffold == {"SciBERT", "KV-PLM", "MoMu", "MolFM"}
    assert scaffold == {n for n in pcdes if pcdes[n].note.startswith("pre-trained, fine-tuned")}
    assert "pcdes/file-order" not in {one.protocol for one in pcdes.values()}  # nobody says so
    assert {n for n in pcdes if "zero-shot" in pcdes[n].note} == {
        "MolCA",
        "MoleculeSTM",
        "Atomas-base",
        "Atomas-large",
    }
    assert {n for n in pcdes if "from scratch" in pcdes[n].note} == {"ORMA", "DiffTMR"}


def test_cited_rows_and_marks_are_printed(programs, tmp_path):
    printed = {"hits@1": 0.634, "hits@10": 0.901, "mrr": 0.792}
    cited = Cited("a paper", "its split", 33_010, printed, {}, "zero-shot")
    rows = (Row("theirs", protocol=POOL, cited=cited), Row("ours", TINY, POOL, cited=cited))
    one = table(*rows, metrics=("hits@1", "hits@10", "mrr", "mr"))
    found = filled(one, tmp_path)
    assert [(x.row.label, x.direction) for x in found] == [
        ("theirs", "t2m"),  # its paper says nothing of the other direction
        ("ours", "t2m"),
        ("ours", "m2t"),
    ]
    text = markdown(one, found).splitlines()
    theirs = next(x for x in text if x.startswith("| theirs"))
    assert theirs.startswith("| theirs | its split | 33,010 | t2m | - | - | cited | cited |")
    assert "63.4 / 90.1 / 0.792 / - IMPOSSIBLE (a paper) |" in theirs
    assert theirs.endswith("| zero-shot |")
    ours, other_way = (x for x in text if x.startswith("| ours"))
    assert ours.startswith(f"| ours | {POOL} | 1,234 | t2m |")  # what we ranked, not what they did
    assert "IMPOSSIBLE (a paper; its split, pool 33,010)" in ours
    assert ours.endswith("; published: zero-shot |") and "zero-shot" not in other_way
    shown = page(one, found)
    assert "theirs<br><small>protocol: its split<br>pool: 33,010<br>" in shown
    assert ">zero-shot</td>" in shown
    unstated = dataclasses.replace(rows[0], cited=dataclasses.replace(cited, pool=0))
    assert "| its split | not stated |" in markdown(one, [found[0]._replace(row=unstated)])


@pytest.mark.parametrize(
    ("protocol", "pool"),
    [
        ("pcdes/file-order", "3,000"),
        ("inbatch-64/pcdes/file-order", "64"),
        ("chebi/test", "-"),
    ],
)
def test_a_row_that_was_not_run_has_its_own_pool(protocol, pool):
    cited = Cited("a paper", "its split", 33_010, {"hits@1": 0.6}, {})
    row = Row("ours", TINY, protocol, cited=cited)
    text = markdown(table(row), [Line(row, "t2m", (), [], [], [], "no data")])
    assert f"| ours | {protocol} | {pool} | t2m | - | - | - | not run: no data |" in text


# Declarations and pages


def test_unknown_tables_and_claims_are_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean smoke"):
        load_table("smok")
    path = tmp_path / "mine.py"
    path.write_text(
        "from tmr_jax.table.plan import Claim, Row, Table\n"
        "TABLE = Table('t', (Row('a'),), (Claim('c', 's', 'a', 'b'),))\n"
    )
    with pytest.raises(ValueError, match=r"expected one row 'b' for the claim 'c'; got 0"):
        load_table(str(path))


def test_two_settings_under_one_name_are_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tmr_jax.table.plan import Row, Table\n"
        "def row(label, epochs):\n"
        "    more = ('--train.epochs', epochs)\n"
        "    return Row(label, 'smoke', 'chebi/test', overrides=more, name='same')\n"
        "TABLE = Table('t', (row('a', '1'), row('b', '2')))\n"
    )
    with pytest.raises(ValueError, match=r"a run for each setting .* 'same' for the rows 'a' and"):
        load_table(str(path))


@pytest.mark.parametrize("name", ["published", "__init__"])
def test_files_without_a_table_are_refused(name):
    with pytest.raises(ValueError, match=rf"expected a TABLE in .*{name}.py; got none; known: abl"):
        load_table(name)


def test_protocols_are_known_before_anything_is_trained(tmp_path):
    path = tmp_path / "mine.py"

    def load(row: str) -> Table:
        path.write_text(
            f"from tmr_jax.table.plan import Row, Table\nTABLE = Table('t', ({row},))\n"
        )
        return load_table(str(path))

    with pytest.raises(
        ValueError, match=r"row 'a' of .*; got 'pcdes/file-oder'; did you mean pcdes"
    ):
        load("Row('a', 'mbank_pcdes', 'pcdes/file-oder')")
    with pytest.raises(ValueError, match="did you mean mbank_pcdes"):
        load("Row('a', 'mbank_pcds', 'pcdes/file-order')")
    with pytest.raises(ValueError, match="name one: inbatch-64/pcdes/file-order"):
        load("Row('a', 'det_open', 'inbatch-64')")  # has no test of its own
    # by the name that results.json has
    (row,) = load("Row('a', 'mbank_pcdes', 'inbatch-64')").rows
    assert row.protocol == "inbatch-64/pcdes/file-order"
    (row,) = load("Row('a', 'mbank_chebi', 'ood/chebi20->pcdes')").rows
    assert row.protocol == "ood/chebi20→pcdes"
    assert load("Row('only cited')").rows[0].protocol == ""


def test_the_page_has_its_plots_and_no_script(programs, tmp_path):
    cited = Cited("a <paper>", POOL, 5, {"hits@1": 0.3}, {})
    rows = (
        Row("few <b>", TINY, POOL, cited=cited, at=(5,)),
        Row("many", TINY, POOL, eval_overrides=MANY, cited=cited, at=(9,)),
        Row("grid", TINY, POOL, eval_overrides=FEW, cited=cited, at=(50, 10)),
        Row("unknown", "quickstart", POOL, cited=cited, at=(10, 10)),
    )
    programs.fails = lambda name, words: "no data" if "quickstart" in words else ""
    one = table(*rows, curve="samples F", claims=(Claim("c", "s", "many", "few <b>"),))
    trust = [{"protocol": POOL, "similarity": cosines(POOL, "pcdes/file-order")}]
    found = [x._replace(trust=[trust]) if x.records else x for x in filled(one, tmp_path)]
    text = page(one, found)
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert titles == [
        "hits@1 by samples F",
        "hits@1, t2m: samples F",
        "hits@1, m2t: samples F",
        f"cosines of {TINY}",
        "training, wall time",
        "evaluation, wall time",
        "memory of the training process",
    ]
    assert "<script" not in text and "few <b>" not in text and "few &lt;b&gt;" in text
    assert "<td>30.0 ± 10.0<br><small>15.0 to 45.0</small></td>" in text
    assert "<small>a &lt;paper&gt;</small>" in text
    assert "ours, t2m" in text and "published, t2m" in text
    assert f"{POOL} (10 positive, 10 negative)" in text
    assert "pcdes/file-order" not in text  # not a row
    assert ">not run</text>" in text  # of the grid


def cosines(*pools: str) -> dict[str, Any]:
    """As an evaluation records them for a pool, with the pools of other data sets."""
    kinds = {"positive": [1, 9], "negative": [8, 2]}
    counts = {f"{kind}, {pool}": count for pool in pools for kind, count in kinds.items()}
    return {"edges": [-1.0, 0.0, 1.0], "counts": counts}


def test_each_pool_has_a_colour_and_negatives_are_dashed():
    pools = ("table/test", "pcdes/file-order", "open/validation")
    records = [{"protocol": p, "similarity": cosines(p, "chebi20-molt5/test-split")} for p in pools]
    found = [line(p, (0.5,))._replace(row=Row(p, TINY, p), trust=[records]) for p in pools]
    styles = re.findall(r'style="(fill: none; [^"]*var\(--[abcd]\)[^"]*)"', page(table(), found))
    assert [(re.findall(r"--([abcd])", x)[0], "dasharray" in x) for x in styles] == [
        (colour, dashed) for colour in "abc" for dashed in (False, True)
    ]


def interrupted(run: Path) -> str:
    raise KeyboardInterrupt


def test_main_writes_both_files_even_when_stopped(programs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "from tmr_jax.table.plan import Row, Table\n"
        f"TABLE = Table('t', (Row('tiny', {TINY!r}, {POOL!r}),))\n"
    )
    programs.stops = "tiny-s1"
    assert command.main(["--name", str(path)]) == 130
    said = capsys.readouterr().err
    assert "stopped by SIGINT; to resume: tmr table --name" in said
    out = tmp_path / "runs" / "tables" / "mine"
    first = (out / "table.md").read_text()
    assert "| 0 | 20.0 [15.0 to 25.0] |" in first and "other seeds not run: stopped" in first
    programs.stops = ""
    assert command.main(["--name", str(path)]) == 0
    assert "| 0, 1, 2 |" in (out / "table.md").read_text()
    assert (out / "table.html").read_text().startswith("<!doctype html>")
    monkeypatch.setattr(runner, "best_digest", interrupted)
    assert command.main(["--name", str(path)]) == 130
    assert command.main(["--name", "nothing"]) == 2
    assert "error: expected a table; got 'nothing'" in capsys.readouterr().err


def test_the_arguments_of_an_evaluation_by_its_command() -> None:
    for name in ("tmr eval", "python -m tmr_jax.eval"):  # the second: in results from before
        assert runner._eval_args(f"{name} --draws 8 --run 'a b'") == ("--draws", "8")
