"""Several processes train one run by the same command, and it is the run of one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.models.runtime import join_processes
from tmr_jax.train.__main__ import main
from tmr_jax.types import UserError

TINY = str(Path(__file__).parents[1] / "experiments" / "tiny.py")
WORDS = ["--exp", TINY, "--model.text.dropout", "0", "--model.graph.dropout", "0"]
WORDS += ["--train.batch-size", "16", "--train.epochs", "12", "--train.eval-every", "12"]
WORDS += ["--train.save-every", "1000"]  # the signal alone makes it save


def start(run: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tmr_jax.train", *WORDS, "--run", str(run)],
            env={**os.environ, **told, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def ended(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def losses(run: Path) -> dict[int, float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_go_on_after_a_signal(tmp_path):
    assert main([*WORDS, "--run", str(tmp_path / "one")]) == 0
    wanted = losses(tmp_path / "one")
    run = tmp_path / "two"
    processes = start(run)
    metrics = run / "metrics.jsonl"
    for _ in range(3000):
        if metrics.is_file() and '"loss"' in metrics.read_text():
            break
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)  # not the one that saves
    status, said = ended(processes)
    assert status == [143, 143], said
    before = losses(run)
    assert 0 < len(before) < len(wanted) and len(before) % 16 == 0 and "saved: step" in said[0]
    status, said = ended(start(run))
    assert status == [0, 0], said
    found = losses(run)
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-3)
    assert "trained:" in said[0] and "trained:" not in said[1]


@pytest.mark.parametrize(("count", "number"), [(None, None), ("2", None), ("x", "0"), ("2", "-1")])
def test_half_an_address_is_said(monkeypatch, count, number):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    for name, value in (("JAX_NUM_PROCESSES", count), ("JAX_PROCESS_ID", number)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID with"):
        join_processes()


def test_an_empty_address_is_none(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "")
    assert join_processes()
