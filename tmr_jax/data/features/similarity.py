"""Which molecules are the same, however they are written, and how alike others are.

Keys find duplicates and leakage; Morgan fingerprints of radius 2 with chirality are rows for a
baseline, the similarity of hits, and an order in which a batch may hold hard negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.files import CACHE_FROM, JSON, cache_key, cached
from tmr_jax.data.workers import track

# InChI's time grows with the cube of a conjugated ring: 0.5 s at 400 atoms, 8 s at 1,000.
MAX_INCHI_RING = 300
REMEMBERED = 100_000  # molecules whose scaffold and fingerprint stay in memory: pools overlap
MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048, includeChirality=True)
LEAF = 16  # molecules that are not divided further
ITERATIONS = 8  # of the power method; a rough axis divides as well as an exact one


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
            lambda keys: isinstance(keys, list) and [*map(type, keys)] == [str] * len(distinct),
            JSON,
        )
    key = dict(zip(distinct, keys, strict=True))
    return [key[s] for s in smiles]


def connectivity(smiles: Sequence[str]) -> list[str]:
    """`skeleton_key` of each molecule, from keys that are cached. Raises `BadMolecule`."""
    keys = zip(smiles, molecule_keys(smiles), strict=True)
    return [skeleton_key(one) if key.startswith("SMI:") else key[:14] for one, key in keys]


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


# Fingerprints and scaffolds


def fingerprints(smiles: Sequence[str]) -> Float[np.ndarray, "M bits"]:
    """float32 [M, 2048]: log(1 + count) of each environment, folded.

    Raises `BadMolecule` where a SMILES is refused.
    """
    rows = np.zeros((len(smiles), 2048), np.float32)
    for row, text in zip(rows, smiles, strict=True):
        row[:] = MORGAN.GetCountFingerprintAsNumPy(parse_smiles(text))
    return np.log1p(rows, out=rows)


@lru_cache(maxsize=REMEMBERED)
def _bits(smiles: str) -> DataStructs.ExplicitBitVect:
    return MORGAN.GetFingerprint(parse_smiles(smiles))


def tanimoto(smiles: Sequence[str]) -> Float[np.ndarray, "n n"]:
    """Share of the environments of two molecules that both have: 1 on the diagonal.

    Raises `BadMolecule` where a SMILES is refused.
    """
    bits = [_bits(text) for text in smiles]
    rows = [DataStructs.BulkTanimotoSimilarity(one, bits) for one in bits]
    return np.array(rows, np.float32).reshape(len(bits), len(bits))


@lru_cache(maxsize=REMEMBERED)
def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold as SMILES, "" of a molecule without a ring."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles))


class Variety(NamedTuple):
    distance: float  # mean 1 - Tanimoto over pairs
    scaffolds: int  # distinct ones; all molecules without a ring share one


def variety(smiles: Sequence[str]) -> Variety:
    """How different the molecules are; a single one has distance zero."""
    bits = [_bits(s) for s in smiles]
    rows = [DataStructs.BulkTanimotoSimilarity(one, bits[:i]) for i, one in enumerate(bits)]
    similarities = np.concatenate([[], *rows])
    distance = 1 - float(similarities.mean()) if len(similarities) else 0.0
    return Variety(distance, len({scaffold(s) for s in smiles}))


# Hard negatives


def structure_place(fingerprints: Float[np.ndarray, "M bits"]) -> Int[np.ndarray, " M"]:
    """Place of each molecule, 0..M-1, by halving along the main axis of the fingerprints again
    and again: what shares substructures shares its half for long. A pure function of its input.
    """
    order = np.arange(len(fingerprints))
    _divide(fingerprints, order)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _divide(bits: Float[np.ndarray, "M bits"], order: Int[np.ndarray, " part"]) -> None:
    """Puts the rows `order` of `bits` into their order, in place."""
    if len(order) <= LEAF:
        return
    part = bits[order]  # a copy
    part -= part.mean(0)
    axis = np.ones(part.shape[1], np.float32)  # no bit is special
    for _ in range(ITERATIONS):
        axis = part.T @ (part @ axis)
        axis /= max(float(np.linalg.norm(axis)), 1e-12)
    order[:] = order[np.argsort(part @ axis, kind="stable")]
    half = len(order) // 2
    _divide(bits, order[:half])
    _divide(bits, order[half:])
