"""The demo data set: real and enumerated molecules with descriptions written from computed facts.

In: three sizes and a seed. Out: Pairs. The molecules need no download (RDKit's NCI sample, and
scaffolds with substituents); the descriptions are GENERATED TEXT in the language of ChEBI, so
scores on them show that the machinery works and nothing about real descriptions. `LABEL` marks
every such number.
"""

from __future__ import annotations

from functools import lru_cache

from rdkit import Chem, rdBase

from tmr_jax.data.datasets.demo.facts import compute_facts
from tmr_jax.data.datasets.demo.molecules import NCI_SHARE, enumerated_molecules, nci_molecules
from tmr_jax.data.datasets.demo.text import LABEL, Draw, describe
from tmr_jax.types import Pair, UserError

__all__ = ["LABEL", "demo_pairs"]

SPARE = 1.04  # molecules made per pair wanted: families do not always fill a split exactly
SMALL_ION = 6  # heavy atoms; a larger component makes its molecule a relative of others with it


def demo_pairs(train: int, validation: int, test: int, seed: int) -> list[Pair]:
    """Pairs of generated text, the same for the same sizes and seed on every machine.

    No molecule (canonical isomeric SMILES) comes twice; no connectivity (first block of the
    InChIKey, of the whole or of any component beyond small ions) is in two splits. Train first,
    then validation, then test. Raises ValueError where a size is negative.
    """
    if min(train, validation, test) < 0:
        got = f"{train}, {validation}, {test}"
        raise UserError(
            f"expected demo sizes of at least 0; got {got}; set data.demo.train, .validation, .test"
        )
    return list(_pairs(train, validation, test, seed))


@lru_cache(maxsize=2)
def _pairs(train: int, validation: int, test: int, seed: int) -> tuple[Pair, ...]:
    draw = Draw(f"{seed}:demo")
    wanted = {"test": test, "validation": validation, "train": train}
    families = draw.shuffled(_families(_molecules(train + validation + test, draw)))
    chosen = _fill(families, wanted)
    pairs = []
    for split in ("train", "validation", "test"):
        for number, mol in enumerate(draw.shuffled(chosen[split])):
            smiles = Chem.MolToSmiles(mol)
            text = describe(
                compute_facts(Chem.MolFromSmiles(smiles)), Draw(f"{seed}:{smiles}")
            ).text
            pairs.append(Pair(f"demo-{split}-{number}", text, smiles, split))
    return tuple(pairs)


def _molecules(total: int, draw: Draw) -> list[Chem.Mol]:
    """About 4 % more molecules than asked for, each with another canonical isomeric SMILES."""
    goal = int(total * SPARE) + 8
    found = {Chem.MolToSmiles(m): m for m in nci_molecules(int(goal * NCI_SHARE), draw)}
    for mol in enumerated_molecules(draw):
        if len(found) >= goal:
            return list(found.values())
        found.setdefault(Chem.MolToSmiles(mol), mol)
    raise AssertionError("the stream of enumerated molecules has no end")


def _skeletons(mol: Chem.Mol) -> list[str]:
    """First InChIKey block of the molecule and, for a salt, of each of its larger components."""
    parts = [mol]
    if "." in Chem.MolToSmiles(mol):
        pieces = Chem.GetMolFrags(mol, asMols=True)
        parts += [p for p in pieces if p.GetNumHeavyAtoms() > SMALL_ION]
    with rdBase.BlockLogs():
        return [Chem.MolToInchiKey(p)[:14] or Chem.MolToSmiles(p, False) for p in parts]


def _families(mols: list[Chem.Mol]) -> list[list[Chem.Mol]]:
    """Molecules that share a skeleton, directly or through others, in the order of their firsts."""
    family_of: dict[str, list[Chem.Mol]] = {}
    for mol in mols:
        keys = _skeletons(mol)
        known = {id(family_of[k]): family_of[k] for k in keys if k in family_of}
        family = [m for f in known.values() for m in f] + [mol]
        for key, other in family_of.items() if len(known) > 1 else ():
            if id(other) in known:
                family_of[key] = family
        if len(known) == 1:
            family = next(iter(known.values()))
            family.append(mol)
        family_of.update(dict.fromkeys(keys, family))
    return list({id(f): f for f in family_of.values()}.values())


def _fill(families: list[list[Chem.Mol]], wanted: dict[str, int]) -> dict[str, list[Chem.Mol]]:
    """Whole families to the first split with room; a family too large for the room is cut short."""
    chosen: dict[str, list[Chem.Mol]] = {split: [] for split in wanted}
    for family in families:
        for split, size in wanted.items():
            room = size - len(chosen[split])
            if room > 0:
                chosen[split] += family[:room]
                break
    return chosen
