"""What training has shown of a test: refused, left out or counted, as its protocol declares.

In: what a run was trained on, of all its stages, and the pool it is to rank. Out: the pool with
the queries that may be asked, and what every score line says of them (MODELS.md A5.13).
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
from tmr_jax.data.files import write_text
from tmr_jax.data.pools import final_protocol
from tmr_jax.eval.protocols import Protocol
from tmr_jax.types import Pair, Pool, UserError

TRAINED_ON = "trained_on.json"
STAGES = "stages.json"


class Trained(NamedTuple):
    """What the training pairs of all stages hold."""

    molecules: frozenset[str]  # InChIKeys
    blocks: frozenset[str]  # their first blocks: connectivity
    texts: frozenset[str]  # digests


class Checked(NamedTuple):
    """A pool that may be ranked; a query that was left out is a candidate still."""

    pool: Pool
    record: dict[str, Any]  # what a score line says
    blocks: frozenset[str] | None  # `Trained.blocks`; None: training pairs are not at hand


def check(run: Path, config: Experiment, protocol: Protocol, pool: Pool) -> Checked:
    """Hold the protocol's rule of leakage against the run's training pairs.

    Where these are not at hand, the own split of a data set is ranked and says so; any other
    score claims that nothing of the test was trained on, and is refused.
    Errors: ValueError for a breach of the rule, with the number of queries, unless the protocol
    leaves them out; and where it leaves out all of them.
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
            f"expected the training pairs of {run}, to make sure that none is in the test of "
            f"{protocol.name}; got: {error}"
        ) from error
    asked = queried(pool)
    pool = _without_queries(pool, *leaked(pool, protocol, trained))
    left = queried(pool)
    if lost := len(asked) - len(left):
        _check_filtered(config, protocol, lost, len(asked))
    twins = int(in_training([pool.smiles[i] for i in left], trained.blocks).sum())
    found = {"queried": len(left), "in_training": twins, "left_out": lost}
    return Checked(pool, record | found, trained.blocks)


def check_data(run: Path, config: Experiment, protocol: Protocol) -> None:
    """Raises ValueError for a run that was trained on other data than the protocol is about."""
    names = sorted({data.name for data in data_seen(run, config.data)})
    if protocol.trained_on and names != [protocol.trained_on]:
        raise UserError(
            f"expected a run that was trained on {protocol.trained_on} for {protocol.name}; got "
            f"one trained on {' and '.join(names)}; choose another run or another protocol"
        )


def own_test(trained: DataConfig, data: DataConfig) -> str:
    """The test pool of the data that a run was trained on; "" where `data` have none of it."""
    if trained.name in ("table", "demo") and trained != data:
        return ""
    return final_protocol(trained)


def leaked(
    pool: Pool, protocol: Protocol, trained: Trained
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " C"]]:
    """Text queries and molecule queries whose pair training must not have shown, but has."""
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
    """The molecules of all pairs that are asked for on either side, in order."""
    asked = set(pool.text_target[pool.text_target >= 0]) | set(np.flatnonzero(pool.mol_target >= 0))
    return sorted(int(i) for i in asked)


def in_training(smiles: Sequence[str], blocks: frozenset[str]) -> Bool[np.ndarray, " n"]:
    """Which molecules share their connectivity with one of those blocks."""
    return np.array([first_block(molecule_key(s)) in blocks for s in smiles], bool)


def _without_queries(pool: Pool, text: np.ndarray, mol: np.ndarray) -> Pool:
    return pool._replace(
        text_target=np.where(text, -1, pool.text_target),
        mol_target=np.where(mol, -1, pool.mol_target),
    )


def _check_filtered(config: Experiment, protocol: Protocol, lost: int, asked: int) -> None:
    """Refuse what the protocol does not leave out, and a test that is left with no query."""
    if protocol.filter == "test side" and lost < asked:
        return
    if protocol.filter == "test side":
        raise UserError(
            f"expected queries of {protocol.name} that the run was not trained on; got none: "
            f"training has shown all {asked:,}; choose a test that was kept out of training"
        )
    if protocol.leakage == "molecule or text":
        raise UserError(
            f"expected no query of {protocol.name} whose molecule (InChIKey) or text was trained "
            f"on; got {lost:,} of {asked:,}; train without them (table: drop_column, drop_values)"
        )
    instead = "choose the data set's own pool"
    if protocol.trained_on:
        instead = f"let {protocol.name}/filtered leave these queries out"
    raise UserError(
        f"expected no training molecule in the test of {protocol.name}, which is foreign to "
        f"{config.data.name}; got {lost:,} of {asked:,} by InChIKey block 1; train on data without "
        f"them (table: drop_column, drop_values), or {instead}"
    )


# What a run was trained on


def trained_on(run: Path, own: DataConfig) -> Trained:
    """Keys of the training pairs of all stages, as the run keeps them in trained_on.json.

    Errors: ValueError where the run has no record of a stage and its pairs are not at hand.
    """
    kept = _kept_stages(run)
    stages = [_recorded(data, kept) for data in data_seen(run, own)]
    if stages != kept:
        write_text(run / TRAINED_ON, json.dumps(stages) + "\n")
    keys = frozenset(key for stage in stages for key in stage["molecules"])
    texts = frozenset(text for stage in stages for text in stage["texts"])
    return Trained(keys, frozenset(map(first_block, keys)), texts)


def keep_record(run: Path, own: DataConfig, pairs: Sequence[Pair], start: Path | None) -> None:
    """Writes what a run is about to be trained on, of all its stages, before the first step.

    What is in a user's file may be another thing tomorrow. A run that goes on after it has changed
    was trained on the old pairs, too.
    """
    stages, now = _kept_stages(start) if start else [], _record(own, pairs)
    before = [stage for stage in _kept_stages(run) if stage["data"] == now["data"]]
    write_text(run / TRAINED_ON, json.dumps([*stages, _joined([now, *before])]) + "\n")


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that was shown under one description of the data."""
    shown = {of: sorted({x for r in records for x in r[of]}) for of in ("molecules", "texts")}
    return {"data": records[0]["data"], **shown}


def _kept_stages(run: Path) -> list[dict[str, Any]]:
    path = run / TRAINED_ON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _recorded(data: DataConfig, kept: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of one stage; of runs that were trained before they kept one, it is made now."""
    made_of = _made_of(data)
    if there := [stage for stage in kept if stage["data"] == made_of]:
        return _joined(there)  # two stages may have read one file at two times
    from tmr_jax.data import load_pairs

    return _record(data, load_pairs(data))


def _record(data: DataConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
    from tmr_jax.data.identity import molecule_keys

    shown = [p for p in pairs if p.split == "train"]
    keys = molecule_keys([p.smiles for p in shown], "training molecules")
    texts = {digest(p.text) for p in shown}
    return {"data": _made_of(data), "molecules": sorted(set(keys)), "texts": sorted(texts)}


def _made_of(data: DataConfig) -> dict[str, Any]:
    return json.loads(to_json(Experiment(data=data)))["data"]


@functools.cache
def molecule_key(smiles: str) -> str:
    """The molecule's InChIKey; a refused molecule is compared as it is written."""
    from tmr_jax.data import identity
    from tmr_jax.data.features.graph import BadMolecule

    try:
        return identity.molecule_key(smiles)
    except BadMolecule:
        return f"SMI:{smiles}"


@functools.cache
def first_block(key: str) -> str:
    """Of an InChIKey all up to the first hyphen; of a SMILES that has none, its skeleton."""
    from tmr_jax.data.features.graph import BadMolecule
    from tmr_jax.data.identity import skeleton_key

    if not key.startswith("SMI:"):
        return key.split("-", 1)[0]
    try:
        return skeleton_key(key.removeprefix("SMI:"))
    except BadMolecule:
        return key


def digest(text: str) -> str:
    """Equal for equal texts, without keeping them."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


# Data of earlier stages


def earlier_data(run: Path) -> list[DataConfig]:
    """The data sets of the stages before this run's own: its encoder saw them."""
    path = run / STAGES
    if not path.is_file():
        return []
    stages = json.loads(path.read_text(encoding="utf-8"))
    return [from_json(json.dumps({"data": data})).data for data in stages]


def data_seen(run: Path, own: DataConfig) -> list[DataConfig]:
    """The data sets of all stages, each once: the run's own, then those before it."""
    return list(dict.fromkeys([own, *earlier_data(run)]))


def write_earlier_data(run: Path, start: Path) -> None:
    """What the run will have to say about molecules that it was trained on."""
    own = from_json((start / "config.json").read_text(encoding="utf-8")).data
    stages = [*earlier_data(start), own]
    write_text(run / STAGES, json.dumps([dataclasses.asdict(data) for data in stages]) + "\n")
