"""The output of a run: a progress bar or plain lines, metrics.jsonl, loss.png."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from tmr_jax.data.files import replaced, write_text
from tmr_jax.data.workers import progress
from tmr_jax.models.runtime import METRICS, read_metrics, series

PICTURE = "loss.png"
PLAIN_EVERY_S = 20.0  # between two lines where there is no terminal
WINDOW = 50  # calls that a speed is averaged over
SHOWN = ("/hits@1", "/mrr")  # validation scores in the picture

Row = dict[str, Any]


class History:
    """metrics.jsonl: a line for each step and each validation; a kill costs at most the last line.

    A run that resumes after `step` drops the lines after it; `validated`: whether the validation at
    that very step still counts.
    """

    def __init__(self, run: Path, step: int, validated: bool) -> None:
        path = run / METRICS
        rows = [row for row in read_metrics(path) if _counts(row, step, validated)]
        write_text(path, "".join(map(_line, rows)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def add(self, row: Row) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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
    with replaced(run / PICTURE) as partial:
        figure.savefig(partial, dpi=110, format="png")


class Display:
    """Progress of `total` steps on the terminal; elsewhere a line every 20 seconds.

    Call `pause` after other work (compiling, validating, saving): speed is measured from there on.
    """

    def __init__(self, total: int, batch_size: int) -> None:
        self.console = Console(soft_wrap=True)
        self._total, self._batch = total, batch_size
        self._times: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # (time, steps done)
        self._printed = 0.0
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

    def pause(self) -> None:
        self._times.clear()

    def pairs_per_second(self) -> float:
        if len(self._times) < 2:
            return 0.0
        (start, before), (end, after) = self._times[0], self._times[-1]
        return (after - before) * self._batch / (end - start) if end > start else 0.0

    def clock(self, done: int) -> None:
        """`done` steps are done now."""
        self._times.append((time.perf_counter(), done))

    def step(self, row: Row) -> None:
        """A step is done; `row` has its metrics."""
        now = self._now(row)
        self._bar.update(self._task, completed=row["step"], now=now)
        if self._bar.disable and self._due(row["step"]):
            self._printed = time.perf_counter()
            self.print(f"step {row['step']}/{self._total}  {now}")

    def _due(self, step: int) -> bool:
        return step == self._total or time.perf_counter() - self._printed > PLAIN_EVERY_S

    def _now(self, row: Row) -> str:
        parts = [
            f"{name} {value:.3f}"
            for name, value in row.items()
            if name.startswith("loss") and isinstance(value, float)
        ]
        speed = self.pairs_per_second()
        if speed:
            left = (self._total - row["step"]) * self._batch / speed
            parts += [f"{speed:.0f} pairs/s", f"{duration(left)} left"]
        if row.get("skipped"):
            parts.append(f"{row['skipped']} steps skipped: not finite")
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
