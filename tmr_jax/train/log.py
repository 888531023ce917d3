"""What a user sees of a run: a progress bar or plain lines, metrics.jsonl, loss.png."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tmr_jax.data.files import replaced, write_text

METRICS, PICTURE = "metrics.jsonl", "loss.png"
PLAIN_EVERY_S = 20.0  # between two lines where there is no terminal
WINDOW = 50  # calls that a speed is the mean of
SHOWN = ("/hits@1", "/mrr")  # validation scores in the picture

Row = dict[str, Any]


class History:
    """metrics.jsonl: one line a step, one line an evaluation; a kill costs the last line at most.

    A run that goes on from `step` forgets what came after it; `evaluated` says whether the
    evaluation at that very step still counts.
    """

    def __init__(self, run: Path, step: int, evaluated: bool) -> None:
        path = run / METRICS
        kept = [row for row in read_rows(path) if _counts(row, step, evaluated)]
        write_text(path, "".join(map(_line, kept)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def add(self, row: Row) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _counts(row: Row, step: int, evaluated: bool) -> bool:
    return row["step"] < step or (row["step"] == step and (evaluated or not is_evaluation(row)))


def is_evaluation(row: Row) -> bool:
    return any(name.startswith("validation/") for name in row)


def _line(row: Row) -> str:
    """JSON has no NaN: a number that is not finite is null there."""
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(clean, allow_nan=False) + "\n"


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def draw_losses(run: Path) -> None:
    """loss.png: the loss and its parts by step, and the validation scores below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_rows(run / METRICS)
    losses = _curves(rows, lambda name: name == "loss" or name.startswith("loss/"))
    scores = _curves(rows, lambda name: name.startswith("validation/") and name.endswith(SHOWN))
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, curves) in enumerate((("loss", losses), ("validation", scores)), 1):
        axes = figure.add_subplot(2, 1, place)
        for name, (steps, values) in curves.items():
            mark = "o" if len(steps) < 30 else None
            axes.plot(steps, values, label=name, linewidth=1, marker=mark, markersize=3)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize=7)
    with replaced(run / PICTURE) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _curves(rows: Iterable[Row], shown: Any) -> dict[str, tuple[list[int], list[float]]]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if shown(name) and isinstance(value, float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return found


class Display:
    """Progress of `total` steps on the terminal; where there is none, a line now and then.

    `pause` says that something else took time (compiling, evaluating, saving): speed is measured
    anew from there.
    """

    def __init__(self, total: int, batch_size: int) -> None:
        self.console = Console(soft_wrap=True)
        self._total, self._batch = total, batch_size
        self._times: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # when how many were done
        self._said = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, now="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def pause(self) -> None:
        self._times.clear()

    def pairs_per_second(self) -> float:
        if len(self._times) < 2:
            return 0.0
        (start, before), (end, after) = self._times[0], self._times[-1]
        return (after - before) * self._batch / (end - start) if end > start else 0.0

    def clock(self, done: int) -> None:
        """So many steps are done by now."""
        self._times.append((time.perf_counter(), done))

    def step(self, row: Row) -> None:
        """One step is done, `row` its metrics."""
        now = self._now(row)
        self._bar.update(self._task, completed=row["step"], now=now)
        if self._bar.disable and self._due(row["step"]):
            self._said = time.perf_counter()
            self.say(f"step {row['step']}/{self._total}  {now}")

    def _due(self, step: int) -> bool:
        return step == self._total or time.perf_counter() - self._said > PLAIN_EVERY_S

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
