"""Every train step is lowered for TPU on a machine that has none: python -m tools.check_lowering

Toys of the published experiments, built for the backend "tpu": what JAX cannot express there, the
Pallas kernels included, is an error here. Nothing is compiled, no parameter is made. Prints the
number of trips of each loop of a step.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import jax
import numpy as np

from tmr_jax.config import Experiment, SecondOrderConfig, load_experiment
from tmr_jax.data.batching import declare_shapes, make_batch
from tmr_jax.data.tables import TextTable, apply_vocabulary, build_vocabulary, molecule_table
from tmr_jax.models.build import build_model
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.state import STATISTICS, joined, new_state, without
from tmr_jax.train.optim import build_adversary, build_optimizer
from tmr_jax.train.step import train_step

SMILES = ("CCO", "C", "c1ccccc1", "CC(=O)NC", "[Na+].[Cl-]", "CCN")
LENGTHS = (3, 16, 5, 1, 9, 7)
# Heads of 64 numbers, as SciBERT's, so that kernels see the form that they are for.
BERT = BertConfig(60, 128, 2, 2, 256, max_positions=16, pooler=False)
ROWS = 3  # that packed texts lie in


def experiment(name: str) -> Experiment:
    """A published experiment with small widths: dual, difftmr, difftmr random_step, mbank, or one
    of them with packed texts in bfloat16."""
    kind, *more = name.split()
    config = load_experiment("mbank_chebi" if kind == "mbank" else "difftmr_chebi")
    objective = "random_step" if "random_step" in more else "all_steps"
    model = dataclasses.replace(
        config.model,
        name=kind,
        dim=24,
        graph=dataclasses.replace(config.model.graph, width=32),
        hdan=dataclasses.replace(config.model.hdan, objective=objective),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0),
    )
    train = config.train
    if "packed" in more:
        train = dataclasses.replace(train, texts="packed", precision="bfloat16")
    features = dataclasses.replace(config.features, max_tokens=16)
    return dataclasses.replace(config, model=model, train=train, features=features)


def batch_of(packed: bool) -> tuple[Any, int]:
    """Six pairs, and how many kinds of atoms they know."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    tokens = np.random.default_rng(0).integers(1, BERT.vocab_size, offsets[-1]).astype(np.int32)
    text = TextTable(tokens, offsets, np.zeros(len(LENGTHS), bool))
    mol = molecule_table(SMILES, "morgan1", "none")[0]
    vocabulary = build_vocabulary(mol)
    mol, _ = apply_vocabulary(mol, vocabulary)
    shapes = declare_shapes(mol, (BERT.max_positions,), len(SMILES))
    if packed:
        shapes = shapes._replace(rows=(ROWS, len(SMILES)))
    rows = np.arange(len(SMILES))
    return make_batch(rows, text, mol, rows, rows, shapes, 0), len(vocabulary.identifiers)


def built(config: Experiment, platform: str) -> tuple[Any, Any, Any]:
    """The model, the shapes of its parameters, and a batch."""
    batch, kinds = batch_of(config.train.texts == "packed")
    sizes = (kinds + 1,), ()
    model = build_model(config.model, config.features, config.train, BERT, *sizes, backend=platform)
    return model, joined(jax.eval_shape(model.init, jax.random.key(0), batch)), batch


def lowered(name: str, platform: str = "tpu") -> str:
    """The train step of `experiment(name)` as StableHLO for a platform."""
    config = experiment(name)
    model, params, batch = built(config, platform)
    rivals = model.adversary
    rival = build_adversary(config.optim) if rivals else None
    key = jax.eval_shape(lambda: jax.random.key(0))
    trained = without(params, rivals | {STATISTICS})
    optimizer = build_optimizer(config.optim, 1000, trained, model.groups)
    state = jax.eval_shape(lambda p: new_state(p, optimizer, frozenset(), rival, rivals), params)
    step = jax.jit(train_step(model, optimizer, frozenset(), rival))
    return step.trace(state, batch, key).lower(lowering_platforms=(platform,)).as_text()


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


PROGRAMS = (
    "dual",
    "difftmr",
    "difftmr random_step",
    "mbank",
    "dual packed",
    "difftmr packed",
    "mbank packed",
)


def main() -> int:
    """Exit status 0; what does not lower is an exception."""
    for name in PROGRAMS:
        text = lowered(name)
        print(f"{name}: {len(text.splitlines()):,} lines, loops of {trips(text)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
