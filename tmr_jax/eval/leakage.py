"""Leakage of a test into training: an error, removed or counted, as the protocol declares.

In: the training pairs of all stages of a run, and the pool to rank. Out: the pool without the
queries that leak, and the record of every score (docs/papers.md#leakage).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from tmr_jax.config import DataConfig, Experiment, from_json
from tmr_jax.data import load_pairs
from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.data.features.similarity import key_or_text, molecule_keys, skeleton_key
from tmr_jax.data.files import write_json
from tmr_jax.data.pools import final_protocol
from tmr_jax.eval.protocols import Protocol
from tmr_jax.models.runtime import CONFIG
from tmr_jax.types import Pair, Pool, UserError

TRAINED_ON = "trained_on.json"
STAGES = "stages.json"


class Trained(NamedTuple):
    """What the training pairs of all stages contain."""

    molecules: frozenset[str]  # InChIKeys
    blocks: frozenset[str]  # their first blocks: connectivity
    texts: frozenset[str]  # digests


class Checked(NamedTuple):
    """A pool that may be ranked; the target of a removed query stays a candidate."""

    pool: Pool
    record: dict[str, Any]  # for results.json
    blocks: frozenset[str] | None  # `Trained.blocks`; None: unknown


def check(run: Path, config: Experiment, protocol: Protocol, pool: Pool) -> Checked:
    """Apply the protocol's rule of leakage to the run's training pairs.

    If the training pairs are missing, a data set's own split is ranked and its record says so; for
    any other pool this is an error, since its score claims that nothing of it was trained on.
    Errors: UserError for queries that break the rule, with their number, unless the protocol
    removes them; and if it removes all of them.
    """
    own_split = protocol.leakage == "molecule or text"
    record: dict[str, Any] = {"identity": "InChIKey block 1", "own_split": own_split}
    try:
        trained = trained_on(run, config.data)
    except ValueError as error:
        if own_split:
            unknown = {"queried": len(queried(pool)), "in_training": None, "left_out": None}
            return Checked(pool, record | unknown, None)
        raise UserError(
            f"expected the training pairs of {run}, to check that none is in the test of "
            f"{protocol.name}; got: {error}"
        ) from error
    queries = queried(pool)
    text, mol = leaked(pool, protocol, trained)
    pool = pool._replace(
        text_target=np.where(text, -1, pool.text_target),
        mol_target=np.where(mol, -1, pool.mol_target),
    )
    remaining = queried(pool)
    if removed := len(queries) - len(remaining):
        _check_filtered(config, protocol, removed, len(queries))
    twins = int(in_training([pool.smiles[i] for i in remaining], trained.blocks).sum())
    counts = {"queried": len(remaining), "in_training": twins, "left_out": removed}
    return Checked(pool, record | counts, trained.blocks)


def check_data(run: Path, config: Experiment, protocol: Protocol) -> None:
    """UserError for a run whose training data are not those of the protocol."""
    names = sorted({data.name for data in data_seen(run, config.data)})
    if protocol.trained_on and names != [protocol.trained_on]:
        raise UserError(
            f"expected a run that was trained on {protocol.trained_on} for {protocol.name}; got "
            f"one trained on {' and '.join(names)}; choose another run or another protocol"
        )


def own_test(trained: DataConfig, data: DataConfig) -> str:
    """The test pool of the data that a run was trained on; "" if `data` are others."""
    if trained.name == "table" and trained != data:
        return ""
    return final_protocol(trained)


def leaked(
    pool: Pool, protocol: Protocol, trained: Trained
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " C"]]:
    """Text queries and molecule queries whose pair is in training, against the rule."""
    whole_key = protocol.leakage == "molecule or text"
    mol = np.zeros(len(pool.smiles), bool)
    for i in queried(pool):
        key = molecule_key(pool.smiles[i])
        mol[i] = key in trained.molecules if whole_key else first_block(key) in trained.blocks
    text = np.array([whole_key and digest(t) in trained.texts for t in pool.texts])
    return (
        (pool.text_target >= 0) & (text | mol[pool.text_target]),
        (pool.mol_target >= 0) & (mol | text[pool.mol_target]),
    )


def queried(pool: Pool) -> list[int]:
    """The molecules of all pairs that are a query on either side, in order."""
    texts, molecules = pool.text_target[pool.text_target >= 0], pool.mol_target >= 0
    return np.union1d(texts, np.flatnonzero(molecules)).tolist()


def in_training(smiles: Sequence[str], blocks: frozenset[str]) -> Bool[np.ndarray, " n"]:
    """Which molecules have one of these InChIKey blocks."""
    return np.array([first_block(molecule_key(s)) in blocks for s in smiles], bool)


def _check_filtered(config: Experiment, protocol: Protocol, removed: int, queries: int) -> None:
    """UserError for queries that the protocol does not remove, and for a test without queries."""
    if protocol.filter == "test side" and removed < queries:
        return
    if protocol.filter == "test side":
        raise UserError(
            f"expected queries of {protocol.name} that the run was not trained on; got none: "
            f"all {queries:,} are in training; choose a test that is not"
        )
    if protocol.leakage == "molecule or text":
        raise UserError(
            f"expected no query of {protocol.name} whose molecule (InChIKey) or text was trained "
            f"on; got {removed:,} of {queries:,}; train without them (table: drop_column, "
            "drop_values)"
        )
    instead = "choose the data set's own pool"
    if protocol.trained_on:
        instead = f"rank {protocol.name}/filtered, which removes these queries"
    raise UserError(
        f"expected no training molecule in the test of {protocol.name}, which is foreign to "
        f"{config.data.name}; got {removed:,} of {queries:,} by InChIKey block 1; train on data "
        f"without them (table: drop_column, drop_values), or {instead}"
    )


# Training pairs of a run


def trained_on(run: Path, data: DataConfig) -> Trained:
    """Keys of the training pairs of all stages, as stored in the run's trained_on.json.

    Errors: UserError if the run has no record of a stage and its pairs are missing.
    """
    stored = _stages(run / TRAINED_ON)
    stages = [_recorded(one, stored) for one in data_seen(run, data)]
    if stages != stored:
        write_json(run / TRAINED_ON, stages)
    keys = frozenset(key for stage in stages for key in stage["molecules"])
    texts = frozenset(text for stage in stages for text in stage["texts"])
    return Trained(keys, frozenset(map(first_block, keys)), texts)


def keep_record(run: Path, data: DataConfig, pairs: Sequence[Pair], start: Path | None) -> None:
    """Write the training pairs of all stages of a run, before the first step.

    The user's file may change later. A run that is resumed after a change was trained on the old
    pairs, too.
    """
    stages, now = _stages(start / TRAINED_ON) if start else [], _record(data, pairs)
    before = [stage for stage in _stages(run / TRAINED_ON) if _data(stage["data"]) == data]
    write_json(run / TRAINED_ON, [*stages, _joined([*before, now])])


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All pairs that were trained on under one description of the data."""
    keys = {kind: sorted({k for r in records for k in r[kind]}) for kind in ("molecules", "texts")}
    return {"data": records[0]["data"], **keys}


def _stages(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _recorded(data: DataConfig, stored: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of one stage; computed now for runs that are older than these records."""
    if same := [stage for stage in stored if _data(stage["data"]) == data]:
        return _joined(same)  # two stages may have read one file before and after a change
    return _record(data, load_pairs(data))


def _record(data: DataConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
    pairs = [p for p in pairs if p.split == "train"]
    keys = molecule_keys([p.smiles for p in pairs], "training molecules")
    texts = {digest(p.text) for p in pairs}
    records = {"molecules": sorted(set(keys)), "texts": sorted(texts)}
    return {"data": dataclasses.asdict(data), **records}


def _data(description: dict[str, Any]) -> DataConfig:
    """The data that a record describes, perhaps in the fields of an older version."""
    return from_json(json.dumps({"data": description})).data


molecule_key = functools.cache(key_or_text)  # protocols share molecules


@functools.cache
def first_block(key: str) -> str:
    """The connectivity block of an InChIKey; for an invalid molecule the skeleton of its SMILES."""
    if not key.startswith("SMI:"):
        return key.split("-", 1)[0]
    try:
        return skeleton_key(key.removeprefix("SMI:"))
    except BadMolecule:
        return key


def digest(text: str) -> str:
    """A digest: equal for equal texts, without storing them."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


# Data of earlier stages


def earlier_data(run: Path) -> list[DataConfig]:
    """The data sets of earlier stages: the encoder was trained on them."""
    return [_data(stage) for stage in _stages(run / STAGES)]


def data_seen(run: Path, data: DataConfig) -> list[DataConfig]:
    """The data sets of all stages, each once: the run's own, then earlier ones."""
    return list(dict.fromkeys([data, *earlier_data(run)]))


def write_earlier_data(run: Path, start: Path) -> None:
    """Store the data sets of `start` and of the stages before it in the run."""
    stages = [*earlier_data(start), from_json((start / CONFIG).read_text(encoding="utf-8")).data]
    write_json(run / STAGES, [dataclasses.asdict(data) for data in stages])
