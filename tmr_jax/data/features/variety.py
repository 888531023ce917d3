"""How unlike one another molecules are: Tanimoto distances and Bemis-Murcko scaffolds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from tmr_jax.data.features.graph import parse_smiles

KEPT = 100_000  # molecules whose scaffold and fingerprint stay in memory: pools overlap
MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048, includeChirality=True)


class Variety(NamedTuple):
    distance: float  # mean 1 - Tanimoto over pairs, Morgan radius 2, 2,048 bits, chirality
    scaffolds: int  # distinct ones; all molecules without a ring share one


def variety(smiles: Sequence[str]) -> Variety:
    """How different the molecules are; a single one has distance zero."""
    bits = [_fingerprint(s) for s in smiles]
    similarities = [
        s
        for i in range(1, len(bits))
        for s in DataStructs.BulkTanimotoSimilarity(bits[i], bits[:i])
    ]
    distance = 1 - float(np.mean(similarities)) if similarities else 0.0
    return Variety(distance, len({scaffold(s) for s in smiles}))


@functools.lru_cache(maxsize=KEPT)
def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold as SMILES, "" of a molecule without a ring."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles))


@functools.lru_cache(maxsize=KEPT)
def _fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    return MORGAN.GetFingerprint(parse_smiles(smiles))
