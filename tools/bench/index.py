"""Rate and memory of indexing a million molecules: python -m tools.bench.index --run RUN FILE

Writes FILE's molecules into one file as often as it takes to reach --rows, builds an index with
`tmr index`, and prints the rate and the memory of the program with all its processes. That a build
survives being killed is tested in tests/index/test_main.py.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import tyro

from tmr_jax.data.readers import read_rows
from tmr_jax.index.exact import MANIFEST

LOOK = 0.2  # seconds between two readings of a process's memory


@dataclass(frozen=True)
class Arguments:
    file: tyro.conf.Positional[Path]
    """Molecules to repeat, e.g. ZINC250k's zinc.txt.gz."""
    run: Path
    rows: int = 1_000_000
    folder: Path | None = None
    """Where the index is built; without it a temporary folder that is removed."""


def write_rows(args: Arguments, path: Path) -> Path:
    """A file of `rows` rows, each with a name of its own."""
    smiles = [row.content for row in read_rows(args.file) if not row.refused]
    with gzip.open(path, "wt", compresslevel=1) as file:
        for i, s in enumerate(islice(cycle(smiles), args.rows)):
            file.write(f"{s} molecule-{i}\n")
    return path


def watched(*args: str) -> tuple[float, list[float]]:
    """Runs `python -m ARGS`: its seconds, and its memory in GiB at every reading."""
    start, memory = time.perf_counter(), []
    process = subprocess.Popen([sys.executable, "-m", *args])
    while process.poll() is None:
        if held := _held_gib(process.pid):  # it has not ended meanwhile
            memory.append(held)
        time.sleep(LOOK)
    if process.returncode:
        raise SystemExit(f"{args[0]} failed with {process.returncode}; see above")
    return time.perf_counter() - start, memory or [0.0]


def _held_gib(pid: int) -> float:
    """Of a process and its children; shared pages count in parts."""
    total, pids = 0, [str(pid)]
    for one in pids:
        with contextlib.suppress(OSError):  # the process has ended
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                pids += task.read_text().split()
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="bench_index-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source, out = write_rows(args, folder / "library.smi.gz"), folder / "index"
        options = ("--run", str(args.run), "--library", str(source), "--out", str(out))
        seconds, memory = watched("tmr_jax.index", *options)
        built = json.loads((out / MANIFEST).read_text())
        print(
            f"{built['kept']:,} of {built['rows']:,} rows in {seconds:.0f} s: "
            f"{built['rows'] / seconds:,.0f} a second; memory {memory[len(memory) // 4]:.2f} GiB "
            f"after a quarter, {memory[-1]:.2f} at the end, {max(memory):.2f} at most"
        )


if __name__ == "__main__":
    main()
