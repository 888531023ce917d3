"""Eight pairs, one with an invalid SMILES and some equal, and an experiment to read them by."""

import dataclasses
from pathlib import Path

from tmr_jax.config import load_experiment
from tmr_jax.types import Pair

TINY = load_experiment(str(Path(__file__).parent / "experiments" / "tiny.py"))
TINY = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, batch_size=4))
SMILES = ("CCO", "OCC", "c1ccccc1", "C1CC", "C[C@H](O)F", "C[C@@H](O)F", "CO", "CCO")
PAIRS = [Pair(f"p{i}", f"molecule number {i % 7}", s, "train") for i, s in enumerate(SMILES)]


def with_section(name, **changes):
    return dataclasses.replace(TINY, **{name: dataclasses.replace(getattr(TINY, name), **changes)})
