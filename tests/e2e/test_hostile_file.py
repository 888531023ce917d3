"""A hostile file of SMILES harms no index: each row is stored or skipped with a reason, in time."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.data.datasets import chebi
from tmr_jax.index.build import REFUSED
from tmr_jax.index.exact import ExactEngine

ROUNDING = 1e-6  # float32: batches of other molecules add in another order
ODD = "CNOSPFIBc123456789()[]=#@/\\+-.%*:>~H\0\x01\x7f\u202e\u200b\U0001f9ea"
HUGE = (
    "C" * 10**6,
    "C1" * 2_000,
    "(" * 2_500,
    "C(" * 1_500 + "C" + ")" * 1_500,
    ".".join(["[Na+].[Cl-]"] * 400),
    "[Fe]" * 500,
    "*" * 900,
    "[C@H](F)" * 300 + "C",
    "C/C=C/" * 250 + "C",
    "c1" + "c" * 996 + "c1",
    "C12C3C4C1C5C2C3C45" * 20,
)


def broken(sound: list[str], count: int, chance: random.Random) -> list[bytes]:
    """Truncated, spliced, repeated, odd and huge SMILES, and bytes that are not UTF-8."""
    rows = [s.encode() for s in HUGE] + [b"\xff\xfe" + b"C" * 10, b"C\xc3"]
    while len(rows) < count:
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
        rows.append(chance.choice(kinds).encode("utf-8").replace(b"\n", b""))
    return rows


def indexed(run: Path, source: Path, out: Path) -> ExactEngine:
    options = ["--run", str(run), "--library", str(source), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "tmr_jax.index", *options], check=True, timeout=300)
    return ExactEngine(out)


def vectors(index: ExactEngine) -> dict[str, np.ndarray]:
    """Of the sound molecules, by name."""
    return {
        name: vector
        for batch in index.batches()
        for name, vector in zip(batch.columns["name"], batch.vectors, strict=True)
        if name.startswith("sound-")
    }


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, 300])
def test_sound_molecules_are_indexed_as_if_the_others_were_not_there(
    count: int, tiny_run: Path, tmp_path: Path
) -> None:
    sound = [pair.smiles for pair in chebi.train_pairs()[: count // 10]]
    lines = [
        row + f" broken-{i}".encode()
        for i, row in enumerate(broken(sound, count, random.Random(0)))
    ]
    for i, smiles in enumerate(sound):
        lines.insert(11 * i, f"{smiles} sound-{i}".encode())
    (tmp_path / "all.smi").write_bytes(b"".join(line + b"\n" for line in lines))
    (tmp_path / "sound.smi").write_text("".join(f"{s} sound-{i}\n" for i, s in enumerate(sound)))

    mixed = indexed(tiny_run, tmp_path / "all.smi", tmp_path / "mixed")
    clean = indexed(tiny_run, tmp_path / "sound.smi", tmp_path / "clean")

    skipped = (tmp_path / "mixed" / REFUSED).read_text().splitlines()[1:]
    reasons = Counter(line.split("\t")[1] for line in skipped)
    stored = sum(not line.startswith(b"#") for line in lines)  # the others are comments
    assert mixed.count() + len(skipped) == stored
    assert {"too-long", "unparsable", "not-utf-8"} <= set(reasons)
    assert "" not in reasons and not reasons["crashed"] and not reasons["too-slow"]
    expected, got = vectors(clean), vectors(mixed)
    assert len(expected) == count // 10
    for name, vector in expected.items():
        np.testing.assert_allclose(got[name], vector, atol=ROUNDING)
