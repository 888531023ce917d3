"""Training molecules in a test set: counted for a data set's own split, refused for any other.

In: what a run was trained on, of all its stages, and the pool it is to rank. Out: what every score
line says of them (MODELS.md A5.13).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from tmr_jax.config import DataConfig, Experiment, to_json
from tmr_jax.generator import data_seen
from tmr_jax.training.rundir import write
from tmr_jax.types import Pool


def overlap(run: Path, config: Experiment, data: DataConfig, pool: Pool) -> dict[str, Any]:
    """How many queried molecules share the first block of their InChIKey with a training one.

    A data set's own split may share some, and says how many. Any other score claims that nothing
    of the test was trained on: one shared molecule is an error (MODELS.md A5.13).
    """
    asked = _queried(pool)
    own = own_split(config.data, data, pool.protocol)
    record = {"queried": len(asked), "identity": "InChIKey block 1", "own_split": own}
    try:
        stages = enumerate(data_seen(run, config.data))
        trained = set().union(*(_training_skeletons(run, d, i) for i, d in stages))
    except ValueError as error:
        if own:
            return record | {"in_training": None}
        raise ValueError(
            f"expected the training pairs of {run}, to make sure that none is in the test of "
            f"{pool.protocol}; got: {error}"
        ) from error
    shared = sum(_skeleton(smiles) in trained for smiles in asked)
    if shared and not own:
        raise ValueError(
            f"expected no training molecule in the test of {pool.protocol}, which is foreign to "
            f"{config.data.name}; got {shared:,} of {len(asked):,} by InChIKey block 1; train on "
            "data without them (table: drop_column, drop_values), or choose the data set's own pool"
        )
    return record | {"in_training": shared}


def own_split(trained: DataConfig, data: DataConfig, protocol: str) -> bool:
    """Whether the protocol's test is the published counterpart of the training split."""
    family, part = protocol.split("/")
    if family.startswith("chebi20-"):
        return trained.name == "chebi20"  # both versions divide the same molecules alike
    if family == "pcdes":
        division = part.removesuffix("-validation")
        return trained.name == "pcdes" and (trained.version or "file-order") == division
    return trained == data and family == trained.name and family != "open"


def _queried(pool: Pool) -> list[str]:
    asked = set(pool.text_target[pool.text_target >= 0]) | set(np.flatnonzero(pool.mol_target >= 0))
    return [pool.smiles[i] for i in sorted(asked)]


def _training_skeletons(run: Path, data: DataConfig, stage: int) -> set[str]:
    """Keys of the training molecules: some 30 s for ChEBI-20, so the run keeps them."""
    path = run / f"train_skeletons{f'-{stage}' if stage else ''}.json"
    made_of = json.loads(to_json(Experiment(data=data)))["data"]
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["data"] == made_of:
            return set(kept["skeletons"])
    from rich.console import Console
    from rich.progress import track

    from tmr_jax.data import load_pairs

    smiles = list(dict.fromkeys(p.smiles for p in load_pairs(data) if p.split == "train"))
    watched = track(smiles, "training molecules", console=Console(stderr=True))
    keys = {_skeleton(s) for s in watched}
    content = {"data": made_of, "skeletons": sorted(keys)}
    write(path, json.dumps(content, indent=2) + "\n")
    return keys


@functools.cache
def _skeleton(smiles: str) -> str:
    """The molecule's first block; a refused molecule is compared as it is written."""
    from tmr_jax.features.graph import BadMolecule
    from tmr_jax.features.identity import skeleton_key

    try:
        return skeleton_key(smiles)
    except BadMolecule:
        return f"SMI:{smiles}"
