"""The second stage that reads facts: how well a text agrees with what a structure shows.

For each fact (tmr_jax/data/features/facts.py) a pair is in one of `STATES`: the text states it and
the molecule has fewer, as many or more, or the text does not and the molecule has none, some or
many. A table says what each state is worth, and their sum, weighted, is added to the cosine of the
pair. So a score depends on the pair alone. tmr_jax/train/facts.py learns the table from training
pairs and chooses the weight on validation.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tmr_jax.data.features.facts import FACTS, facts_of, molecule_facts, text_facts
from tmr_jax.data.files import write_json
from tmr_jax.eval.rank import top
from tmr_jax.eval.rerank import Lists
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.eval.scores import QuerySet, Score, reranked_scores
from tmr_jax.models.encode import distinct
from tmr_jax.types import Pool, UserError

FILE, STAGE = "facts.json", "facts"  # in a run directory; the name of the stage
SHORTLIST = 100  # candidates, best by cosine, that are reordered
STATES = 12  # stated: 4 or more too few, 2, 1, none, 1, 2, 4 too many; not: 0, 1, 2, 4, 8 or more
EXACT = 1024.0  # worths are multiples of 1 / EXACT: their sum is exact in every order
QUERIES = 64  # scored at once


class FactsTable(NamedTuple):
    """What each state of each fact is worth, and the weight of the sum beside the cosine."""

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
    over = jnp.nan_to_num(mol - text)
    size = sum((abs(over) >= edge).astype(jnp.int32) for edge in (1, 2, 4))
    many = sum((mol >= edge).astype(jnp.int32) for edge in (1, 2, 4, 8))
    state = jnp.where(jnp.isnan(text), 7 + many, 3 + jnp.sign(over).astype(jnp.int32) * size)
    return worth[jnp.arange(len(worth)), state].sum(-1)


_agreement = jax.jit(agreement)


def pool_facts(pool: Pool) -> tuple[Float[np.ndarray, "n F"], Float[np.ndarray, "m F"]]:
    """Facts of the texts and of the molecules of a pool."""
    texts = facts_of(text_facts, pool.texts, "facts of texts")
    return texts, facts_of(molecule_facts, pool.smiles, "facts of molecules")


class Shortlists(NamedTuple):
    """The shortlists of one direction, with the facts of its queries and candidates."""

    side: QuerySet  # candidates of one group have the same input and the same facts
    query: np.ndarray  # float32 [Q, F]
    candidate: np.ndarray  # float32 [n, F], of the distinct candidates
    first: np.ndarray  # int64 [n], a row of `side` with each
    count: np.ndarray  # int64 [n], candidates that are equal to it
    item: np.ndarray  # int64 [Q, K], distinct candidates, best by cosine
    cosine: np.ndarray  # float32 [Q, K]

    def lists(self, facts: FactsTable) -> Lists:
        """The shortlists as this table orders them."""
        scores = np.empty_like(self.cosine)
        for start in range(0, len(scores), QUERIES):
            rows = slice(start, start + QUERIES)
            pair = self.query[rows, None], self.candidate[self.item[rows]]
            pair = pair if self.side.direction == "t2m" else pair[::-1]
            scores[rows] = facts.scores(self.cosine[rows], *pair)
        none = np.zeros((len(scores), 0), np.float32)
        reranked = Reranked(self.item, self.cosine, scores, none, none)
        candidate = self.side.candidate[self.first]
        target = self.side.group[self.side.target]
        return Lists(reranked, self.side.query, candidate, target, self.count)


def shortlists(pool: Pool, side: QuerySet) -> Shortlists:
    """The shortlists of a direction of a pool. Equal cosines go by a hash of the facts."""
    texts, molecules = pool_facts(pool)
    query, candidate, target = texts, molecules, pool.text_target
    if side.direction == "m2t":
        query, candidate, target = molecules, texts, pool.mol_target
    # The encoder cuts texts: two may be one input and yet state other facts.
    digest = np.array([_digest(row) for row in candidate])
    first, group = distinct(np.stack([side.group, digest], 1).view(np.uint8))
    item, cosine = top(side.query, side.candidate[first], SHORTLIST, digest[first])
    side, count = side._replace(group=group), np.bincount(group)
    return Shortlists(side, query[target >= 0], candidate[first], first, count, item, cosine)


def _digest(row: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=7).digest())


def facts_scores(pool: Pool, sides: list[QuerySet], facts: FactsTable) -> list[Score]:
    """Scores of the stage `facts`, of every direction."""
    found = [shortlists(pool, side) for side in sides]
    lists = {one.side.direction: one.lists(facts) for one in found}
    sizes = {"shortlist": SHORTLIST, "weight": facts.weight}
    return reranked_scores(pool.protocol, [one.side for one in found], lists, sizes, (STAGE,))


# In a run directory


def save_facts(run: Path, checkpoint: str, facts: FactsTable, choice: dict[str, Any]) -> None:
    """Writes the table for a checkpoint (its SHA-256), in place of one for another.

    `choice` says what the weight was chosen on.
    """
    worth = dict(zip(FACTS, facts.worth.tolist(), strict=True))
    content = {"checkpoint": checkpoint, "weight": facts.weight, **choice, "worth": worth}
    write_json(run / FILE, content, indent=1)


def read_facts(run: Path, checkpoint: str) -> FactsTable | None:
    """The table of this checkpoint; None where there is none. Errors: UserError for other facts."""
    path = run / FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["checkpoint"] != checkpoint:
        return None
    if list(content["worth"]) != list(FACTS):
        raise UserError(
            f"expected the facts of this tmr_jax in {path}; got others; learn them again: "
            f"python -m tmr_jax.train.facts --run {run}"
        )
    worth = np.array([content["worth"][name] for name in FACTS], np.float32)
    return FactsTable(worth, float(content["weight"]))
