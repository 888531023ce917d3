"""Which molecules are the same, however they are written: keys for duplicates and leakage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from tmr_jax.data.cache import CACHE_FROM, JSON, cache_key, cached
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.progress import track

# InChI's time grows with the cube of a conjugated ring: 0.5 s at 400 atoms, 8 s at 1,000.
MAX_INCHI_RING = 300


def molecule_key(smiles: str) -> str:
    """Standard InChIKey; "SMI:" and the canonical SMILES where InChI has none (dummy atoms).

    Raises `BadMolecule` where the SMILES is invalid.
    """
    mol = parse_smiles(smiles)
    return _inchi_key(mol) or f"SMI:{Chem.MolToSmiles(mol)}"


def skeleton_key(smiles: str) -> str:
    """First block of the InChIKey: equal for stereo-isomers, charge states and most tautomers.

    Where InChI has none: "SMI:" and the canonical SMILES without stereo marks and isotopes.
    """
    mol = parse_smiles(smiles)
    return _inchi_key(mol)[:14] or f"SMI:{Chem.MolToSmiles(mol, isomericSmiles=False)}"


def _inchi_key(mol: Chem.Mol) -> str:
    """The standard InChIKey, or "" where there is none."""
    if any(len(ring) > MAX_INCHI_RING for ring in mol.GetRingInfo().AtomRings()):
        return ""
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(mol)


def molecule_keys(smiles: Sequence[str], what: str = "molecule keys") -> list[str]:
    """The key of each molecule, an invalid one's is "SMI:" and its text.

    The keys of `CACHE_FROM` molecules or more show their progress as `what` and are cached.
    """
    distinct = list(dict.fromkeys(smiles))
    if len(distinct) < CACHE_FROM:
        keys = [key_or_text(s) for s in distinct]
    else:
        keys = cached(
            cache_key("keys", rdBase.rdkitVersion, distinct),
            lambda: [key_or_text(s) for s in track(distinct, what, transient=True)],
            lambda keys: _are_keys(keys, len(distinct)),
            JSON,
        )
    key = dict(zip(distinct, keys, strict=True))
    return [key[s] for s in smiles]


def molecule_groups(smiles: Sequence[str]) -> np.ndarray:
    """Equal numbers for equal molecules, in the order of their first row: int32 [n]."""
    keys = molecule_keys(smiles, "equal molecules")
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int32)


def key_or_text(smiles: str) -> str:
    """The molecule's InChIKey; of an invalid molecule its SMILES after `SMI:`."""
    try:
        return molecule_key(smiles)
    except BadMolecule:
        return f"SMI:{smiles}"


def _are_keys(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(key, str) for key in value)
    )
