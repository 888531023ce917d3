"""Does a hostile file harm a library? python tools/fuzz_index.py --run runs/quickstart

Writes SMILES that are truncated, spliced, a megabyte long, full of rings or atoms, of metals, salts
and dummy atoms, of control characters and of other scripts, with sound molecules between them, and
has `tmr index` make a library of them (FAULTS.md F13). Then: the program ended well and in time;
each row is kept or stands in refused.tsv with a reason; none was refused for ending its process,
for hanging it, or for more than two seconds of work; every sound molecule has the vector that it
has in a library of the sound ones alone, to rounding. Exit status 1 where one does not hold.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rdkit import Chem

from tmr_jax.config import from_json
from tmr_jax.data.datasets.demo.molecules import nci_molecules
from tmr_jax.data.datasets.demo.text import Draw
from tmr_jax.index.build import PATIENCE, REFUSED
from tmr_jax.index.exact import ExactStore

CRASHED, SLOW = "crashed", "too-slow"  # reasons of tmr_jax.index.build
# Molecules in other company have other sums; a wrong molecule is a hundred times as far away.
ROUNDING = {"float32": 1e-6, "bfloat16": 5e-4}
ODD = "CNOSPFIBc123456789()[]=#@/\\+-.%*:>~H\0\x01\x7f\u202e\u200b\U0001f9ea"
HUGE = (
    "C" * 10**6,
    "C1" * 2_000,
    "(" * 2_500,
    "[" * 2_500,
    "C(" * 1_500 + "C" + ")" * 1_500,
    ".".join(["[Na+].[Cl-]"] * 400),
    "[Fe]" * 500,
    "*" * 900,
    "C" * 5_000,
    "[C@H](F)" * 300 + "C",
    "C/C=C/" * 250 + "C",
    "c1" + "c" * 996 + "c1",
    "C12C3C4C1C5C2C3C45" * 20,
)


@dataclass(frozen=True)
class Arguments:
    run: Path
    rows: int = 10_000
    """Fuzzed ones; beside them there is a sound one for each ten."""
    seed: int = 0
    folder: Path | None = None
    """Where the libraries are made; without it a temporary folder."""


def main() -> int:
    told = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        return check(told, told.folder or Path(temporary))


def check(told: Arguments, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = max(told.rows // 10, 1)
    sound = [Chem.MolToSmiles(mol) for mol in nci_molecules(wanted, Draw(str(told.seed)))]
    lines = mixed(fuzzed(told.rows, sound, told.seed), sound)
    (folder / "fuzzed.smi").write_bytes(b"".join(line + b"\n" for line in lines))
    (folder / "sound.smi").write_text("".join(f"{s} sound-{i}\n" for i, s in enumerate(sound)))
    seconds, store = made(told.run, folder / "fuzzed.smi", folder / "fuzzed")
    _, clean = made(told.run, folder / "sound.smi", folder / "sound")
    account = store.account
    listed = (folder / "fuzzed" / REFUSED).read_text().splitlines()[1:]
    reasons = Counter(line.split("\t")[1] for line in listed)
    print(f"{account['rows']:,} rows in {seconds:.0f} s, {account['kept']:,} kept, refused: ")
    for reason, number in reasons.most_common():
        print(f"  {reason}: {number:,}")
    mine, theirs = vectors(store), vectors(clean)
    rounding = rounding_of(told.run)
    apart = [np.abs(mine[name] - v).max() if name in mine else np.inf for name, v in theirs.items()]
    worst = max(apart, default=np.inf)
    print(f"vectors of sound molecules are {worst:.1g} apart at most, {rounding:g} is rounding")
    rows = sum(not line.startswith(b"#") for line in lines)  # the others are comments
    held = {
        f"{rows:,} rows, each kept or refused with a reason": rows == account["rows"]
        and rows == account["kept"] + len(listed)
        and "" not in reasons,
        f"{len(apart):,} sound molecules as in a library of their own": worst <= rounding,
        f"{reasons[CRASHED]:,} molecules ended their process or hung it": not reasons[CRASHED],
        f"{reasons[SLOW]:,} took longer than {PATIENCE:g} s": not reasons[SLOW],
    }
    for what, holds in held.items():
        print(f"{what}: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if all(held.values()) else 1


def rounding_of(run: Path) -> float:
    return ROUNDING[from_json((run / "config.json").read_text("utf-8")).train.precision]


def fuzzed(count: int, sound: list[str], seed: int) -> list[bytes]:
    """Broken, huge and odd SMILES made of sound ones; the same for the same seed."""
    chance = random.Random(seed)
    found = [s.encode() for s in HUGE[:count]] + [b"\xff\xfe" + b"C" * 10, b"C\xc3"]
    while len(found) < count:
        smiles, other = chance.choice(sound), chance.choice(sound)
        at = chance.randrange(len(smiles))
        kinds = (
            smiles[:at],
            smiles[:at] + chance.choice(ODD) + smiles[at + 1 :],
            smiles[:at] + other + smiles[at:],
            ".".join([smiles] * chance.randint(2, 12)),
            "".join(chance.choices(ODD, k=chance.randint(1, 50))),
            smiles * chance.randint(2, 40),
        )
        found.append(chance.choice(kinds).encode("utf-8"))
    return found[:count]


def mixed(rows: list[bytes], sound: list[str]) -> list[bytes]:
    """A sound molecule after every ten rows; each line has a name."""
    lines = []
    left = iter(enumerate(sound))
    for i, row in enumerate(rows):
        lines.append(row.replace(b"\n", b"") + f" fuzzed-{i}".encode())
        if i % 10 == 9 and (one := next(left, None)):
            lines.append(f"{one[1]} sound-{one[0]}".encode())
    return lines + [f"{s} sound-{i}".encode() for i, s in left]


def made(run: Path, source: Path, out: Path) -> tuple[float, ExactStore]:
    """Seconds that `tmr index` took, and the library that it made."""
    words = ["--run", str(run), "--library", str(source), "--out", str(out)]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tmr_jax.index", *words], check=True)
    return time.perf_counter() - begun, ExactStore(out)


def vectors(store: ExactStore) -> dict[str, np.ndarray]:
    """Of the sound molecules, by their names."""
    return {
        name: vector
        for batch in store.batches()
        for name, vector in zip(batch.columns["name"], batch.vectors, strict=True)
        if name.startswith("sound-")
    }


if __name__ == "__main__":
    sys.exit(main())
