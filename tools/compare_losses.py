"""Whether two precisions learn alike: python tools/compare_losses.py RUN OTHER SEED [SEED ...]

RUN and OTHER are run directories that differ in what is asked about, e.g. --train.precision; each
SEED is RUN again with another --train.seed. The mean loss over windows of steps of RUN and OTHER is
compared with what seeds alone make of it: the largest difference of two of RUN and the SEEDs.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro


@dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """RUN OTHER SEED ..."""
    windows: int = 8
    out: Path | None = None
    """Also draw the curves into this file."""


def losses(run: Path) -> np.ndarray:
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return np.array([row["loss"] for row in rows if "loss" in row])


def main(told: Arguments) -> None:
    if len(told.runs) < 3:
        raise SystemExit("expected RUN OTHER SEED ..., of which one SEED at least")
    curves = [losses(run) for run in told.runs]
    steps = min(map(len, curves))
    means = [np.array([w.mean() for w in np.array_split(c[:steps], told.windows)]) for c in curves]
    run, other, *seeds = means
    ends = np.cumsum([len(w) for w in np.array_split(np.arange(steps), told.windows)])
    print(f"mean loss of windows, {steps} steps: {', '.join(map(str, told.runs))}")
    for i, end in enumerate(ends):
        noise = max(abs(a[i] - b[i]) for a, b in itertools.combinations([run, *seeds], 2))
        shown = "  ".join(f"{m[i]:.4f}" for m in means)
        print(
            f"to step {end:5}: {shown}   difference {abs(run[i] - other[i]):.4f}, seeds {noise:.4f}"
        )
    if told.out:
        draw(told.runs, curves, steps, told.out)


def draw(runs: tuple[Path, ...], curves: list[np.ndarray], steps: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5))
    width = max(steps // 50, 1)
    for run, curve in zip(runs, curves, strict=True):
        smooth = np.convolve(curve[:steps], np.ones(width) / width, "valid")
        axis.plot(np.arange(len(smooth)) + width, smooth, label=run.name, linewidth=1)
    axis.set_xlabel("step")
    axis.set_ylabel(f"loss, mean of {width}")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
