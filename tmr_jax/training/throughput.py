"""What a run makes of its hardware: pairs, real tokens and floating-point operations a second.

Two counts of operations: XLA's own of the compiled step, padding and recomputation included, and
the arithmetic of what the text encoder has to do for the real tokens. Only the second says how
much of the hardware's peak went into the work itself (MFU).
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np

# Dense bfloat16 operations a second of one device, by a part of the name that jax gives it. Of
# H100 and H200 what their power limit lets large products reach, the bound that issue and README
# count by; of the others the data sheet's.
PEAKS = {
    "H200": 790e12,
    "H100": 790e12,
    "A100": 312e12,
    "A40": 150e12,
    "L4": 121e12,
    "T4": 65e12,
    "v6 lite": 918e12,
    "v5p": 459e12,
    "v5 lite": 197e12,
    "v4": 275e12,
}
WINDOW = 200  # calls that the median of a step's time is of


class Work(NamedTuple):
    """What some steps had to do."""

    steps: int
    pairs: int
    tokens: int  # real ones
    places: int  # for tokens, padding included
    xla: float  # operations of the compiled program; 0 where XLA does not count them
    text: float  # operations of the text encoder on the real tokens


def peak_of(device_kind: str) -> float | None:
    """None for a device that the table does not know, such as a CPU."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


class Throughput:
    """Steps and the time they took, without what came between them (`pause`)."""

    def __init__(self, devices: int, device_kind: str) -> None:
        peak = peak_of(device_kind)
        self._peak = None if peak is None else peak * devices
        self._last: float | None = None
        self._seconds, self._sums = 0.0, np.zeros(len(Work._fields))
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._compiled, self._programs = 0.0, 0

    def compiled(self, seconds: float) -> None:
        """One more program was compiled."""
        self._compiled, self._programs = self._compiled + seconds, self._programs + 1

    def pause(self) -> None:
        self._last = None

    def done(self, work: Work) -> None:
        """This was ready now. The first after a pause counts for nothing: when it began is not
        known."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
            self._sums += np.array(work, np.float64)
            self._steps.append((now - self._last) / work.steps)
        self._last = now

    def summary(self) -> dict[str, Any]:
        """Numbers for metrics.jsonl; fewer where nothing was timed."""
        found: dict[str, Any] = {"compile_seconds": self._compiled, "programs": self._programs}
        if not self._seconds:
            return found
        _, pairs, tokens, places, xla, text = (float(x) for x in self._sums / self._seconds)
        found |= {
            "step_seconds": statistics.median(self._steps),
            "pairs_per_second": pairs,
            "real_tokens_per_second": tokens,
            "real_share": tokens / places if places else 1.0,
            "xla_flops": xla,
            "text_flops": text,
        }
        if self._peak is not None:
            found |= {"mfu": text / self._peak, "peak_flops": self._peak}
        return found


def sentence(found: dict[str, Any]) -> str:
    """A summary in words."""
    said = f"{found['programs']} programs compiled in {found['compile_seconds']:.1f} s"
    if "pairs_per_second" not in found:
        return said
    parts = [
        f"{found['step_seconds'] * 1e3:.4g} ms a step",
        f"{found['pairs_per_second']:.4g} pairs/s",
        f"{found['real_tokens_per_second']:,.0f} tokens/s ({found['real_share']:.0%} of the places "
        "are real)",
        f"{found['xla_flops'] / 1e12:.3g} TFLOP/s by XLA's count, {found['text_flops'] / 1e12:.3g} "
        "on the text's real tokens",
    ]
    if "mfu" in found:
        parts.append(f"MFU {found['mfu']:.1%} of {found['peak_flops'] / 1e12:.0f} TFLOP/s")
    return ", ".join([*parts, said])
