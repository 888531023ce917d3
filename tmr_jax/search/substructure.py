"""Which molecules hold a substructure, decided in a process that can be killed.

In: a SMARTS pattern and SMILES. RDKit can search for hours, or crash, over a pattern of a few
characters (rdkit#4025, #8719), so a process of its own parses and matches it.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from rdkit import Chem, rdBase

from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.workers import Arrays, Died, Worker
from tmr_jax.index.schema import Hit, ranked
from tmr_jax.types import UserError

TASK = "tmr_jax.search.substructure:match_chunk"
ATOMS_TASK = "tmr_jax.search.substructure:match_atoms"
LIMIT = 2.0  # seconds for one query
CHUNK = 128  # molecules per request to the process: a twentieth of a second, if nothing is wrong
FIRST = 128  # molecules checked first; four times as many next
LONGEST = 1_000  # characters of a pattern
STEREO = Chem.SubstructMatchParameters()
STEREO.useChirality = True  # of patterns that state it


class TooSlow(UserError):
    """There was no time to search even the first molecules for a pattern."""


class Checked(NamedTuple):
    """Which of the first molecules of a list hold the pattern, as many as there was time for."""

    matches: Bool[np.ndarray, " n"]
    all: bool  # whether it was every molecule
    seconds: float = 0.0  # without the start of a process and the wait for other queries


class Matcher:
    """One process for patterns, one query at a time; a query that hangs costs the process."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._worker = Worker()
        weakref.finalize(self, self._worker.close)

    def nearest(
        self,
        smarts: str,
        k: int,
        find: Callable[[int], list[Hit]],
        first: Callable[[list[Hit]], list[Hit]] = list,
    ) -> tuple[list[Hit], int | None]:
        """The k best hits that hold a substructure, as far as the limit reaches.

        With them, how many molecules were checked, where time ran out.
        `find(n)` returns the n nearest molecules, which are checked from the nearest on; `first`
        drops hits that stand for the same molecule. Raises UserError for an invalid pattern, and
        TooSlow where not even the first molecules are checked in time.
        """
        hits: list[Hit] = []
        checked, spent, fetched = 0, 0.0, max(4 * k, FIRST)
        while True:
            near = find(fetched)
            part = self.check(smarts, [hit.content for hit in near[checked:]], spent)
            spent += part.seconds
            matches = part.matches.tolist()
            hits += [h for h, holds in zip(near[checked:], matches, strict=False) if holds]
            hits = first(hits)
            checked += len(matches)
            if not part.all or len(hits) >= k or len(near) < fetched:
                return ranked(hits[:k]), None if part.all else checked
            fetched *= 4

    def check(self, smarts: str, smiles: Sequence[str], spent: float = 0.0) -> Checked:
        """Raises UserError for an invalid pattern, TooSlow where it needs more than the limit.

        `spent` seconds of the limit went to earlier molecules of the same query.
        """
        if not smarts.strip() or len(smarts) > LONGEST or not smarts.isprintable():
            raise UserError(
                f"expected a SMARTS of 1 to {LONGEST:,} printable characters, got {len(smarts):,}: "
                f"{smarts[:40]!r}; shorten or correct it"
            )
        with self._lock:
            self._worker.be_ready(TASK)
            return self._checked(smarts, list(smiles), spent)

    def mark(self, smarts: str, hits: Sequence[Hit]) -> list[Hit]:
        """Hits of `nearest` with the atoms of all matches in `held`, as far as the limit reaches.

        Atoms are in the order of the SMILES.
        """
        marked: list[Hit] = []
        with self._lock, suppress(Died):
            end = time.monotonic() + self._limit
            self._worker.be_ready(TASK)
            while len(marked) < len(hits) and (left := end - time.monotonic()) > 0:
                part = hits[len(marked) : len(marked) + CHUNK]
                smiles = [hit.content for hit in part]
                held = self._worker.ask(ATOMS_TASK, [smarts, smiles], left)
                marked += [
                    hit._replace(held=tuple(held[str(i)].tolist())) for i, hit in enumerate(part)
                ]
        return [*marked, *hits[len(marked) :]]

    def close(self) -> None:
        self._worker.close()

    def _checked(self, smarts: str, smiles: list[str], spent: float) -> Checked:
        matches, start = [np.zeros(0, bool)], time.monotonic()
        end = start + self._limit - spent
        for low in range(0, max(len(smiles), 1), CHUNK):
            left = end - time.monotonic()
            part = smiles[low : low + CHUNK]
            reply = None
            if left > 0:
                with suppress(Died):
                    reply = self._worker.ask(TASK, [smarts, part], left)
            if reply is None:
                if not low and not spent:
                    raise TooSlow(
                        f"expected a SMARTS that takes at most {self._limit:g} s to find, got "
                        f"{smarts[:80]!r}, which takes longer or crashes RDKit; simplify it"
                    )
                return Checked(np.concatenate(matches), False, time.monotonic() - start)
            if not reply["is_pattern"]:
                raise UserError(
                    f"expected a SMARTS such as c1ccccc1N, got {smarts[:80]!r}, which RDKit cannot "
                    "parse; correct it"
                )
            matches.append(reply["matches"])
        return Checked(np.concatenate(matches), True, time.monotonic() - start)


MATCHER = Matcher()  # of this program; its process starts with the first pattern


def match_chunk(smarts: str, smiles: list[str]) -> Arrays:
    """`is_pattern`, bool [], and which molecules hold the pattern: `matches`, bool [n].

    Runs only in the process of a `Matcher`.
    """
    with rdBase.BlockLogs():
        pattern = _pattern(smarts)
        matches = np.zeros(len(smiles), bool)
        for i, text in enumerate(smiles if pattern is not None else ()):
            try:
                matches[i] = parse_smiles(text).HasSubstructMatch(pattern, STEREO)
            except BadMolecule:  # in an index of another RDKit version
                continue
    return {"is_pattern": np.array(pattern is not None), "matches": matches}


def match_atoms(smarts: str, smiles: list[str]) -> Arrays:
    """Which atoms of molecules are in a match of the pattern: bool [atoms], of each by its place.

    Runs only in the process of a `Matcher`, on molecules that it found to hold the pattern.
    """
    marks = {}
    with rdBase.BlockLogs():
        pattern = _pattern(smarts)
        for i, text in enumerate(smiles):
            mol = parse_smiles(text)
            held = np.zeros(mol.GetNumAtoms(), bool)
            for match in mol.GetSubstructMatches(pattern, STEREO):
                held[list(match)] = True
            marks[str(i)] = held
    return marks


def _pattern(smarts: str) -> Chem.Mol | None:
    """The pattern; a whole molecule where only that says what is meant.

    A ring with alternating double bonds (C1=CC=CC=C1) matches no aromatic ring as SMARTS, and
    SMARTS have no stereo of double bonds.
    """
    pattern = Chem.MolFromSmarts(smarts)
    molecule = Chem.MolFromSmiles(smarts)
    if pattern is None or molecule is None:
        return pattern
    has_aromatic = any(atom.GetIsAromatic() for atom in molecule.GetAtoms())
    is_kekule = has_aromatic and not any(c.islower() for c in re.sub(r"\[.*?\]|Cl|Br", "", smarts))
    return molecule if is_kekule or "/" in smarts or "\\" in smarts else pattern
