"""A library of a million molecules, killed on the way: python -m tools.bench.index --run RUN FILE

Writes FILE's molecules as often as it takes to reach --rows into one file, builds its library by
`tmr index` as a user would, and prints the rate and the memory of the program with all its
processes, a quarter of the way and at the end. With --kills the same is built once more, killed
(SIGKILL) at that many random moments and started again each time. Each start may make again one
shard at most of those that were there or under way, and the two libraries must be equal byte for
byte (FAULTS.md F22); it ends with an error where they are not.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import tyro

from tmr_jax.data.molecules import read_rows
from tmr_jax.index.exact import MANIFEST, ROWS, SHARDS, sha256_of, shard_places

LOOK = 0.5  # seconds between looks at the memory


@dataclass(frozen=True)
class Arguments:
    file: tyro.conf.Positional[Path]
    """Molecules to begin with, e.g. ZINC250k's zinc.txt.gz."""
    run: Path
    rows: int = 1_000_000
    kills: int = 0
    folder: Path | None = None
    """Where the libraries are made; without it a temporary folder that is removed."""
    seed: int = 0


def main() -> None:
    told = tyro.cli(Arguments)
    folder = told.folder or Path(tempfile.mkdtemp(prefix="bench_index-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        source = written(told, folder / "library.smi.gz")
        whole = folder / "whole"
        seconds, memory = built(told.run, source, whole)
        quarter, peak = memory[len(memory) // 4], max(memory)
        made = json.loads((whole / MANIFEST).read_text())
        print(
            f"{made['kept']:,} of {made['rows']:,} rows in {seconds:.0f} s: "
            f"{made['rows'] / seconds:,.0f} a second; memory {quarter:.2f} GiB after a quarter, "
            f"{memory[-1]:.2f} at the end, {peak:.2f} at most"
        )
        if told.kills:
            again = folder / "killed"
            kills, lost = kill(told, source, again, made["shards"], seconds / made["shards"])
            same = digest(whole) == digest(again)
            late = f" ({told.kills - kills} came after the end)" if kills < told.kills else ""
            print(
                f"after {kills} kills{late}: {'the same' if same else 'NOT the same'} bytes, "
                f"{lost} shards at most made again after one"
            )
            assert same and kills and lost <= 1
    finally:
        if told.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def written(told: Arguments, path: Path) -> Path:
    """The file of so many rows; each has a name of its own."""
    smiles = [row.content for row in read_rows(told.file) if not row.refused]
    with gzip.open(path, "wt", compresslevel=1) as file:
        for i, s in enumerate(islice(cycle(smiles), told.rows)):
            file.write(f"{s} molecule-{i}\n")
    return path


def start(run: Path, source: Path, out: Path) -> subprocess.Popen:
    words = ["--run", str(run), "--library", str(source), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "tmr_jax.index", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def built(run: Path, source: Path, out: Path) -> tuple[float, list[float]]:
    """Seconds, and the memory in GiB at every look."""
    before = time.perf_counter()
    process, memory = start(run, source, out), [0.0]
    while process.poll() is None:
        memory.append(resident(process.pid))
        time.sleep(LOOK)
    assert process.returncode == 0, f"tmr index ended with {process.returncode}"
    return time.perf_counter() - before, [m for m in memory if m] or [0.0]


def resident(pid: int) -> float:
    """GiB that a process and its children hold, what they share counted in parts (PSS)."""
    total = 0
    for one in (pid, *children(pid)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:  # ended meanwhile
            continue
    return total / 2**20


def children(pid: int) -> list[int]:
    try:
        listed = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for words in listed for child in words]


def kill(told: Arguments, source: Path, out: Path, shards: int, each: float) -> tuple[int, int]:
    """Builds with SIGKILLs: one in each of equal shares of the shards, at a random moment of it.

    `each` is how many seconds a shard takes. Returns how many found a process at work, and the most
    shards that were lost by one.
    """
    chance = random.Random(told.seed)
    kills, most, before = 0, 0, State({}, 0)
    for number in range(told.kills):
        after = int((shards - 1) * (number + chance.random()) / told.kills)
        process = start(told.run, source, out)
        while process.poll() is None and there(out) < after:
            time.sleep(0.01)
        time.sleep(chance.random() * each)  # in the midst of a shard
        process.send_signal(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), f"tmr index ended with {status}"
        most, before = max(most, lost(before, out)), state(out)
        if (out / MANIFEST).is_file():  # the build had come to its end
            break
        kills += 1
        print(f"killed with {there(out)} of {shards} shards there", flush=True)
    built(told.run, source, out)
    return kills, max(most, lost(before, out))


class State(NamedTuple):
    """What a process has left behind."""

    shards: dict[str, tuple[int, int]]  # by name: which file it is, of when
    under_way: int  # shards that were being written


def state(out: Path) -> State:
    if not (out / SHARDS).is_dir():
        return State({}, 0)
    places = shard_places(out)
    files = [(place / ROWS).stat() for place in places]
    marks = {p.name: (f.st_ino, f.st_mtime_ns) for p, f in zip(places, files, strict=True)}
    return State(marks, sum(not place.name.isdigit() for place in (out / SHARDS).iterdir()))


def lost(before: State, out: Path) -> int:
    """How many shards the next process made again, or had to, of those that one had left."""
    now = state(out).shards
    gone = sum(now.get(name) != mark for name, mark in before.shards.items())
    return gone + before.under_way


def there(out: Path) -> int:
    return len(state(out).shards)


def digest(folder: Path) -> str:
    """Of all files but the lock, with their names."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "lock"):
        found.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return found.hexdigest()


if __name__ == "__main__":
    main()
