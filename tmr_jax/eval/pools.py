"""The pools of an evaluation: read, checked for size, encoded, cut into batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tmr_jax.config import DataConfig
from tmr_jax.data.pools import check_complete, load_pool
from tmr_jax.eval.protocols import Protocol
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.eval.restore import Restored
from tmr_jax.models.encode import Encoded
from tmr_jax.types import Pool, UserError


class EncodedPool(NamedTuple):
    """A pool with the embeddings of its texts and molecules."""

    pool: Pool
    text: Encoded
    mol: Encoded

    def text_queries(self) -> np.ndarray:
        """Indices of the texts that are queries."""
        return np.flatnonzero(self.pool.text_target >= 0)

    def queries(self, direction: Direction) -> tuple[np.ndarray, Encoded, np.ndarray]:
        """Rows of the queries, the candidates, and the target of each query among them."""
        query, candidate, target = self.text, self.mol, self.pool.text_target
        if direction == "m2t":
            query, candidate, target = self.mol, self.text, self.pool.mol_target
        rows = np.flatnonzero(target >= 0)
        return query.rows[rows], candidate, target[rows]


def declared_pool(protocol: Protocol, data: DataConfig) -> Pool:
    """The pool under the protocol's name. Errors: ValueError if its published size differs."""
    pool = load_pool(protocol.source, data)
    check_complete(pool, protocol.source, protocol.size)
    return pool._replace(protocol=protocol.name)


def encode_pools(model: Restored, pools: list[Pool]) -> tuple[list[EncodedPool], dict[str, int]]:
    """Texts and molecules of all pools; each distinct string is encoded once.

    Invalid molecules leave the pool with their texts; the last value counts them by protocol.
    """
    smiles = list(dict.fromkeys(s for pool in pools for s in pool.smiles))
    encoded, valid = model.molecules(smiles)
    place = {smiles[row]: i for i, row in enumerate(valid)}
    sound = [without(pool, np.array([s in place for s in pool.smiles])) for pool in pools]
    texts = list(dict.fromkeys(t for pool in sound for t in pool.texts))
    described = model.texts(texts)
    row = {text: i for i, text in enumerate(texts)}
    sides = [
        EncodedPool(
            pool,
            _take(described, [row[t] for t in pool.texts]),
            _take(encoded, [place[s] for s in pool.smiles]),
        )
        for pool in sound
    ]
    pairs = zip(pools, sound, strict=True)
    return sides, {p.protocol: len(p.smiles) - len(s.smiles) for p, s in pairs}


def _take(side: Encoded, items: list[int]) -> Encoded:
    return Encoded(side.rows[items], side.group[items], side.side)


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
    return Pool(
        pool.protocol,
        tuple(t for t, k in zip(pool.texts, stays, strict=True) if k),
        tuple(s for s, k in zip(pool.smiles, keep, strict=True) if k),
        mol_place[pool.text_target[stays]],
        text_place[pool.mol_target[keep]],
    )


def in_whole_batches(sides: EncodedPool, batch: int) -> EncodedPool:
    """A pool of pairs without those at its end that fill no batch; 0: the pool as it is."""
    if not batch:
        return sides
    pool, text, mol = sides
    whole = len(pool.texts) // batch * batch
    if not whole:
        raise UserError(
            f"expected at least {batch} pairs for {pool.protocol}; got {len(pool.texts)}; "
            "rank the whole pool instead"
        )
    targets = pool.text_target[:whole], pool.mol_target[:whole]
    cut = Pool(pool.protocol, pool.texts[:whole], pool.smiles[:whole], *targets)
    return EncodedPool(cut, *(_take(side, list(range(whole))) for side in (text, mol)))
