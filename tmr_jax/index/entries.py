"""What a library keeps of a molecule beside its vector, computed with the features in one parse.

In: SMILES. Out: arrays for the columns of a library, and the features that the model reads.
"""

from __future__ import annotations

import hashlib
import time
from typing import get_type_hints

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from tmr_jax.data.features.graph import BadMolecule, featurise_mol, parse_smiles
from tmr_jax.data.features.properties import Properties, group_mask, properties
from tmr_jax.data.tables import Molecule, Motif, pack

UNCHARGER = rdMolStandardize.Uncharger()  # its making takes as long as a molecule
PATIENCE = 2.0  # seconds of a processor for one molecule (F13)
NUMBERS = {
    name: np.float32 if kind is float else np.int32
    for name, kind in get_type_hints(Properties).items()
}


def describe_chunk(smiles: list[str], molecule: Molecule, motif: Motif) -> dict[str, np.ndarray]:
    """`pack` of the molecules that parse, and one row of every column for each of them.

    `identity` int64: equal where the canonical SMILES are equal. `parent` int64: the same of the
    largest part without its charge, so that a salt and its acid agree. `groups` int64: a mask of
    `GROUPS`. `salt` bool: more than one part. What took longer than `PATIENCE` is refused, too.
    """
    features, reasons, rows = [], [], []
    for s in smiles:
        begun = time.process_time()  # not the clock's: a busy machine refuses nothing
        try:
            mol = parse_smiles(s)
            found = featurise_mol(mol, molecule, motif)
            with rdBase.BlockLogs():
                row = _row(mol)
        except BadMolecule as error:
            reasons.append(error.reason)
            continue
        except RuntimeError:  # RDKit's own invariants, over molecules stranger than its parser
            reasons.append("no-properties")
            continue
        if time.process_time() - begun > PATIENCE:
            reasons.append("too-slow")
            continue
        rows.append(row)
        features.append(found)
        reasons.append("")
    columns = list(zip(*rows, strict=True)) or [()] * (len(NUMBERS) + 4)
    kinds = [*NUMBERS.values(), np.int64, np.bool_, np.int64, np.int64]
    names = [*NUMBERS, "groups", "salt", "identity", "parent"]
    arrays = {n: np.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)}
    return pack(features, reasons, molecule, motif) | arrays


def _row(mol: Chem.Mol) -> tuple:
    canonical = Chem.MolToSmiles(mol)
    salt = "." in canonical
    return (
        *properties(mol),
        group_mask(mol),
        salt,
        digest(canonical),
        digest(_parent(mol, canonical)),
    )


def _parent(mol: Chem.Mol, canonical: str) -> str:
    """Canonical SMILES of the largest part, protonated or deprotonated to no charge if it can be.

    What cannot be told from a permanent charge is left as it is.
    """
    if "." not in canonical and not Chem.GetFormalCharge(mol):
        return canonical
    parts = [(p.GetNumHeavyAtoms(), Chem.MolToSmiles(p), p) for p in Chem.GetMolFrags(mol, True)]
    largest = max(parts, key=lambda part: part[:2])[2]
    return Chem.MolToSmiles(UNCHARGER.uncharge(largest))


def digest(text: str) -> int:
    """64 bits of a text, as a signed number."""
    found = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)
