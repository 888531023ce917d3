"""The trainer as a program: killed, stopped, started again, misused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tmr_jax.cli import Signals, Stopped
from tmr_jax.models.checkpoint import Checkpoints, restore_params
from tmr_jax.models.runtime import read_metrics
from tmr_jax.train.__main__ import main
from tmr_jax.train.dataset import Plan
from tmr_jax.train.loop import Loop

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")
MINED = "--train.mined 4 --train.texts packed"
SAVE_EVERY = 3  # of tiny.py
LIMIT_S = 300


def start(run: Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-m", "tmr_jax.train", "--exp", TINY]
    return subprocess.Popen(
        [*command, "--run", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_for_lines(process: subprocess.Popen, run: Path, count: int) -> None:
    limit = time.monotonic() + LIMIT_S
    while lines(run) < count and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)


def history(run: Path) -> list[dict]:
    """metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocked = ("pairs_per_second", "throughput/")
    return [{k: v for k, v in row.items() if not k.startswith(clocked)} for row in rows]


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, optimiser and all, by name."""
    import orbax.checkpoint as ocp

    newest = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.is_dir())
    found: dict[str, np.ndarray] = {}
    manifest = json.loads((run / "checkpoints" / f"{newest}.manifest.json").read_text())
    assert manifest["step"] == newest
    with ocp.PyTreeCheckpointer() as reader:
        for item in ("params", "optimizer"):
            place = run / "checkpoints" / str(newest) / item
            described = reader.metadata(place).item_metadata.tree
            wanted = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), described)
            tree = reader.restore(place, restore_args=wanted)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_same_run(run: Path, reference: Path) -> None:
    ours, theirs = arrays(run), arrays(reference)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert array.tobytes() == ours[name].tobytes(), name
    assert history(run) == history(reference)


@pytest.fixture(scope="module", autouse=True)
def fast_compilation():
    """As in the programs started here, so that they share what is compiled."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run that nobody interrupts; it also fills the cache of compiled steps."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    status, out, err = end(start(run))
    assert status == 0, out + err
    return run


def test_a_run_leaves_everything_behind(unbroken):
    here = {p.name for p in unbroken.iterdir()}
    assert here >= {"config.json", "git.txt", "software.json", "features.json", "tokenizer.json"}
    assert here >= {"metrics.jsonl", "loss.png", "checkpoints", "validation.json"}
    steps = [r["step"] for r in history(unbroken) if "loss" in r]
    assert steps == list(range(1, 41))
    checks = [r for r in history(unbroken) if "validation/mrr" in r]
    assert [r["step"] for r in checks] == [16, 32, 40]
    best = max(checks, key=lambda r: (r["validation/mrr"], r["step"]))
    assert restore_params(unbroken)[1] == best["step"]
    assert restore_params(unbroken, "newest")[1] == 40
    assert json.loads((unbroken / "validation.json").read_text())["training"]["pairs"] == 64


@pytest.mark.costly
def test_texts_that_are_cut_are_counted_with_levels_too(tmp_path, capsys):
    short = ["--features.max-tokens", "32", "--train.epochs", "1"]
    counts = []
    for levels in ([], ["--train.levels", "0.5", "0.25", "0.25"]):
        run = tmp_path / f"run{len(levels)}"
        assert main(["--exp", TINY, "--run", str(run), *short, *levels]) == 0
        counts.append(json.loads((run / "validation.json").read_text())["training"]["texts_cut"])
        said = (
            f"{counts[-1]} of 64 texts have more than --features.max-tokens 32 word pieces: train"
        )
        assert said in capsys.readouterr().out
    assert 0 < counts[0] < 64 and counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_killed_at_random_moments_it_ends_with_the_same_bits(kills, unbroken, tmp_path):
    """Steps, saves and evaluations of the tiny run are all about as long as the spread."""
    chosen, run = random.Random(0), tmp_path / "run"
    for kill in range(kills):
        process = start(run, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", TZ="Asia/Kabul")
        wait_for_lines(process, run, min(lines(run) + 5 + chosen.randrange(4), 42))
        time.sleep(chosen.random() * 0.05)
        process.kill()
        _, out, err = end(process)
        reached = max((r["step"] for r in _whole_rows(run)), default=0)
        assert "Traceback" not in err, f"kill {kill}: {err}"
    status, out, err = end(start(run))
    assert status == 0, out + err
    assert "resumes after step" in out or reached <= 2 * SAVE_EVERY + 4
    if "resumes after step" in out:
        resumed = int(out.split("resumes after step ")[1].split()[0])
        assert resumed >= reached - 2 * SAVE_EVERY - 4  # one save under way, four steps unread
    assert_same_run(run, unbroken)


def _whole_rows(run: Path) -> list[dict]:
    return read_metrics(run / "metrics.jsonl")


@pytest.mark.costly
def test_signals_save_and_the_next_start_goes_on(unbroken, tmp_path):
    """In a directory whose name is not plain, without a home."""
    run = tmp_path / "läuft – 试 1"
    for number, count in ((signal.SIGTERM, 6), (signal.SIGINT, 15)):
        process = start(run, HOME="")
        wait_for_lines(process, run, count)
        process.send_signal(number)
        began = time.monotonic()
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # the second one must break nothing
        status, out, err = end(process)
        assert status == 128 + number, out + err
        assert time.monotonic() - began < 10
        assert "to resume: tmr train --exp" in err
        saved = int(out.split("saved: step ")[1].split()[0])
        assert max(r["step"] for r in _whole_rows(run)) == saved
        manifest = run / "checkpoints" / f"{saved}.manifest.json"
        assert json.loads(manifest.read_text())["step"] == saved
    status, out, err = end(start(run))
    assert status == 0, out + err
    assert f"resumes after step {saved}" in out
    assert_same_run(run, unbroken)


# In this process


def test_of_sigterm_and_ctrl_c_that_both_wait_sigterm_counts():
    both = {signal.SIGTERM, signal.SIGINT}
    with Signals() as signals:
        with signals.deferred():
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for number in both:
                signal.raise_signal(number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.check()


def copied(unbroken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


@pytest.mark.costly
def test_a_damaged_newest_checkpoint_is_named_and_training_goes_on(unbroken, tmp_path, capfd):
    run = copied(unbroken, tmp_path)
    (run / "checkpoints" / "40.manifest.json").write_text("{")
    assert main(["--exp", TINY, "--run", str(run)]) == 0
    out = capfd.readouterr().out
    assert f"{run}/checkpoints/40 is damaged" in out
    assert "resumes after step 39" in out
    assert_same_run(run, unbroken)


def test_where_all_checkpoints_are_damaged_it_exits_2_and_deletes_nothing(
    unbroken, tmp_path, capfd
):
    run = copied(unbroken, tmp_path)
    for path in (run / "checkpoints").rglob("_METADATA"):
        path.write_text("")
    before = {p: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}
    assert main(["--exp", TINY, "--run", str(run)]) == 2
    assert "all damaged" in capfd.readouterr().err
    assert {p: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()} == before
    with pytest.MonkeyPatch.context() as patch:  # started again, and stopped before its first step
        patch.setattr(Loop, "check_signals", _stopped)
        assert main(["--exp", TINY, "--run", str(run), "--fresh"]) == 128 + signal.SIGTERM
    aside = tmp_path / "run.old-1" / "checkpoints"
    assert {aside / p.relative_to(run / "checkpoints") for p in before} <= set(aside.rglob("*"))
    assert not list((run / "checkpoints").iterdir())


def test_another_configuration_in_the_same_directory_is_refused(unbroken, tmp_path, capfd):
    run = copied(unbroken, tmp_path)
    assert main(["--exp", TINY, "--run", str(run), "--optim.base-lr", "0.5"]) == 2
    assert "optim.base_lr: 0.001 there, 0.5 now" in capfd.readouterr().err


@pytest.mark.costly
def test_three_steps_in_a_row_that_are_not_finite_stop_the_run(
    unbroken, tmp_path, capfd, monkeypatch
):
    """From step 40 on, in a copy that is told to train on, the parameters are infinite."""
    run = copied(unbroken, tmp_path)
    monkeypatch.setattr(Plan, "__init__", _longer(Plan.__init__))
    monkeypatch.setattr(Checkpoints, "restore", _spoilt(Checkpoints.restore))
    assert main(["--exp", TINY, "--run", str(run)]) == 1
    assert "3 steps in a row" in capfd.readouterr().err
    bad = json.loads((run / "nonfinite.json").read_text())
    assert len(bad) == 3
    assert [b["step"] for b in bad] == list(range(bad[0]["step"], bad[0]["step"] + 3))
    assert all(len(b["pairs"]) == 8 for b in bad)
    assert [b["step"] for b in bad] == [41, 42, 43]
    skipped = [r["step"] for r in history(run) if r.get("loss", 0) is None]
    assert skipped == [41, 42, 43]
    assert restore_params(run, "newest")[1] == 42  # its moments and counts, and nothing updated


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["--optim.ema 0.9", MINED, "--train.teachers RUN RUN", "--train.masked-words 3"]
)
def test_stopped_in_an_epoch_it_ends_with_the_same_bits_under(
    options, tiny_run, tmp_path, monkeypatch
):
    options = options.replace("RUN", str(tiny_run))
    words = ["--exp", TINY, "--train.epochs", "1", *options.split()]
    whole, broken = (["--run", str(tmp_path / name)] for name in ("whole", "broken"))
    assert main([*words, *whole]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "check_signals", lambda loop, step: step < 5 or _stopped(loop, step))
        assert main([*words, *broken]) == 128 + signal.SIGTERM
    assert max(row["step"] for row in history(tmp_path / "broken")) == 5
    assert main([*words, *broken]) == 0
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def _stopped(loop, step):
    raise Stopped(signal.SIGTERM)


def _longer(init):
    def longer(plan, *words):
        init(plan, *words)
        plan.total += plan.epoch_steps

    return longer


def _spoilt(restore):
    def spoilt(checkpoints, like):
        found = restore(checkpoints, like)
        params = {**found.state.params, "log_scale": jax.numpy.asarray(jax.numpy.nan)}
        return found._replace(state=found.state._replace(params=params))

    return spoilt


def test_an_unknown_experiment_field_or_option_exits_2(tmp_path, capfd):
    run = ["--run", str(tmp_path / "run")]
    assert main(["--exp", "quikstart", *run]) == 2
    assert "did you mean quickstart?" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--exp", TINY, *run, "--optim.base-lrr", "1"])
    assert ended.value.code == 2
    assert "--optim.base-lr" in "".join(capfd.readouterr())
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_written_exits_2_at_once(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    began = time.monotonic()
    assert main(["--exp", TINY, "--run", str(tmp_path / "file" / "run")]) == 2
    assert time.monotonic() - began < 5
    assert "that can be written" in capfd.readouterr().err
