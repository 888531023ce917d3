"""How unlike one another molecules are: Tanimoto distances and Bemis-Murcko scaffolds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from tmr_jax.features.graph import parse_smiles


class Variety(NamedTuple):
    distance: float  # mean 1 - Tanimoto over pairs, Morgan radius 2, 2,048 bits, chirality
    scaffolds: int  # distinct ones; all molecules without a ring share one


class Cabinet:
    """Fingerprints and scaffolds of molecules that are looked at again and again."""

    def __init__(self, smiles: Sequence[str]) -> None:
        generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=2, fpSize=2048, includeChirality=True
        )
        mols = [parse_smiles(s) for s in smiles]
        self._bits = [generator.GetFingerprint(mol) for mol in mols]
        self.scaffolds = [MurckoScaffold.MurckoScaffoldSmiles(mol=mol) for mol in mols]

    def variety(self, items: Sequence[int]) -> Variety:
        """Of the molecules `items`, by their place; a single one has distance zero."""
        bits = [self._bits[i] for i in items]
        near = [
            s
            for i in range(1, len(bits))
            for s in DataStructs.BulkTanimotoSimilarity(bits[i], bits[:i])
        ]
        distance = 1 - float(np.mean(near)) if near else 0.0
        return Variety(distance, len({self.scaffolds[i] for i in items}))


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold as SMILES, "" of a molecule without a ring."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles))
