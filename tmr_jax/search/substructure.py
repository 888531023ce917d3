"""Which molecules hold a substructure, found out in a process that can be killed.

In: a SMARTS pattern and SMILES. RDKit can search for hours, or end the process, over a pattern of a
few characters (rdkit#4025, #8719), so nothing of it runs here: neither parsing nor matching.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tmr_jax.data.workers import Arrays, Died, Worker
from tmr_jax.types import UserError

TASK = "tmr_jax.search.match:match_chunk"
LIMIT = 2.0  # seconds for one question
CHUNK = 128  # molecules handed over at once: a twentieth of a second, if nothing is wrong
LONGEST = 1_000  # characters of a pattern


class TooSlow(UserError):
    """A pattern that not even the first molecules were searched for in time."""


class Looked(NamedTuple):
    """Of the first molecules of a list, as many as there was time for, which hold the pattern."""

    matches: Bool[np.ndarray, " n"]
    all: bool  # whether it was every molecule
    seconds: float = 0.0  # that it took, without the start of a process and the wait for others


class Matcher:
    """One process for patterns, one question at a time; a question that hangs costs the process."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._worker = Worker()
        weakref.finalize(self, self._worker.close)

    def look(self, smarts: str, smiles: Sequence[str], spent: float = 0.0) -> Looked:
        """Raises ValueError where the pattern is none, TooSlow where it needs more than the limit.

        `spent` seconds of the limit are gone already, over earlier molecules of the same question.
        """
        check_pattern(smarts)
        with self._lock:
            return self._look(smarts, list(smiles), spent)

    def close(self) -> None:
        self._worker.close()

    def _look(self, smarts: str, smiles: list[str], spent: float) -> Looked:
        self._worker.be_ready(TASK)
        found, begun = [np.zeros(0, bool)], time.monotonic()
        end = begun + self._limit - spent
        for low in range(0, max(len(smiles), 1), CHUNK):
            left = end - time.monotonic()
            part = smiles[low : low + CHUNK]
            answer = self._ask(smarts, part, left) if left > 0 else None
            if answer is None:
                if not low and not spent:
                    raise TooSlow(
                        f"expected a SMARTS that is searched for within {self._limit:g} s, got "
                        f"{smarts[:80]!r}, which takes longer or ends "
                        "RDKit; make it simpler"
                    )
                return Looked(np.concatenate(found), False, time.monotonic() - begun)
            if not answer["is_pattern"]:
                raise UserError(
                    f"expected a SMARTS such as c1ccccc1N, got {smarts[:80]!r}, which RDKit cannot "
                    "read; mend it"
                )
            found.append(answer["matches"])
        return Looked(np.concatenate(found), True, time.monotonic() - begun)

    def _ask(self, smarts: str, smiles: list[str], limit: float) -> Arrays | None:
        try:
            return self._worker.ask(TASK, [smarts, smiles], limit)
        except Died:
            return None


def check_pattern(smarts: str) -> None:
    """ValueError for what need not be handed to a process."""
    if not smarts.strip() or len(smarts) > LONGEST or not smarts.isprintable():
        raise UserError(
            f"expected a SMARTS of 1 to {LONGEST:,} printable characters, got {len(smarts):,}: "
            f"{smarts[:40]!r}; shorten or mend it"
        )
