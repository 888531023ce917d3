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

from tmr_jax.config import DataConfig, Experiment, from_json, to_json
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
    Errors: ValueError for queries that break the rule, with their number, unless the protocol
    removes them; and if it removes all of them.
    """
    own = protocol.leakage == "molecule or text"
    record: dict[str, Any] = {"identity": "InChIKey block 1", "own_split": own}
    try:
        trained = trained_on(run, config.data)
    except ValueError as error:
        if own:
            unknown = {"queried": len(queried(pool)), "in_training": None, "left_out": None}
            return Checked(pool, record | unknown, None)
        raise UserError(
            f"expected the training pairs of {run}, to check that none is in the test of "
            f"{protocol.name}; got: {error}"
        ) from error
    queries = queried(pool)
    pool = _without_queries(pool, *leaked(pool, protocol, trained))
    left = queried(pool)
    if lost := len(queries) - len(left):
        _check_filtered(config, protocol, lost, len(queries))
    twins = int(in_training([pool.smiles[i] for i in left], trained.blocks).sum())
    counts = {"queried": len(left), "in_training": twins, "left_out": lost}
    return Checked(pool, record | counts, trained.blocks)


def check_data(run: Path, config: Experiment, protocol: Protocol) -> None:
    """ValueError for a run whose training data are not those of the protocol."""
    names = sorted({data.name for data in data_seen(run, config.data)})
    if protocol.trained_on and names != [protocol.trained_on]:
        raise UserError(
            f"expected a run that was trained on {protocol.trained_on} for {protocol.name}; got "
            f"one trained on {' and '.join(names)}; choose another run or another protocol"
        )


def own_test(trained: DataConfig, data: DataConfig) -> str:
    """The test pool of the data that a run was trained on; "" if `data` are others."""
    if trained.name in ("table", "demo") and trained != data:
        return ""
    return final_protocol(trained)


def leaked(
    pool: Pool, protocol: Protocol, trained: Trained
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " C"]]:
    """Text queries and molecule queries whose pair is in training, against the rule."""
    own = protocol.leakage == "molecule or text"
    mol = np.zeros(len(pool.smiles), bool)
    for i in queried(pool):
        key = molecule_key(pool.smiles[i])
        mol[i] = key in trained.molecules if own else first_block(key) in trained.blocks
    text = np.array([own and digest(t) in trained.texts for t in pool.texts])
    return (
        (pool.text_target >= 0) & (text | mol[pool.text_target]),
        (pool.mol_target >= 0) & (mol | text[pool.mol_target]),
    )


def queried(pool: Pool) -> list[int]:
    """The molecules of all pairs that are a query on either side, in order."""
    queries = set(pool.text_target[pool.text_target >= 0]) | set(
        np.flatnonzero(pool.mol_target >= 0)
    )
    return sorted(int(i) for i in queries)


def in_training(smiles: Sequence[str], blocks: frozenset[str]) -> Bool[np.ndarray, " n"]:
    """Which molecules have one of these InChIKey blocks."""
    return np.array([first_block(molecule_key(s)) in blocks for s in smiles], bool)


def _without_queries(pool: Pool, text: np.ndarray, mol: np.ndarray) -> Pool:
    return pool._replace(
        text_target=np.where(text, -1, pool.text_target),
        mol_target=np.where(mol, -1, pool.mol_target),
    )


def _check_filtered(config: Experiment, protocol: Protocol, lost: int, queries: int) -> None:
    """ValueError for queries that the protocol does not remove, and for a test without queries."""
    if protocol.filter == "test side" and lost < queries:
        return
    if protocol.filter == "test side":
        raise UserError(
            f"expected queries of {protocol.name} that the run was not trained on; got none: "
            f"all {queries:,} are in training; choose a test that is not"
        )
    if protocol.leakage == "molecule or text":
        raise UserError(
            f"expected no query of {protocol.name} whose molecule (InChIKey) or text was trained "
            f"on; got {lost:,} of {queries:,}; train without them (table: drop_column, drop_values)"
        )
    instead = "choose the data set's own pool"
    if protocol.trained_on:
        instead = f"rank {protocol.name}/filtered, which removes these queries"
    raise UserError(
        f"expected no training molecule in the test of {protocol.name}, which is foreign to "
        f"{config.data.name}; got {lost:,} of {queries:,} by InChIKey block 1; train on data "
        f"without them (table: drop_column, drop_values), or {instead}"
    )


# Training pairs of a run


def trained_on(run: Path, own: DataConfig) -> Trained:
    """Keys of the training pairs of all stages, as stored in the run's trained_on.json.

    Errors: ValueError if the run has no record of a stage and its pairs are missing.
    """
    stored = _stored_stages(run)
    stages = [_recorded(data, stored) for data in data_seen(run, own)]
    if stages != stored:
        write_json(run / TRAINED_ON, stages)
    keys = frozenset(key for stage in stages for key in stage["molecules"])
    texts = frozenset(text for stage in stages for text in stage["texts"])
    return Trained(keys, frozenset(map(first_block, keys)), texts)


def keep_record(run: Path, own: DataConfig, pairs: Sequence[Pair], start: Path | None) -> None:
    """Write the training pairs of all stages of a run, before the first step.

    The user's file may change later. A run that is resumed after a change was trained on the old
    pairs, too.
    """
    stages, now = _stored_stages(start) if start else [], _record(own, pairs)
    before = [stage for stage in _stored_stages(run) if stage["data"] == now["data"]]
    write_json(run / TRAINED_ON, [*stages, _joined([now, *before])])


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All pairs that were trained on under one description of the data."""
    shown = {of: sorted({x for r in records for x in r[of]}) for of in ("molecules", "texts")}
    return {"data": records[0]["data"], **shown}


def _stored_stages(run: Path) -> list[dict[str, Any]]:
    path = run / TRAINED_ON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _recorded(data: DataConfig, stored: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of one stage; computed now for runs that are older than these records."""
    description = _description(data)
    if same := [stage for stage in stored if stage["data"] == description]:
        return _joined(same)  # two stages may have read one file before and after a change
    from tmr_jax.data import load_pairs

    return _record(data, load_pairs(data))


def _record(data: DataConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
    from tmr_jax.data.features.similarity import molecule_keys

    shown = [p for p in pairs if p.split == "train"]
    keys = molecule_keys([p.smiles for p in shown], "training molecules")
    texts = {digest(p.text) for p in shown}
    return {"data": _description(data), "molecules": sorted(set(keys)), "texts": sorted(texts)}


def _description(data: DataConfig) -> dict[str, Any]:
    return json.loads(to_json(Experiment(data=data)))["data"]


@functools.cache
def molecule_key(smiles: str) -> str:
    """`key_or_text` of data/features/similarity.py, imported here because RDKit takes its time."""
    from tmr_jax.data.features.similarity import key_or_text

    return key_or_text(smiles)


@functools.cache
def first_block(key: str) -> str:
    """The connectivity block of an InChIKey; for an invalid molecule the skeleton of its SMILES."""
    from tmr_jax.data.features.graph import BadMolecule
    from tmr_jax.data.features.similarity import skeleton_key

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
    path = run / STAGES
    if not path.is_file():
        return []
    stages = json.loads(path.read_text(encoding="utf-8"))
    return [from_json(json.dumps({"data": data})).data for data in stages]


def data_seen(run: Path, own: DataConfig) -> list[DataConfig]:
    """The data sets of all stages, each once: the run's own, then earlier ones."""
    return list(dict.fromkeys([own, *earlier_data(run)]))


def write_earlier_data(run: Path, start: Path) -> None:
    """Store the data sets of `start` and of the stages before it in the run."""
    own = from_json((start / CONFIG).read_text(encoding="utf-8")).data
    stages = [*earlier_data(start), own]
    write_json(run / STAGES, [dataclasses.asdict(data) for data in stages])
