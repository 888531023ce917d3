"""What every command shares: help, streams, signals, errors; and how much it imports."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tmr_jax import cli
from tmr_jax.config import Experiment, from_json
from tmr_jax.types import CommandFailed, UserError, did_you_mean

ROOT = Path(__file__).resolve().parent.parent
REPORT = """
import json, sys
sys.stdout.reconfigure(encoding="utf-8")
try:
    from tmr_jax.cli import main
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code or 0
ours = sorted(name for name in sys.modules if name.split(".")[0] == "tmr_jax")
print("\\nMODULES " + json.dumps({"ours": ours, "jax": "jax" in sys.modules, "status": status}))
"""


def reported(*args: str, **environment: str) -> tuple[str, dict]:
    """What a command prints, and what it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *args],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    printed, _, modules = done.stdout.rpartition("\nMODULES ")
    assert modules, done.stdout + done.stderr
    return printed, json.loads(modules)


COMPUTING = {"export", "facts", "lexical"}  # files of one program, which import JAX themselves


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_is_short_and_imports_no_jax(verb: str) -> None:
    """JAX takes a second to import, which a reader of help need not wait for."""
    text, imported = reported(verb, "--help")
    assert f"usage: tmr {verb} " in text
    assert len(text.splitlines()) <= 60
    assert imported["jax"] is (verb in COMPUTING) and imported["status"] == 0


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_long_help_has_every_section_of_the_short_one(verb: str) -> None:
    short, long = reported(verb, "--help")[0], reported(verb, "--help-all")[0]
    sections = re.findall(r"^  --(\S+)\.\*", short, re.M)
    assert len(sections) == len(set(sections)) >= 3
    for section in sections:
        assert f"--{section}." in long
    assert len(long.splitlines()) > len(short.splitlines())


def fields(kind: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        value = field.default_factory() if callable(field.default_factory) else None
        if dataclasses.is_dataclass(value):
            yield from fields(type(value), f"{prefix}{field.name}.")
        else:
            yield (prefix + field.name).replace("_", "-")


def test_each_option_of_an_experiment_has_a_text_of_its_own() -> None:
    long = re.sub(r"[│╭╮╰╯─]", " ", reported("train", "--help-all")[0])
    option = r"^ *--([\w.-]+)[^\n]*\n(?: {1,5}[\w,-]+\} *\n)?"  # many choices take two lines
    blocks = dict(re.findall(rf"{option}((?: {{6,}}[^\n]*\n)+)", long, re.M))
    texts = {}
    for name in fields(Experiment):
        text = " ".join(re.sub(r"\(default:.*", "", blocks[name], flags=re.S).split())
        assert len(text) > 5, f"--{name} has no text"
        texts[name] = text
    of = {}  # neighbours that share a text; options of different sections may
    for name, text in texts.items():
        of.setdefault((name.rpartition(".")[0], text), []).append(name)
    assert not [names for names in of.values() if len(names) > 1]


# Errors and signals


def ended(error: BaseException, **options) -> int:
    def work(args: list[str]) -> int:
        raise error

    return cli.run("eval", work, ["--run", "a b", "--fresh"], **options)


def test_what_a_command_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("eval", lambda args: len(args), ["a", "b"]) == 2
    assert ended(UserError("expected a; got b; do c")) == 2
    assert capsys.readouterr().err == "error: expected a; got b; do c\n"
    assert ended(CommandFailed("no")) == 1
    assert ended(OSError("disk"), expected=(OSError,)) == 2
    assert ended(json.JSONDecodeError("cut", "{", 1)) == 2


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    program = (
        "import sys; from tmr_jax import cli; "
        "sys.exit(cli.run('x', lambda args: print('row\\n' * 100_000), []))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"row\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_other_errors_are_bugs_and_keep_their_traceback() -> None:
    for error in (ValueError("expected nothing"), OSError("disk"), KeyError("x")):
        with pytest.raises(type(error)):
            ended(error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_command_with_their_status(number: int, capsys) -> None:
    before = signal.getsignal(number)

    def work(args: list[str]) -> int:
        signal.raise_signal(number)
        return 0

    assert cli.run("eval", work, ["--run", "a b", "--fresh"], resumable=True) == 128 + number
    name = signal.Signals(number).name
    assert capsys.readouterr().err == (f"stopped by {name}; to resume: tmr eval --run 'a b'\n")
    assert signal.getsignal(number) is before
    assert ended(KeyboardInterrupt()) == 130


def test_deferred_signals_wait_for_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.Signals() as signals:
        with signals.deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(cli.Stopped, match="SIGTERM"):
            signals.check()
    assert capsys.readouterr().err.splitlines() == [
        "SIGINT: ending after this step",
        "still saving, please wait",
    ]


class Freed:
    """Gets a signal while Python frees it, where Python ignores what is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))


def test_a_signal_that_python_ignores_comes_once_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.Stopped, match="SIGTERM"), cli.Signals():
        Freed()
        time.sleep(20)
    assert "ignored" not in capsys.readouterr().err


FORKING = """
import os, signal
from tmr_jax import cli
with cli.Signals():
    child = os.fork()
    if not child:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""


def test_a_forked_child_ends_by_the_signal_itself() -> None:
    """In a process of its own: JAX, which other tests start, warns of forks."""
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=60)


def test_a_verb_that_is_none_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"tmr_jax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"tmr {verb}" in text for verb in cli.VERBS)


def test_python_runs_the_package_as_tmr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tmr_jax", "cache"]
    settings = os.environ | {"TMR_JAX_CACHE": str(tmp_path / "none")}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path / "none"))


def test_the_nearest_names() -> None:
    assert did_you_mean("smiles", ["SMILES", "id"]) == "did you mean SMILES?"
    assert did_you_mean("x", ["a b"], "no name is similar", repr) == "no name is similar"


def test_a_damaged_configuration_is_explained() -> None:
    with pytest.raises(UserError, match="expected a configuration in JSON"):
        from_json('{"name": ')
    for content in ("null", "[]", '{"model": 3}', '{"data": {"table": null}}'):
        with pytest.raises(UserError, match=r"expected the fields of config.*; got .*; restore"):
            from_json(content)


# How many files of ours a reader meets on the two shortest paths; these numbers only go down
# (41 since a query may compare columns of a file).

TRAINING, QUERY = 46, 41


@pytest.mark.costly
def test_modules_of_a_training_run(tmp_path: Path) -> None:
    args = ("--exp", "tests/experiments/tiny.py", "--run", str(tmp_path / "run"))
    _, imported = reported("train", *args, "--train.epochs", "1")
    print(len(imported["ours"]), *imported["ours"], sep="\n")
    assert imported["status"] == 0 and imported["jax"]
    assert len(imported["ours"]) <= TRAINING


def test_modules_of_a_query(tiny_run: Path, tmp_path: Path) -> None:
    from tmr_jax.index.__main__ import main

    file, index = tmp_path / "library.smi", tmp_path / "index"
    file.write_text("CCO ethanol\nCCN ethylamine\n")
    assert main(["--run", str(tiny_run), "--library", str(file), "--out", str(index)]) == 0
    args = ("--run", str(tiny_run), "--library", str(index), "an amine")
    _, imported = reported("search", *args)
    print(len(imported["ours"]), *imported["ours"], sep="\n")
    assert imported["status"] == 0 and imported["jax"]
    assert len(imported["ours"]) <= QUERY
