"""Who a molecule is, whatever way its SMILES is written: keys for overlap and duplicates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from tmr_jax.data.cache import CACHE_FROM, VERSION, cache_folder, read_arrays, save_arrays
from tmr_jax.data.features.graph import parse_smiles

# InChI's time grows with the cube of a conjugated ring: 0.5 s at 400 atoms, 8 s at 1,000.
MAX_INCHI_RING = 300


def molecule_key(smiles: str) -> str:
    """Standard InChIKey; "SMI:" and the canonical SMILES where InChI has none (dummy atoms).

    Raises `BadMolecule` where the SMILES is refused.
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


def molecule_groups(smiles: Sequence[str]) -> np.ndarray:
    """Equal numbers for equal molecules by InChIKey, int32 [n]; kept in the cache folder."""
    digest = hashlib.sha256(json.dumps(["groups", VERSION, *smiles]).encode()).hexdigest()[:32]
    path = cache_folder() / f"groups-{digest}.npz"
    if path.is_file():
        try:
            groups = read_arrays(path)["groups"]
            if groups.shape == (len(smiles),):
                return groups.astype(np.int32)
        except (ValueError, KeyError, OSError):
            pass  # a damaged file is computed again and written over
    groups = _molecule_groups(smiles)
    if len(smiles) >= CACHE_FROM:
        _save_groups(path, groups)
    return groups


def _molecule_groups(smiles: Sequence[str]) -> np.ndarray:
    from rich.console import Console
    from rich.progress import track

    unique: Iterable[str] = list(dict.fromkeys(smiles))
    if len(smiles) >= CACHE_FROM:
        unique = track(unique, "equal molecules", console=Console(stderr=True), transient=True)
    key = {s: molecule_key(s) for s in unique}
    number = {k: i for i, k in enumerate(dict.fromkeys(key.values()))}
    return np.array([number[key[s]] for s in smiles], np.int32)


def _save_groups(path: Path, groups: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, {"groups": groups})
    except OSError as error:  # the work itself needs no cache
        print(f"groups of equal molecules are not kept for the next time: {error}")
