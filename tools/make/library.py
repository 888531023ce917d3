"""A small library with names: python -m tools.make.library > examples/library.smi

1,000 of the package's ChEBI terms, the same ones each time: single molecules of at most 60 atoms
whose name is a word or a few, in the order of their names. Some were trained on: an example to try
commands on, not to measure a model with.
"""

from __future__ import annotations

import hashlib
import sys

from rdkit import Chem

from tmr_jax.data.datasets import chebi
from tmr_jax.data.features.graph import BadMolecule, parse_smiles

COUNT, MOST_ATOMS, LONGEST = 1000, 60, 40


def lines() -> list[str]:
    """`COUNT` lines, SMILES, tab and name."""
    found: dict[str, str] = {}
    for term in sorted(chebi.terms(), key=lambda t: hashlib.sha256(t.chebi_id.encode()).digest()):
        try:
            mol = parse_smiles(term.smiles)
        except BadMolecule:
            continue
        smiles = Chem.MolToSmiles(mol)
        if len(term.name) <= LONGEST and "." not in smiles and mol.GetNumAtoms() <= MOST_ATOMS:
            found.setdefault(smiles, term.name)
        if len(found) == COUNT:
            break
    named = sorted(found.items(), key=lambda pair: (pair[1].casefold(), pair[0]))
    return [f"{smiles}\t{name}" for smiles, name in named]


if __name__ == "__main__":
    sys.stdout.write("".join(line + "\n" for line in lines()))
