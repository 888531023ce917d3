"""The output of a run: progress, speed, metrics.jsonl, loss.png."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from tmr_jax.data.files import replaced, write_text
from tmr_jax.data.workers import duration, progress
from tmr_jax.models.runtime import METRICS, read_metrics, series

TENSORBOARD = "tensorboard"
PLAIN_EVERY_S = 20.0  # between two lines where there is no terminal
SHOWN = ("/hits@1", "/mrr")  # validation scores in the picture

Row = dict[str, Any]


class History:
    """metrics.jsonl: a line for each step and each validation; a kill costs at most the last line.

    A run that resumes after `step` drops the lines after it; `validated`: whether the validation at
    that very step still counts. With `tensorboard` the folder of that name has the same numbers.
    """

    def __init__(self, run: Path, step: int, validated: bool, tensorboard: bool = False) -> None:
        path = run / METRICS
        rows = [row for row in read_metrics(path) if _counts(row, step, validated)]
        write_text(path, "".join(map(_line, rows)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._board = _board(run / TENSORBOARD, rows) if tensorboard else None

    def add(self, row: Row) -> None:
        self._file.write(_line(row))
        self._file.flush()
        if self._board is not None:
            _write_scalars(self._board, row)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, rows: list[Row]) -> Any:
    """A writer that starts with `rows`; old files would keep steps that a resumed run repeats."""
    from tensorboardX import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    board = SummaryWriter(str(folder))
    for row in rows:
        _write_scalars(board, row)
    return board


def _write_scalars(board: Any, row: Row) -> None:
    for name, value in row.items():
        if name != "step" and isinstance(value, int | float):
            board.add_scalar(name, value, row["step"])


def _counts(row: Row, step: int, validated: bool) -> bool:
    validation = any(name.startswith("validation/") for name in row)
    return row["step"] < step or (row["step"] == step and (validated or not validation))


def _line(row: Row) -> str:
    """JSON has no NaN: numbers that are not finite become null."""
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(clean, allow_nan=False) + "\n"


def draw_losses(run: Path) -> None:
    """loss.png: the loss and its parts by step, and the validation scores below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(run / METRICS)
    losses = series(rows, lambda name: name == "loss" or name.startswith("loss/"))
    scores = series(rows, lambda name: name.startswith("validation/") and name.endswith(SHOWN))
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, curves) in enumerate((("loss", losses), ("validation", scores)), 1):
        axes = figure.add_subplot(2, 1, place)
        for name, points in curves.items():
            mark = "o" if len(points) < 30 else None
            axes.plot(
                *zip(*points, strict=True), label=name, linewidth=1, marker=mark, markersize=3
            )
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize=7)
    with replaced(run / "loss.png") as partial:
        figure.savefig(partial, dpi=110, format="png")


class Display:
    """Progress of `total` steps on the terminal; elsewhere a line every 20 seconds."""

    def __init__(self, total: int, batch_size: int) -> None:
        self.console = Console(soft_wrap=True)
        self._total, self._batch, self._printed = total, batch_size, 0.0
        columns = MofNCompleteColumn(), TextColumn("{task.fields[now]}")
        hidden = not self.console.is_terminal
        self._bar = progress(*columns, console=self.console, disable=hidden)
        self._task = self._bar.add_task("training", total=total, now="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def step(self, row: Row) -> None:
        """A step is done; `row` has its metrics and, where it is known, the speed."""
        now = self._now(row)
        self._bar.update(self._task, completed=row["step"], now=now)
        due = row["step"] == self._total or time.perf_counter() - self._printed > PLAIN_EVERY_S
        if self._bar.disable and due:
            self._printed = time.perf_counter()
            self.print(f"step {row['step']}/{self._total}  {now}")

    def _now(self, row: Row) -> str:
        losses = {k: v for k, v in row.items() if k.startswith("loss") and isinstance(v, float)}
        parts = [f"{name} {value:.3f}" for name, value in losses.items()]
        if speed := row.get("pairs_per_second"):
            left = (self._total - row["step"]) * self._batch / speed
            parts += [f"{speed:.0f} pairs/s", f"{duration(left)} left"]
        if row.get("skipped"):
            parts.append(f"{row['skipped']} steps skipped: not finite")
        return "  ".join(parts)


# Speed

# Dense bfloat16 operations per second of one device, from its data sheet: without sparsity, and
# above what a power limit lets large products reach (about 790e12 on H100 and H200).

# By JAX's names of devices (jax/_src/tpu_info.py), as whole names, since "TPU v5" is v5p and
# "TPU v5 lite" is v5e. Source: cloud.google.com/tpu/docs, the page of each version, per chip.
TPU_PEAKS = {
    "TPU v4": 275e12,  # two cores, one device
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p: two cores, one device
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e; tpu_info.py says 920e12
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,  # Ironwood: a chip is two devices
}

# By words of the name, such as "NVIDIA H100 80GB HBM3"; the first match counts. Source: NVIDIA's
# data sheets, half of the figure where it is given with sparsity.
GPU_PEAKS = {
    "B200": 2250e12,  # DGX B200: 36e15 for eight, with sparsity
    "H200": 989e12,  # H200 SXM
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,  # H100 SXM
    "A100": 312e12,
    "A40": 150e12,
    "L4": 121e12,
    "T4": 65e12,  # float16: it has no bfloat16
}
MEDIAN, MEAN = 200, 50  # calls in the median time of a step, and in the mean speed


class Work(NamedTuple):
    """The work of some steps."""

    steps: int
    pairs: int
    tokens: int  # real ones
    places: int  # for tokens, padding included
    xla: float  # operations of the compiled program; 0 where XLA does not count them
    text: float  # operations of the text encoder on the real tokens


def peak_of(device_kind: str) -> float | None:
    """None for a device that is not in the tables, such as a CPU."""
    if device_kind in TPU_PEAKS:
        return TPU_PEAKS[device_kind]
    peaks = (peak for name, peak in GPU_PEAKS.items() if re.search(rf"\b{name}\b", device_kind))
    return next(peaks, None)


class Throughput:
    """Pairs, real tokens and operations per second, without other work between steps (`pause`).

    Operations are counted twice: by XLA for the compiled step, padding and recomputation included,
    and by the arithmetic that the text encoder needs for the real tokens. Only the second gives the
    share of the data sheet's peak that went into the work itself (MFU).
    """

    def __init__(self, devices: int, device_kind: str) -> None:
        peak = peak_of(device_kind)
        self._peak = None if peak is None else peak * devices
        self._last: float | None = None
        self._seconds, self._sums = 0.0, np.zeros(len(Work._fields))
        self._calls: deque[tuple[float, Work]] = deque(maxlen=MEDIAN)  # seconds, and the work
        self._compiled, self._programs = 0.0, 0

    def compiled(self, seconds: float) -> None:
        """One more program was compiled."""
        self._compiled, self._programs = self._compiled + seconds, self._programs + 1

    def pause(self) -> None:
        self._last = None

    def done(self, work: Work) -> None:
        """`work` is done now. The first after a pause is not counted: its start is not known."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
            self._sums += np.array(work, np.float64)
            self._calls.append((now - self._last, work))
        self._last = now

    def pairs_per_second(self) -> float:
        """The mean of the last calls; 0 where nothing was timed."""
        calls = list(self._calls)[-MEAN:]
        seconds = sum(seconds for seconds, _ in calls)
        return sum(work.pairs for _, work in calls) / seconds if seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """Numbers for metrics.jsonl; fewer where nothing was timed."""
        summary: dict[str, Any] = {"compile_seconds": self._compiled, "programs": self._programs}
        if not self._seconds:
            return summary
        _, pairs, tokens, places, xla, text = (float(x) for x in self._sums / self._seconds)
        summary |= {
            "step_seconds": statistics.median(s / work.steps for s, work in self._calls),
            "pairs_per_second": pairs,
            "real_tokens_per_second": tokens,
            "real_share": tokens / places if places else 1.0,
            "xla_flops": xla,
            "text_flops": text,
        }
        if self._peak is not None:
            summary |= {"mfu": text / self._peak, "peak_flops": self._peak}
        return summary


def sentence(summary: dict[str, Any]) -> str:
    """A summary as text."""
    compiled = f"{summary['programs']} programs compiled in {summary['compile_seconds']:.1f} s"
    if "pairs_per_second" not in summary:
        return compiled
    parts = [
        f"{summary['step_seconds'] * 1e3:.4g} ms a step",
        f"{summary['pairs_per_second']:.4g} pairs/s",
        f"{summary['real_tokens_per_second']:,.0f} tokens/s "
        f"({summary['real_share']:.0%} of the places are real)",
        f"{summary['xla_flops'] / 1e12:.3g} TFLOP/s by XLA's count, "
        f"{summary['text_flops'] / 1e12:.3g} on the text's real tokens",
    ]
    if "mfu" in summary:
        parts.append(f"MFU {summary['mfu']:.1%} of {summary['peak_flops'] / 1e12:.0f} TFLOP/s")
    return ", ".join([*parts, compiled])
