"""Motifs of a molecule: which group of atoms each atom belongs to (docs/papers.md#motifs)."""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem import BRICS


def brics_motifs(mol: Chem.Mol) -> np.ndarray:
    """Motif of each atom, int32 [n]: the pieces left when every BRICS bond is cut.

    Motifs are numbered in the order of their first atoms. A molecule without a BRICS bond is one
    motif for each of its connected components.
    """
    bonds = [mol.GetBondBetweenAtoms(*atoms).GetIdx() for atoms, _ in BRICS.FindBRICSBonds(mol)]
    pieces = Chem.FragmentOnBonds(mol, sorted(set(bonds)), addDummies=False) if bonds else mol
    motif = np.zeros(mol.GetNumAtoms(), np.int32)
    for number, atoms in enumerate(Chem.GetMolFrags(pieces)):
        motif[list(atoms)] = number
    return number_by_first(motif)


def number_by_first(labels: np.ndarray) -> np.ndarray:
    """The same partition with its parts numbered 0, 1, ... in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)
