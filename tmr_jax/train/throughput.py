"""Throughput: pairs, real tokens and floating-point operations per second.

Operations are counted twice: by XLA for the compiled step, padding and recomputation included, and
by the arithmetic that the text encoder needs for the real tokens. Only the second gives the share
of the data sheet's peak that went into the work itself (MFU).
"""

from __future__ import annotations

import re
import statistics
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np

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
WINDOW = 200  # calls in the median of a step's time


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
    """Steps and the time they took, without other work between them (`pause`)."""

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
        """`work` is done now. The first after a pause is not counted: its start is not known."""
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
            self._sums += np.array(work, np.float64)
            self._steps.append((now - self._last) / work.steps)
        self._last = now

    def summary(self) -> dict[str, Any]:
        """Numbers for metrics.jsonl; fewer where nothing was timed."""
        summary: dict[str, Any] = {"compile_seconds": self._compiled, "programs": self._programs}
        if not self._seconds:
            return summary
        _, pairs, tokens, places, xla, text = (float(x) for x in self._sums / self._seconds)
        summary |= {
            "step_seconds": statistics.median(self._steps),
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
