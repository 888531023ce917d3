"""The training step and text encoding against PyTorch, side by side:

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 transformers numpy
    python -m tools.bench.vs_torch --torch-python torchenv/bin/python

Both programs have the same weights (MiniLM), texts and molecules (ChEBI-20's test pairs), model
(DiffTMR's whole loss, dropout on) and batch size, 32. First loss and gradient norm of one batch
with the same noise must agree. Then the programs take turns; a matrix product of fixed size is
timed before and after each turn. The recipe is the published one: float32, random batches, every
text padded to 256 tokens.

Each ratio compares two turns of one round, so that a slow phase of the machine affects both.
Medians are printed, of rates with the range, of ratios with the lower and upper quartile.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

RECIPE = "recipe"
OURS = ("tmr_jax, buckets", "tmr_jax, packed", "tmr_jax, packed, float32")
RIVALS = (RECIPE, "float32, sorted", "bfloat16, sorted", "bfloat16, sorted, compiled")
SQUARE = 2_048  # side of the matrices of the fixed product
TOLERANCE = 1e-3  # relative, of loss and gradients in float32


@dataclass(frozen=True)
class Arguments:
    torch_python: Path
    """Python of an environment with torch and transformers."""
    rounds: int = 5
    """Turns of each contestant."""
    steps: int = 48
    """In a turn of training; the recipe, whose steps are all alike, does a quarter."""
    texts: int = 3200
    """Half of them are a turn of encoding; for the recipe an eighth."""
    contestants: tuple[str, ...] = (*RIVALS, *OURS)
    """Which forms of the step take part."""


class Turn(NamedTuple):
    rate: float  # pairs or texts a second
    gflops: float  # of the fixed product before and after, mean


class Program:
    """A worker that answers commands, one line each."""

    def __init__(self, python: Path | str, module: str, folder: Path) -> None:
        command = [str(python), "-m", f"tools.bench.{module}", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a worker ended with status {self._process.wait()}; see above")

    def close(self) -> None:
        self._process.terminate()


def gflops() -> float:
    """Of a float32 product of two squares, best of three."""
    a = np.random.default_rng(0).random((SQUARE, SQUARE), np.float32)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(a, a)
        times.append(time.perf_counter() - start)
    return 2 * SQUARE**3 / min(times) / 1e9


def turn(ask: Callable[..., dict[str, Any]], unit: str, **command: Any) -> Turn:
    before = gflops()
    found = ask(**command)
    return Turn(found[unit] / found["seconds"], (before + gflops()) / 2)


def agree(ours: dict[str, float], theirs: dict[str, float]) -> None:
    for what, value in ours.items():
        print(f"{what} of one batch: tmr_jax {value:.6f}, PyTorch {theirs[what]:.6f}", flush=True)
        if not math.isclose(value, theirs[what], rel_tol=TOLERANCE):
            raise SystemExit(f"expected the same {what}; the two programs do different work")


def table(turns: dict[str, list[Turn]], unit: str) -> None:
    """Medians of each contestant, and the ratio of our rates to them."""
    mine = [name for name in OURS if name in turns]
    against = "".join(f" {name} : this |" for name in mine)
    print(f"| {unit} | {unit} a second, median (range) | fixed product, GFLOP/s |{against}")
    print("|---" * (3 + len(mine)) + "|")
    for name, found in turns.items():
        rates = [t.rate for t in found]
        speed = statistics.median(t.gflops for t in found)
        cells = [f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"]
        cells.append(f"{speed:.0f}")
        for other in mine:
            ratios = [a.rate / b.rate for a, b in zip(turns[other], found, strict=True)]
            low, median, high = np.percentile(ratios, (25, 50, 75))
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)


def main(arguments: Arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        jax_worker = Program(sys.executable, "jax_worker", Path(folder))
        torch_worker = Program(arguments.torch_python, "torch_worker", Path(folder))
        workers = {name: jax_worker if name in OURS else torch_worker for name in (*RIVALS, *OURS)}
        print(
            f"jax {jax_worker.hello['jax']} on {jax_worker.hello['backend']}, "
            f"torch {torch_worker.hello['torch']}, {torch_worker.hello['threads']} threads"
        )
        agree(jax_worker.hello["check"], torch_worker.ask(do="check"))
        training: dict[str, list[Turn]] = {name: [] for name in arguments.contestants}
        encoding: dict[str, list[Turn]] = {name: [] for name in arguments.contestants}
        for number in range(arguments.rounds + 1):  # the first one is to warm up
            for name in arguments.contestants:
                one, other = turns(arguments, number, name, workers[name].ask)
                if number:
                    training[name].append(one)
                    encoding[name].append(other)
        print()
        table(training, "pairs")
        table(encoding, "texts")
        jax_worker.close()
        torch_worker.close()


def turns(
    arguments: Arguments, number: int, name: str, ask: Callable[..., dict[str, Any]]
) -> tuple[Turn, Turn]:
    """Of one contestant in one round: training and encoding."""
    taken = ask(do="take", name=name)
    if number == 0 and "compile_seconds" in taken:
        print(f"{name}: all shapes compiled in {taken['compile_seconds']:.0f} s")
    part = 4 if name == RECIPE else 1
    steps, texts = arguments.steps // part, arguments.texts // (2 * part)
    one = turn(ask, "pairs", do="train", name=name, first=number * steps, count=steps)
    other = turn(ask, "texts", do="encode", name=name, texts=texts)
    print(
        f"round {number}, {name}: {one.rate:.1f} pairs/s, {other.rate:.1f} texts/s, "
        f"fixed product {one.gflops:.0f} and {other.gflops:.0f} GFLOP/s",
        flush=True,
    )
    return one, other


if __name__ == "__main__":
    main(tyro.cli(Arguments))
