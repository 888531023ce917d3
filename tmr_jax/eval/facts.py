"""The second stage that reads facts: how well a text agrees with what a structure shows.

For each fact (tmr_jax/data/features/facts.py) a pair is in one of `STATES`: the text states it and
the molecule has fewer, as many or more, or the text does not and the molecule has none, some or
many; what a text leaves out says more, the more it states. A table says what each state is worth,
and their sum, weighted, is added to the cosine of the pair. So a score depends on the pair alone.
tmr_jax/train/facts.py learns the table from training pairs and chooses the weight on validation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tmr_jax.data.features.facts import FACTS, TABLE
from tmr_jax.data.files import sha256_of, write_json
from tmr_jax.models.runtime import FACTS_FILE
from tmr_jax.types import UserError

SHORTLIST = 300  # candidates, best by cosine, that are reordered
OVER, MANY, DETAIL = (1, 2, 4), (1, 2, 4, 8), (4, 8)  # where a next state begins
# States of a fact that is stated: molecules with -4, -2, -1, 0, ... more; of one that is not, for
# each level of how many facts the text states.
STATED, UNSAID = 2 * len(OVER) + 1, len(MANY) + 1
STATES = STATED + (len(DETAIL) + 1) * UNSAID
EXACT = 1024.0  # worths are multiples of 1 / EXACT: their sum is exact in every order


class FactsTable(NamedTuple):
    """What each state of each fact is worth, and the weight of the sum in a score."""

    worth: np.ndarray  # float32 [F, STATES]
    weight: float

    def scores(
        self,
        cosine: Float[np.ndarray, "*B"],
        text: Float[np.ndarray, "*#B F"],
        mol: Float[np.ndarray, "*#B F"],
    ) -> Float[np.ndarray, "*B"]:
        """Cosine and weighted agreement of each pair."""
        return cosine + np.float32(self.weight) * np.asarray(_agreement(self.worth, text, mol))


def agreement(
    worth: Float[Array, "F S"], text: Float[Array, "*#B F"], mol: Float[Array, "*#B F"]
) -> Float[Array, "*B"]:
    """The sum over facts of what the state of the pair is worth."""
    unsaid, over = jnp.isnan(text), jnp.nan_to_num(mol - text)
    detail = _level((~unsaid).sum(-1, keepdims=True), DETAIL)
    stated = len(OVER) + jnp.sign(over).astype(jnp.int32) * _level(abs(over), OVER)
    state = jnp.where(unsaid, STATED + detail * UNSAID + _level(mol, MANY), stated)
    return worth[jnp.arange(len(worth)), state].sum(-1)


def _level(number: Array, edges: tuple[int, ...]) -> Array:
    """How many of the edges a number reaches."""
    return sum(((number >= edge).astype(jnp.int32) for edge in edges), jnp.int32(0))


_agreement = jax.jit(agreement)


# In a run directory


def save_facts(run: Path, checkpoint: str, facts: FactsTable, choice: dict[str, Any]) -> None:
    """Writes the table for a checkpoint (its SHA-256), in place of one for another.

    `choice` says what the weight was chosen on.
    """
    worth = dict(zip(FACTS, facts.worth.tolist(), strict=True))
    content = {"checkpoint": checkpoint, "facts_sha256": sha256_of(TABLE), "weight": facts.weight}
    write_json(run / FACTS_FILE, content | choice | {"worth": worth}, indent=1)


def read_facts(run: Path, checkpoint: str) -> FactsTable | None:
    """The table of this checkpoint; None where there is none. Errors: UserError for other facts."""
    path = run / FACTS_FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["checkpoint"] != checkpoint:
        return None
    if content.get("facts_sha256") != sha256_of(TABLE):
        raise UserError(
            f"expected the facts of this tmr_jax in {path}; got others; learn them again: "
            f"tmr facts --run {run}"
        )
    worth = np.array([content["worth"][name] for name in FACTS], np.float32)
    return FactsTable(worth, float(content["weight"]))
