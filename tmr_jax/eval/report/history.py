"""The curves of training: metrics.jsonl of a run as series of points."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a killed run left unfinished is skipped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def series(
    history: list[dict[str, Any]], keep: Callable[[str], bool]
) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) of every finite number whose name passes `keep`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in history:
        step = row.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and keep(name) and is_number and math.isfinite(value):
                curves.setdefault(name, []).append((float(step), float(value)))
    return curves
