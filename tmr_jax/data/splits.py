"""Which split a row belongs to.

Random splits are pure functions of (seed, id), so that adding a row moves no other row. Scaffold
splits keep every Bemis-Murcko scaffold whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tmr_jax.types import UserError

NAMES = ("train", "validation", "test")


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three shares, none negative, that add up to 1."""
    shares = tuple(float(f) for f in fractions)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            "expected three fractions (train, validation, test), none negative, with the sum 1; "
            f"got {shares}; e.g. --data.table.fractions 0.8 0.1 0.1"
        )
    return shares  # type: ignore[return-value]


def random_split(name: str, fractions: Sequence[float], seed: int) -> str:
    """The split of the row called `name`, whatever the other rows are."""
    place = _unit(f"{seed}:{name}")
    if place < fractions[0]:
        return "train"
    return "validation" if place < fractions[0] + fractions[1] else "test"


def _unit(word: str) -> float:
    """A number in [0, 1) made of a string, the same on every machine."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def scaffold_splits(smiles: Sequence[str], fractions: Sequence[float], seed: int) -> list[str]:
    """A split for each molecule, no scaffold in two of them.

    The largest scaffolds are placed first, each into the split that lacks most; equal sizes in
    an order drawn from the seed. Molecules without rings share one (empty) scaffold.
    """
    groups: dict[str, list[int]] = {}
    for index, scaffold in enumerate(_scaffolds(smiles)):
        groups.setdefault(scaffold, []).append(index)
    lacking = [share * len(smiles) for share in check_fractions(fractions)]
    found = [""] * len(smiles)
    for name in sorted(groups, key=lambda s: (-len(groups[s]), _unit(f"{seed}:{s}"))):
        place = max(range(3), key=lambda split: lacking[split])
        lacking[place] -= len(groups[name])
        for index in groups[name]:
            found[index] = NAMES[place]
    return found


def _scaffolds(smiles: Sequence[str]) -> list[str]:
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from tmr_jax.data.features.graph import parse_smiles

    return [MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(s)) for s in smiles]
