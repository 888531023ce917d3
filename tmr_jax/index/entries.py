"""The columns of a molecule in an index, computed with its features in one parse.

In: SMILES. Out: arrays for the columns of an index, and the features that the model reads.
"""

from __future__ import annotations

import hashlib
import time

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from tmr_jax.data.features.graph import (
    BadMolecule,
    Molecule,
    Motif,
    featurise_mol,
    parse_smiles,
    written,
)
from tmr_jax.data.features.properties import MASKS, Properties, masks, properties
from tmr_jax.data.tables import pack
from tmr_jax.index.schema import COLUMNS

UNCHARGER = rdMolStandardize.Uncharger()  # creating one takes as long as a molecule
PATIENCE = 2.0  # seconds of processor time for one molecule
NAMES = (*Properties._fields, *MASKS, "salt", "identity", "parent")  # in the order of `_row`


def describe_chunk(smiles: list[str], molecule: Molecule, motif: Motif) -> dict[str, np.ndarray]:
    """`pack` of the molecules that parse, and one row of every column for each of them.

    `identity` int64: equal where the canonical SMILES are equal; a racemate is not its enantiomer.
    `parent` int64: the same of the largest part without its charge, so a salt and its acid agree.
    `groups` and `classes` int64: masks. `salt` bool: more than one part. A molecule that takes
    longer than `PATIENCE` is skipped, too.
    """
    features, reasons, rows = [], [], []
    for s in smiles:
        start = time.process_time()  # unlike wall time it skips nothing on a busy machine
        try:
            mol = parse_smiles(s)
            features_of_mol = featurise_mol(mol, molecule, motif)
            with rdBase.BlockLogs():
                row = _row(mol)
        except BadMolecule as error:
            reasons.append(error.reason)
            continue
        except RuntimeError:  # RDKit's own invariants fail on molecules that its parser accepts
            reasons.append("no-properties")
            continue
        if time.process_time() - start > PATIENCE:
            reasons.append("too-slow")
            continue
        rows.append(row)
        features.append(features_of_mol)
        reasons.append("")
    columns = list(zip(*rows, strict=True)) or [()] * len(NAMES)
    arrays = {n: np.array(c, COLUMNS[n]) for n, c in zip(NAMES, columns, strict=True)}
    return pack(features, reasons, molecule, motif) | arrays


def _row(mol: Chem.Mol) -> tuple:
    canonical = written(mol)
    salt = "." in canonical
    return (
        *properties(mol),
        *masks(mol),
        salt,
        digest(canonical),
        digest(_parent(mol, canonical)),
    )


def _parent(mol: Chem.Mol, canonical: str) -> str:
    """Canonical SMILES of the largest part, protonated or deprotonated to no charge if it can be.

    A charge that may be permanent stays.
    """
    if "." not in canonical and not Chem.GetFormalCharge(mol):
        return canonical
    parts = [(p.GetNumHeavyAtoms(), written(p), p) for p in Chem.GetMolFrags(mol, True)]
    largest = max(parts, key=lambda part: part[:2])[2]
    return written(UNCHARGER.uncharge(largest))


def digest(text: str) -> int:
    """64 bits of a hash of a text, as a signed integer."""
    hashed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)
