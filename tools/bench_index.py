"""A library of a million molecules, killed on the way: python tools/bench_index.py --run RUN FILE

Writes FILE's molecules as often as it takes to reach --rows into one file, builds its library by
`tmr index` as a user would, and prints the rate and the memory of the program with all its
processes, a quarter of the way and at the end. With --kills the same is built once more, killed
(SIGKILL) at that many random moments and started again each time; the two libraries must be equal
byte for byte (FAULTS.md F22).
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

import tyro

from tmr_jax.data.molecules import read_rows
from tmr_jax.store.exact import sha256_of, shard_places

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
        made = json.loads((whole / "manifest.json").read_text())
        print(
            f"{made['kept']:,} of {made['rows']:,} rows in {seconds:.0f} s: "
            f"{made['rows'] / seconds:,.0f} a second; memory {quarter:.2f} GiB after a quarter, "
            f"{memory[-1]:.2f} at the end, {peak:.2f} at most"
        )
        if told.kills:
            again = folder / "killed"
            kill(told, source, again, made["shards"])
            same = digest(whole) == digest(again)
            print(f"after {told.kills} kills: {'the same' if same else 'NOT the same'} bytes")
            assert same
    finally:
        if told.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def written(told: Arguments, path: Path) -> Path:
    """The file of so many rows; each has a name of its own."""
    smiles = [row.smiles for row in read_rows(told.file) if not row.refused]
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
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
        except OSError:  # ended meanwhile
            continue
    return total / 2**20


def children(pid: int) -> list[int]:
    try:
        listed = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for words in listed for child in words]


def kill(told: Arguments, source: Path, out: Path, shards: int) -> None:
    """Builds with SIGKILLs: one in each of equal shares of the shards, at a random moment of it."""
    chance = random.Random(told.seed)
    for number in range(told.kills):
        after = shards * (number + chance.random()) / told.kills
        process = start(told.run, source, out)
        while process.poll() is None and there(out) < int(after):
            time.sleep(0.01)
        time.sleep(chance.random() * 2)  # in the midst of a shard
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {there(out)} of {shards} shards there", flush=True)
    built(told.run, source, out)


def there(out: Path) -> int:
    return len(shard_places(out)) if (out / "shards").is_dir() else 0


def digest(folder: Path) -> str:
    """Of all files but the lock, with their names."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "lock"):
        found.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return found.hexdigest()


if __name__ == "__main__":
    main()
