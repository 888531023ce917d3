"""Morgan fingerprints of radius 2: dense rows for a baseline, and the likeness of molecules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator

from tmr_jax.data.features.graph import parse_smiles

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


def tanimoto(smiles: Sequence[str], bits: int = 2048) -> Float[np.ndarray, "n n"]:
    """Share of the environments of two molecules that both have: 1 on the diagonal.

    Raises `BadMolecule` where a SMILES is refused.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=RADIUS, fpSize=bits, includeChirality=True
    )
    prints = [generator.GetFingerprint(parse_smiles(text)) for text in smiles]
    rows = [DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints]
    return np.array(rows, np.float32).reshape(len(prints), len(prints))
