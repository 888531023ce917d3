"""Matches of a pattern. Runs only in the process of `substructure.Matcher`: RDKit can hang."""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

from tmr_jax.data.features.graph import BadMolecule, parse_smiles


def match_chunk(smarts: str, smiles: list[str]) -> dict[str, np.ndarray]:
    """`is_pattern`, bool [], and which molecules hold the pattern: `matches`, bool [n]."""
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts)
        matches = np.zeros(len(smiles), bool)
        for i, text in enumerate(smiles if pattern is not None else ()):
            try:
                matches[i] = parse_smiles(text).HasSubstructMatch(pattern)
            except BadMolecule:  # in an index of another RDKit version
                continue
    return {"is_pattern": np.array(pattern is not None), "matches": matches}
