"""Morgan fingerprints of radius 2 as dense rows: what the bag-of-words baseline predicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit.Chem import rdFingerprintGenerator

from tmr_jax.features.graph import parse_smiles

RADIUS = 2


def fingerprints(smiles: Sequence[str], bits: int = 2048) -> np.ndarray:
    """float32 [len(smiles), bits]: log(1 + count) of each environment, chirality included, folded.

    Raises `BadMolecule` where a SMILES is refused.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=RADIUS, fpSize=bits, includeChirality=True
    )
    rows = np.zeros((len(smiles), bits), np.float32)
    for row, text in zip(rows, smiles, strict=True):
        row[:] = generator.GetCountFingerprintAsNumPy(parse_smiles(text))
    return np.log1p(rows, out=rows)
