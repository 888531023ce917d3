"""Sugars of a structure by the sides of their oxygen atoms: which one, D or L, alpha or beta.

In: a molecule. Out: how many it has of each name, "gluco", "D-gluco", "alpha-D" and so on. A sugar
is a run of neighbouring carbon atoms that have a stereo mark, two carbon neighbours and one oxygen
or nitrogen, in a ring or not; of more than four the first four count. In a Fischer projection from
the oxidised end their sides name it: right, left, right, right is D-gluco, its mirror image
L-gluco, and the last side says D or L. Between equal ends both directions are read: D-glucitol
is L-gulitol. A CH2 between the oxidised end and the run makes a 2-deoxy sugar. An anomeric centre
is alpha if its substituent is on the side that says D or L.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from rdkit import Chem

CONFIGURATIONS = {
    "RR": "erythro",
    "LR": "threo",
    "RRR": "ribo",
    "LRR": "arabino",
    "RLR": "xylo",
    "LLR": "lyxo",
    "RRRR": "allo",
    "LRRR": "altro",
    "RLRR": "gluco",
    "LLRR": "manno",
    "RRLR": "gulo",
    "LRLR": "ido",
    "RLLR": "galacto",
    "LLLR": "talo",
}
# What sugars are called by the centres that are left, where these are not all.
METHYL = {"gluco": "quinovo", "galacto": "fuco", "manno": "rhamno"}  # 6-deoxy
GAP = {"erythro": "ribo", "threo": "xylo", "arabino": "gluco", "lyxo": "galacto"}  # 2-deoxy
KETOSES = {
    "erythro": "ribulo",
    "threo": "xylulo",
    "ribo": "psico",
    "arabino": "fructo",
    "xylo": "sorbo",
    "lyxo": "tagato",
}
_MIRROR = str.maketrans("RL", "LR")
_LONGEST, _OXO = 4, 3
_BONDED = {7, 8, 16}  # nitrogen, oxygen, sulfur
_COUNTER = Chem.ChiralType.CHI_TETRAHEDRAL_CCW
_UNMARKED = Chem.ChiralType.CHI_UNSPECIFIED


class End(NamedTuple):
    """What lies before a run: the chain from its outermost carbon atom on, which says the rest."""

    chain: list[Chem.Atom]  # one atom, or a CH2 after it
    rank: int  # the end of the highest rank is where numbers begin
    is_ketose: bool

    @property
    def is_methyl(self) -> bool:
        return self.chain[0].GetDegree() == 1


def sugars(mol: Chem.Mol) -> Counter[str]:
    """How many sugars of each name a molecule has.

    >>> sorted(sugars(Chem.MolFromSmiles("O=C[C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO")))
    ['D sugar', 'D-gluco', 'gluco']
    """
    found: Counter[str] = Counter()
    for run in _runs(mol):
        ends = [_end(run[0], run[1]), _end(run[-1], run[-2])]
        highest = max(end.rank for end in ends)
        names = set()
        for path, first, last in ((run, *ends), (run[::-1], *ends[::-1])):
            if first.rank == highest:
                names |= _names(path, first, last)
        found.update(names)
    return found


def _runs(mol: Chem.Mol) -> Iterator[list[Chem.Atom]]:
    """Neighbouring centres in order, runs of two and more that are open."""
    centres = {atom.GetIdx(): atom for atom in mol.GetAtoms() if _is_centre(atom)}
    near = {
        i: [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() in centres]
        for i, atom in centres.items()
    }
    done: set[int] = set()
    for start in (i for i, others in near.items() if len(others) == 1):
        if start in done:
            continue
        run = [start]
        while following := [i for i in near[run[-1]] if i not in run]:
            run.append(following[0])
        done.update(run)
        yield [centres[i] for i in run]


def _is_centre(atom: Chem.Atom) -> bool:
    if atom.GetAtomicNum() != 6 or atom.GetChiralTag() == _UNMARKED or atom.GetDegree() != 3:
        return False
    elements = sorted(n.GetAtomicNum() for n in atom.GetNeighbors())
    return elements in ([6, 6, 7], [6, 6, 8])


def _end(centre: Chem.Atom, after: Chem.Atom) -> End:
    [atom] = _carbons(centre, after)
    further = _carbons(atom, centre)
    rank = _rank(atom)
    if rank == 0 and len(further) == 1 and _rank(further[0]) > 1:
        return End([further[0], atom], _rank(further[0]), False)
    return End([atom], rank, rank == _OXO and bool(further))


def _carbons(atom: Chem.Atom, but: Chem.Atom) -> list[Chem.Atom]:
    near = atom.GetNeighbors()
    return [n for n in near if n.GetAtomicNum() == 6 and n.GetIdx() != but.GetIdx()]


def _rank(carbon: Chem.Atom) -> int:
    """3 for an anomeric centre, an aldehyde and a ketone, 2 for an acid, 1 for CH2OH, else 0."""
    bonds = [b for b in carbon.GetBonds() if b.GetOtherAtom(carbon).GetAtomicNum() in _BONDED]
    is_double = any(b.GetBondType() == Chem.BondType.DOUBLE for b in bonds)
    return _OXO if is_double != (len(bonds) > 1) else len(bonds)


def _names(path: list[Chem.Atom], first: End, last: End) -> set[str]:
    chain = [first.chain[-1], *path, last.chain[-1]]
    sides = "".join(_side(atom, chain[i], chain[i + 2]) for i, atom in enumerate(path[:_LONGEST]))
    hand = "D" if sides[-1] == "R" else "L"
    name = CONFIGURATIONS[sides if hand == "D" else sides.translate(_MIRROR)]
    if first.is_ketose:
        name = KETOSES.get(name, name)
    elif len(first.chain) > 1:
        name = GAP.get(name, name)
    elif last.is_methyl:
        name = METHYL.get(name, name)
    names = {name, f"{hand}-{name}", f"{hand} sugar"}
    if (anomer := _anomeric_side(first, path[0])) is not None:
        names.add(f"{'alpha' if anomer == sides[-1] else 'beta'}-{hand}")
    return names


def _side(atom: Chem.Atom, before: Chem.Atom, after: Chem.Atom) -> str:
    """The side, R or L, of what is neither hydrogen nor the chain."""
    [other] = [
        n for n in atom.GetNeighbors() if n.GetIdx() not in (before.GetIdx(), after.GetIdx())
    ]
    return _hand(atom, [before.GetIdx(), other.GetIdx(), after.GetIdx()])


def _anomeric_side(first: End, centre: Chem.Atom) -> str | None:
    """The side of the substituent of an anomeric centre of a ring; None where there is none."""
    atom, below = first.chain[0], [*first.chain[1:], centre][0]
    if first.rank < _OXO or atom.GetChiralTag() == _UNMARKED:
        return None
    others = [b for b in atom.GetBonds() if b.GetOtherAtomIdx(atom.GetIdx()) != below.GetIdx()]
    hetero = [b for b in others if b.GetOtherAtom(atom).GetAtomicNum() != 6]
    inside = [b.GetOtherAtomIdx(atom.GetIdx()) for b in hetero if b.IsInRing()]
    outside = [b.GetOtherAtomIdx(atom.GetIdx()) for b in hetero if not b.IsInRing()]
    above = [n.GetIdx() for n in _carbons(atom, below)]
    if len(inside) != 1 or len(outside) != 1:
        return None
    # The ring's oxygen is above, and C1 of a ketose in the place of a hydrogen.
    return _hand(atom, [*inside, *outside, below.GetIdx(), *above])


def _hand(atom: Chem.Atom, order: list[int]) -> str:
    """The side of the second of three neighbours: above, at a side, below."""
    place = {n.GetIdx(): i for i, n in enumerate(atom.GetNeighbors())}
    order = [place[i] for i in order]
    swaps = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
    counter = (atom.GetChiralTag() == _COUNTER) ^ bool(swaps % 2)
    return "R" if counter else "L"
