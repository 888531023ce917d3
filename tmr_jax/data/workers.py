"""Molecule features in several processes: chunks out as JSON lines, arrays back as .npz.

The processes are plain subprocesses rather than a `multiprocessing` pool: forking a process that
runs JAX can hang, and spawning would run the user's script a second time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def in_workers(jobs: list[list]) -> Iterator[dict[str, np.ndarray]]:
    """`pack_chunk(*job)` of every job, in order. RuntimeError where a process dies."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(jobs)):
        waiting.put(i)
    results: list = [None] * len(jobs)
    done = [threading.Event() for _ in jobs]
    workers = [_start() for _ in range(min(_cores(), len(jobs)))]
    threads = [
        threading.Thread(target=_feed, args=(w, jobs, waiting, results, done), daemon=True)
        for w in workers
    ]
    try:
        for thread in threads:
            thread.start()
        for i, event in enumerate(done):
            while not event.wait(1.0):
                if not any(thread.is_alive() for thread in threads) and not event.is_set():
                    raise RuntimeError(_died(jobs[i]))
            if results[i] is None:
                raise RuntimeError(_died(jobs[i]))
            yield results[i]
            results[i] = None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        for thread in threads:
            thread.join()


def _died(job: list) -> str:
    return (
        f"expected features of the {len(job[0])} molecules from {job[0][0]!r} on, but the process "
        "that computed them ended; try again with fewer molecules to find the one it fails on"
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start() -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "tmr_jax.data.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, which then stops its workers
        env={**os.environ, "PYTHONPATH": path},
    )


def _feed(
    worker: subprocess.Popen,
    jobs: list[list],
    waiting: queue.SimpleQueue[int],
    results: list,
    done: list[threading.Event],
) -> None:
    """Gives one worker a job at a time until none is left."""
    assert worker.stdin is not None and worker.stdout is not None
    # A worker that was killed leaves an unsent rest behind that closing the pipe trips over.
    with contextlib.suppress(OSError), worker.stdin as jobs_out, worker.stdout as arrays_in:
        while True:
            try:
                i = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                jobs_out.write(json.dumps(jobs[i]).encode() + b"\n")
                jobs_out.flush()
                results[i] = _receive(arrays_in)
            except (OSError, ValueError):
                return
            finally:
                done[i].set()


def _receive(stream) -> dict[str, np.ndarray]:
    size = stream.read(8)
    content = stream.read(int.from_bytes(size, "little"))
    if len(size) < 8:
        raise OSError("the process ended")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def main() -> None:
    from tmr_jax.data.cache import pack_chunk

    for line in sys.stdin.buffer:
        buffer = io.BytesIO()
        np.savez(buffer, **pack_chunk(*json.loads(line)))  # type: ignore[arg-type]
        content = buffer.getvalue()
        sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
