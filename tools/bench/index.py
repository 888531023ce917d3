"""Rate and memory of indexing a million molecules: python -m tools.bench.index --run RUN FILE

Writes FILE's molecules into one file as often as it takes to reach --rows, builds an index with
`tmr index`, and prints the rate and the memory of the program with all its processes. That a build
survives being killed is tested in tests/index/test_main.py.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import tyro

from tmr_jax.data.readers import read_rows
from tmr_jax.index.exact import MANIFEST
from tools.bench.common import watched, workplace


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


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__)
    with workplace(args.folder, "index") as folder:
        source, out = write_rows(args, folder / "library.smi.gz"), folder / "index"
        options = ("--run", str(args.run), "--library", str(source), "--out", str(out))
        seconds, memory, _ = watched("tmr_jax.index", *options)
        built = json.loads((out / MANIFEST).read_text())
        print(
            f"{built['kept']:,} of {built['rows']:,} rows in {seconds:.0f} s: "
            f"{built['rows'] / seconds:,.0f} a second; memory {memory[len(memory) // 4]:.2f} GiB "
            f"after a quarter, {memory[-1]:.2f} at the end, {max(memory):.2f} at most"
        )


if __name__ == "__main__":
    main()
