"""What an evaluation ranks, by protocol name: data set, version of the text, and pool.

Out: a `Pool` of texts and molecules with the index of each one's partner; -1 marks an item that is
a candidate but no query. A pool whose texts are only queries (the training texts are not at hand)
ranks text to molecule only: its mol_target is -1 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tmr_jax.data import DataConfig, did_you_mean, load_pairs
from tmr_jax.types import Pair, Pool

# validation of `open` is ChEBI-20's real one, neither trained on (flag cv) nor tested
OPEN_VALIDATION = "chebi20-molt5/validation"
PROTOCOLS = (
    "chebi20-text2mol/full-33010",
    "chebi20-text2mol/test-split",
    "chebi20-text2mol/validation",
    "chebi20-molt5/full-33008",
    "chebi20-molt5/test-split",
    "chebi20-molt5/validation",
    "pcdes/file-order",
    "pcdes/file-order-validation",
    "pcdes/scaffold",
    "pcdes/scaffold-validation",
    "open/validation",
    "table/test",
    "table/validation",
    "demo/test",
    "demo/validation",
)


def load_pool(protocol: str, config: DataConfig) -> Pool:
    """The pool of a protocol; `config` matters for table and demo only.

    Raises ValueError for an unknown protocol (with the nearest known ones), for a part that is
    not at hand, and for an empty pool.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"expected a protocol; got {protocol!r}; {did_you_mean(protocol, list(PROTOCOLS))}"
        )
    family, pool = protocol.split("/")
    if family.startswith("chebi20-"):
        found = _chebi20(family.removeprefix("chebi20-"), pool, protocol)
    elif family == "pcdes":
        found = _pcdes(pool, protocol)
    elif family == "open":
        found = load_pool(OPEN_VALIDATION, config)._replace(protocol=protocol)
    else:
        if config.name != family:
            raise ValueError(
                f"expected data of the kind {family!r} for protocol {protocol!r}; "
                f"got --data.name {config.name}; set --data.name {family}"
            )
        found = matched(protocol, [p for p in load_pairs(config) if p.split == pool])
    if not found.texts or not found.smiles:
        raise ValueError(
            f"expected at least one pair in {protocol}; got none; "
            "give that split a share of the rows"
        )
    return found


def validation_protocol(config: DataConfig) -> str:
    """The protocol that training watches: the configured one, or the data set's own."""
    if config.validation:
        return config.validation
    if config.name == "chebi20":
        return f"chebi20-{config.version or 'text2mol'}/validation"
    if config.name == "pcdes":
        return f"pcdes/{config.version or 'file-order'}-validation"
    return f"{config.name}/validation"


def matched(protocol: str, pairs: Sequence[Pair]) -> Pool:
    """The pool in which text i and molecule i belong together and both sides ask."""
    index = np.arange(len(pairs), dtype=np.int64)
    texts, smiles = tuple(p.text for p in pairs), tuple(p.smiles for p in pairs)
    return Pool(protocol, texts, smiles, index, index.copy())


def _chebi20(version: str, pool: str, protocol: str) -> Pool:
    from tmr_jax.data import chebi20

    if pool == "test-split":
        return matched(protocol, chebi20.load_split(version, "test"))
    if pool == "validation":
        return matched(protocol, chebi20.load_split(version, "validation"))
    return _chebi20_full(version, protocol)


def _chebi20_full(version: str, protocol: str) -> Pool:
    """Test queries against all molecules (and all texts, where they are at hand)."""
    from tmr_jax.data import chebi20

    # nothing is fetched for the other texts where the molecules alone are at hand: a pool must
    # not depend on whether there is a network
    if chebi20.has_molecules_only(version):
        rows = [row for split in chebi20.SPLITS for row in chebi20.molecules(version, split)]
        return _queries_only(protocol, chebi20.load_split(version, "test"), rows)
    pairs, _ = chebi20.load(version)
    asks = np.array([p.split == "test" for p in pairs])
    target = np.where(asks, np.arange(len(pairs)), -1).astype(np.int64)
    return matched(protocol, pairs)._replace(text_target=target, mol_target=target.copy())


def _queries_only(protocol: str, tests: Sequence[Pair], rows: Sequence[tuple[str, str]]) -> Pool:
    place = {cid: index for index, (cid, _) in enumerate(rows)}
    target = np.array([place[p.id] for p in tests], np.int64)
    texts, smiles = tuple(p.text for p in tests), tuple(smiles for _, smiles in rows)
    return Pool(protocol, texts, smiles, target, np.full(len(smiles), -1, np.int64))


def _pcdes(pool: str, protocol: str) -> Pool:
    from tmr_jax.data import pcdes

    division = pool.removesuffix("-validation")
    split = "validation" if pool.endswith("-validation") else "test"
    return matched(protocol, pcdes.load_split(division, split)[0])
