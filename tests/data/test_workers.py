"""Processes that compute features: order, death, and no process left behind."""

from __future__ import annotations

import json
import subprocess
import time

import numpy as np
import pytest

from tmr_jax.data import workers
from tmr_jax.data.workers import Died, Worker, duration, in_workers, track

DESCRIBE = "tmr_jax.index.entries:describe_chunk"


def test_results_come_in_the_order_of_the_jobs():
    jobs = [[["C" * (i + 1)], "ogb", "none"] for i in range(5)]
    sizes = [int(arrays["node_sizes"][0]) for arrays in in_workers(jobs)]
    assert sizes == [1, 2, 3, 4, 5]


def test_odd_smiles_cross_the_pipe():
    odd = ["C\0", "\ud800", "C\nC", "ü", "CCO"]
    (arrays,) = in_workers([[odd, "morgan1", "brics"]])
    reasons = json.loads(arrays["reasons"].tobytes())
    assert reasons == ["control-characters", "not-ascii", "whitespace", "not-ascii", ""]
    assert arrays["nodes"].dtype == np.int64


def test_a_process_that_dies_is_an_error_that_names_its_molecules(monkeypatch):
    started = []

    def dying():
        process = subprocess.Popen(
            ["sh", "-c", "read line; exit 9"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    monkeypatch.setattr(workers, "_start", dying)
    with pytest.raises(RuntimeError, match="2 molecules from 'CCO' on"):
        list(in_workers([[["CCO", "C"], "ogb", "none"]] * 3))
    assert started and all(process.poll() is not None for process in started)


def test_stopping_early_stops_a_process_in_the_midst_of_its_job(monkeypatch):
    stuck = ["sh", "-c", "exec sleep 60"]
    start, started = workers._start, []

    def one_stuck():
        if not started:
            started.append(start())
        else:
            started.append(subprocess.Popen(stuck, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(workers, "_start", one_stuck)
    monkeypatch.setattr(workers, "_cores", lambda: 2)
    results = in_workers([[["C"] * 50, "ogb", "none"]] * 8)
    before = time.monotonic()
    next(results)
    results.close()
    assert time.monotonic() - before < 30
    assert all(process.poll() is not None for process in started)


def test_after_ctrl_c_the_next_job_gets_its_own_result(monkeypatch):
    receive, worker = workers._receive, Worker()
    describe = [["CC"], "ogb", "none"], [["CCCC"], "ogb", "none"]

    def interrupted(stream):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.ask(DESCRIBE, describe[0])
    monkeypatch.setattr(workers, "_receive", receive)
    assert worker.ask(DESCRIBE, describe[1])["node_sizes"].tolist() == [4]
    worker.close()


def test_whoever_tries_again_is_not_let_after_the_end():
    """What is in the midst of a job when nobody wants it any more starts no other process."""
    tried = []

    def stubborn(worker, job):
        for _ in range(3):
            tried.append(job)
            try:
                return worker.ask(workers.FEATURES, job)
            except Died:
                continue
        raise AssertionError

    results = in_workers([[["CCO"] * n, "ogb", "none"] for n in (1, 200_000)], stubborn)
    next(results)
    before = time.monotonic()
    results.close()
    assert time.monotonic() - before < 20
    assert [len(job[0]) for job in tried] == [1, 200_000]


def test_a_process_that_is_ready_has_only_its_job_to_do(monkeypatch):
    worker = Worker()
    worker.be_ready(DESCRIBE)
    process = worker._process
    begun = time.monotonic()
    assert worker.ask(DESCRIBE, [["CCO"], "ogb", "none"], 5.0)["mw"].shape == (1,)
    assert time.monotonic() - begun < 5 and worker._process is process
    worker.be_ready(DESCRIBE)
    assert worker._process is process
    worker.close()
    monkeypatch.setattr(workers, "START", 0.0)
    with pytest.raises(RuntimeError, match=f"expected a process for {DESCRIBE} to start"):
        Worker().be_ready(DESCRIBE)


def test_durations_read_like_a_clock():
    told = [duration(seconds) for seconds in (0.2, 61.0, 3599.6, 7325.0)]
    assert told == ["0:00:00", "0:01:01", "1:00:00", "2:02:05"]


def test_a_bar_that_cannot_be_removed_is_not_shown(capsys):
    assert list(track([1, 2], "reading", transient=True)) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(track([1, 2], "reading")) == [1, 2]
    assert "reading" in capsys.readouterr().err
