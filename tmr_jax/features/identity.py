"""Who a molecule is, whatever way its SMILES is written: keys for overlap and duplicates."""

from __future__ import annotations

from rdkit import Chem, rdBase

from tmr_jax.features.graph import parse_smiles


def molecule_key(smiles: str) -> str:
    """Standard InChIKey; "SMI:" and the canonical SMILES where InChI has none (dummy atoms).

    Raises `BadMolecule` where the SMILES is refused.
    """
    mol = parse_smiles(smiles)
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(mol) or f"SMI:{Chem.MolToSmiles(mol)}"


def skeleton_key(smiles: str) -> str:
    """First block of the InChIKey: equal for stereo-isomers, charge states and most tautomers.

    Where InChI has none: "SMI:" and the canonical SMILES without stereo marks and isotopes.
    """
    mol = parse_smiles(smiles)
    with rdBase.BlockLogs():
        key = Chem.MolToInchiKey(mol)
        return key[:14] if key else f"SMI:{Chem.MolToSmiles(mol, isomericSmiles=False)}"
