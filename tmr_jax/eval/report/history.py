"""The curves of training: metrics.jsonl of a run as series of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


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
