"""Who a molecule is, whatever way its SMILES is written: keys for overlap and duplicates."""

from __future__ import annotations

from rdkit import Chem, rdBase

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
