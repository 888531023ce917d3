"""What an evaluation ranks, by protocol name: data set, version of the text, and pool.

Out: a `Pool` of texts and molecules with the index of each one's partner; -1 marks an item that is
a candidate but no query. A pool whose texts are only queries (the training texts are missing)
ranks text to molecule only: its mol_target is -1 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tmr_jax.config import DataConfig
from tmr_jax.data import DEFAULT_VERSIONS, load_pairs
from tmr_jax.types import Pair, Pool, UserError, did_you_mean

# validation of `open` is ChEBI-20's real one, neither trained on (flag cv) nor tested
OPEN_VALIDATION = "chebi20-molt5/validation"
NAMED = 10  # missing rows of a pool that an error names
# Pools by name, with the published number of candidates; 0: none is published.
POOLS = {
    "chebi/test": 0,
    "chebi/validation": 0,
    "chebi20-text2mol/full-33010": 33_010,
    "chebi20-text2mol/test-split": 3_301,
    "chebi20-text2mol/validation": 0,
    "chebi20-molt5/full-33008": 33_008,
    "chebi20-molt5/test-split": 3_300,
    "chebi20-molt5/validation": 0,
    "chebi20-molt5/first-sentence": 3_300,
    "chebi20-molt5/clause": 3_300,
    "chebi20-molt5/validation-first-sentence": 0,
    "chebi20-molt5/validation-clause": 0,
    "pcdes/file-order": 3_000,
    "pcdes/file-order-validation": 0,
    "pcdes/scaffold": 2_993,
    "pcdes/scaffold-validation": 0,
    "open/validation": 0,
    "table/test": 0,
    "table/validation": 0,
}
SHORT = ("first-sentence", "clause")  # ends of the names of pools whose queries are cut from texts


def load_pool(protocol: str, config: DataConfig) -> Pool:
    """The pool of a protocol; `config` matters for table only.

    Raises UserError for an unknown protocol (with the nearest known ones), for a part that is
    missing, and for an empty pool.
    """
    if protocol not in POOLS:
        raise UserError(
            f"expected a protocol; got {protocol!r}; {did_you_mean(protocol, list(POOLS))}"
        )
    family, pool = protocol.split("/")
    if family.startswith("chebi20-"):
        loaded = _chebi20(family.removeprefix("chebi20-"), pool, protocol)
    elif family == "pcdes":
        loaded = _pcdes(pool, protocol)
    elif family == "open":
        loaded = load_pool(OPEN_VALIDATION, config)._replace(protocol=protocol)
    else:
        source = DataConfig("chebi") if family == "chebi" else config
        if source.name != family:
            raise UserError(
                f"expected data of the kind {family!r} for protocol {protocol!r}; "
                f"got --data.name {config.name}; set --data.name {family}"
            )
        loaded = matched(protocol, [p for p in load_pairs(source) if p.split == pool])
    if not loaded.texts or not loaded.smiles:
        raise UserError(
            f"expected at least one pair in {protocol}; got none; "
            "give that split a share of the rows"
        )
    return loaded


def validation_protocol(config: DataConfig) -> str:
    """The protocol that training validates on: the configured one, or the data set's own."""
    if config.validation:
        return config.validation
    version = config.version or DEFAULT_VERSIONS.get(config.name)
    named = {"chebi20": f"chebi20-{version}/validation", "pcdes": f"pcdes/{version}-validation"}
    return named.get(config.name, f"{config.name}/validation")


def final_protocol(config: DataConfig) -> str:
    """The test pool of the data set itself, or ""."""
    version = config.version or DEFAULT_VERSIONS.get(config.name)
    named = {"chebi20": f"chebi20-{version}/test-split", "pcdes": f"pcdes/{version}", "open": ""}
    name = named.get(config.name, f"{config.name}/test")
    return name if name in POOLS else ""  # of a run on data that this version does not have


def matched(protocol: str, pairs: Sequence[Pair]) -> Pool:
    """The pool in which text i and molecule i belong together and both sides ask."""
    index = np.arange(len(pairs), dtype=np.int64)
    texts, smiles = tuple(p.text for p in pairs), tuple(p.smiles for p in pairs)
    return Pool(protocol, texts, smiles, index, index.copy())


def without(pool: Pool, keep: np.ndarray) -> Pool:
    """The pool without the molecules where `keep` is False, and without their texts."""
    if keep.all():
        return pool
    stays = np.ones(len(pool.texts), bool)
    queries = pool.text_target >= 0
    stays[queries] = keep[pool.text_target[queries]]
    partners = pool.mol_target[~keep]
    stays[partners[partners >= 0]] = False
    # A target of -1 reads the appended -1 and stays -1.
    mol_place = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    text_place = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)
    further = pool.further
    if further is not None:  # the target replaces a molecule that left
        further = mol_place[further[stays]]
        further = np.where(further < 0, mol_place[pool.text_target[stays], None], further)
    return Pool(
        pool.protocol,
        tuple(t for t, k in zip(pool.texts, stays, strict=True) if k),
        tuple(s for s, k in zip(pool.smiles, keep, strict=True) if k),
        mol_place[pool.text_target[stays]],
        text_place[pool.mol_target[keep]],
        further,
    )


def own_text(pool: Pool) -> Int[np.ndarray, " C"]:
    """The text of each molecule's own pair, whether the pair asks or not; -1: not in the pool."""
    if len(pool.texts) == len(pool.smiles):  # of pairs: `matched`
        return np.arange(len(pool.smiles))
    text = pool.mol_target.copy()
    asks = np.flatnonzero(pool.text_target >= 0)
    text[pool.text_target[asks]] = asks
    return text


def check_complete(pool: Pool, source: str, size: int) -> None:
    """Hold a pool against its published size; rows whose SMILES was refused do not count.

    `source` is the protocol that the pool was loaded by; 0: no size is published.
    Errors: UserError with the rows that are missing, as far as any local file names them.
    """
    if not size or len(pool.smiles) == size:
        return
    absent, refused = _absent(source)
    count = size - len(pool.smiles) - refused
    if not count:
        return
    named = ", ".join([*absent[:NAMED], *(["..."] if count > NAMED else [])])
    got = f"{count:,} missing ({named or 'no file names them'})"
    if count < 0:
        got = f"{-count:,} too many"
    raise UserError(
        f"expected the {size:,} candidates that are published as {source}; got "
        f"{len(pool.smiles):,} and {refused:,} refused, {got}; fetch the files again: "
        f"make data SET={source.split('/')[0].split('-')[0]}"
    )


def _absent(source: str) -> tuple[list[str], int]:
    """Ids of the test rows, or of all in a full pool, that no file has; how many were refused."""
    from tmr_jax.data.datasets import chebi20, pcdes

    family, part = source.split("/")
    if part == "file-order":
        lines = [p.id for p in pcdes._staged_rows() if p.split == "test"]
        kept = len(pcdes.load_split(part, "test")[0])
        wanted = map(str, range(pcdes.TEST, pcdes.LINES))
        there = set(lines)
        return [line for line in wanted if line not in there], len(lines) - kept
    if family == "pcdes":
        report = pcdes.load_split(part, "test")[1]
        return [], report.rows - report.kept
    version = family.removeprefix("chebi20-")
    # Of a pool of molecules only, no other file says which rows there should be.
    alone = part in ("test-split", *SHORT) or chebi20.has_molecules_only(version)
    splits = ("test",) if alone else chebi20.SPLITS
    ids = [cid for split in splits for cid, _ in chebi20.molecules(version, split)]
    there = {p.id for split in splits for p in chebi20.load_split(version, split)}
    return [cid for cid in ids if cid not in there], 0


def _chebi20(version: str, pool: str, protocol: str) -> Pool:
    """A split, or the test queries against all molecules (and all texts, where they are there)."""
    from tmr_jax.data.datasets import chebi20

    if pool in ("test-split", "validation"):
        return matched(protocol, chebi20.load_split(version, pool.removesuffix("-split")))
    if pool.endswith(SHORT):
        from tmr_jax.data.queries import first_sentences, sampled_clauses

        split = "validation" if pool.startswith("validation-") else "test"
        pairs = chebi20.load_split(version, split)
        if pool.endswith("clause"):
            return sampled_clauses(protocol, pairs, split)
        return first_sentences(protocol, pairs)
    # nothing is downloaded for the other texts where only the molecules are local: a pool must
    # not depend on whether there is a network
    if chebi20.has_molecules_only(version):
        tests = chebi20.load_split(version, "test")
        rows = [row for split in chebi20.SPLITS for row in chebi20.molecules(version, split)]
        place = {cid: index for index, (cid, _) in enumerate(rows)}
        target = np.array([place[p.id] for p in tests], np.int64)
        texts, smiles = tuple(p.text for p in tests), tuple(smiles for _, smiles in rows)
        return Pool(protocol, texts, smiles, target, np.full(len(smiles), -1, np.int64))
    pairs, _ = chebi20.load(version)
    asks = np.array([p.split == "test" for p in pairs])
    target = np.where(asks, np.arange(len(pairs)), -1).astype(np.int64)
    return matched(protocol, pairs)._replace(text_target=target, mol_target=target.copy())


def _pcdes(pool: str, protocol: str) -> Pool:
    from tmr_jax.data.datasets import pcdes

    split = "validation" if pool.endswith("-validation") else "test"
    return matched(protocol, pcdes.load_split(pool.removesuffix("-validation"), split)[0])
