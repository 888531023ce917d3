"""Every train step is lowered for TPU on a machine that has none: python -m tools.check_lowering

Toys of the published experiments, built for the backend "tpu": what JAX cannot express there, the
Pallas kernels included, is an error here. Nothing is compiled, no parameter is made. Prints the
number of trips of each loop of a step.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import jax
import numpy as np

from tmr_jax.config import Experiment
from tmr_jax.models.layers.bert import BertConfig
from tools.bench import gpu as bench
from tools.bench.common import altered

PAIRS, WIDTH = 6, 16
# Heads of 64 numbers, as SciBERT's, so that kernels see the form that they are for.
BERT = BertConfig(60, 128, 2, 2, 256, max_positions=WIDTH, pooler=False)
SIZES = bench.Sizes(BERT, WIDTH, *(PAIRS,) * 6)
PROGRAMS = (
    "dual",
    "difftmr",
    "difftmr random_step",
    "mbank",
    "dual packed",
    "difftmr packed",
    "mbank packed",
)


def experiment(name: str) -> Experiment:
    """A published experiment with small widths: dual, difftmr, difftmr random_step, mbank, or one
    of them with packed texts in bfloat16."""
    kind, *more = name.split()
    texts = "packed" if "packed" in more else "buckets"
    kind += "_random" if "random_step" in more else ""
    changes = {
        "model.dim": 24,
        "model.graph.width": 32,
        "model.second_order.u2u": 1.0,
        "model.second_order.u2c": 1.0,
        "train.precision": "bfloat16" if texts == "packed" else "float32",
    }
    return altered(bench.experiment(texts, PAIRS, WIDTH, kind), changes)


def built(config: Experiment, platform: str) -> tuple[Any, Any, Any]:
    """The model, the shapes of its parameters, and a batch."""
    task = bench.work(SIZES, config.train.texts, PAIRS, config, platform)
    batch = task.data.batch(np.arange(PAIRS), 0)
    return task.model, bench.parameters(task, shapes=True), batch


def lowered(name: str, platform: str = "tpu") -> str:
    """The train step of `experiment(name)` as StableHLO for a platform."""
    config = experiment(name)
    model, params, batch = built(config, platform)
    step, state = bench.step_of(config, model, params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.jit(step).trace(state, batch, key)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def trips(text: str) -> list[int]:
    """How often each `stablehlo.while` of a program goes round, in the order of the text: what its
    condition compares the counter with; 0 where that is no constant."""
    constants, found, condition = {}, [], False
    for line in text.splitlines():
        if constant := re.search(r"(%\w+) = stablehlo\.constant dense<(\d+)> : tensor<u?i", line):
            constants[constant[1]] = int(constant[2])
        if "stablehlo.while" in line:
            found.append(0)
            condition = True
        elif line.strip().startswith("} do {"):
            condition = False
        elif condition and (compared := re.search(r"stablehlo\.compare\s+LT, %\w+, (%\w+)", line)):
            found[-1] = constants.get(compared[1], 0)
    return found


def main() -> int:
    """Exit status 0; what does not lower is an exception."""
    for name in PROGRAMS:
        text = lowered(name)
        print(f"{name}: {len(text.splitlines()):,} lines, loops of {trips(text)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
