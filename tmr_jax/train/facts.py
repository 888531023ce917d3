"""tmr facts --run runs/NAME: a finished run learns to rerank by facts.

Negatives are the encoder's own shortlists over its training pairs; the right one of each list is
the text's own molecule, or the molecule's own text. Cosines stay out of the training: those of
pairs that the encoder was trained on are better than those of others. Their weight is chosen on
validation; where the facts gain nothing there, nothing is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from tmr_jax import cli
from tmr_jax.data import load_pairs
from tmr_jax.data.features.facts import FACTS, facts_of, molecule_facts, text_facts
from tmr_jax.data.features.similarity import molecule_groups
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.data.workers import progress_of
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.facts import (
    EXACT,
    STATES,
    FactsTable,
    agreement,
    read_facts,
    save_facts,
)
from tmr_jax.eval.facts_pool import shortlists
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.pools import Restored, encode_pools, open_run
from tmr_jax.eval.rank import top
from tmr_jax.eval.scores import query_sets
from tmr_jax.models.runtime import FACTS_FILE
from tmr_jax.types import Pair, Pool, UserError

WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5)  # of the facts
EPOCHS, BATCH = 4, 128
NEAREST, NEGATIVES = 100, 32  # candidates that wrong ones are drawn from, and how many
LEARNING_RATE, DECAY = 1e-2, 1e-4


@dataclass(frozen=True)
class Arguments:
    """Learn to rerank by facts, from the training pairs of a run."""

    run: Path
    """Run directory, e.g. runs/quickstart; of its checkpoints the best on validation."""


class Drawn(NamedTuple):
    """A part of a batch: pairs of a text and a molecule, the first of each list is right."""

    text: np.ndarray  # float32 [B, 1 + N or 1, F]
    mol: np.ndarray  # float32 [B, 1 or 1 + N, F]
    counts: np.ndarray  # bool [B, 1 + N], False where another right one is no negative


class Shortlisted(NamedTuple):
    """Training pairs with their facts, and what the encoder takes for near."""

    text: np.ndarray  # float32 [n, F], of distinct texts
    mol: np.ndarray  # float32 [m, F], of distinct molecules
    pairs: np.ndarray  # int64 [P, 2], text and molecule
    molecules: np.ndarray  # int64 [n, K], nearest to each text
    texts: np.ndarray  # int64 [m, K], nearest to each molecule

    def batch(self, rows: np.ndarray, random: np.random.Generator) -> tuple[Drawn, Drawn]:
        """Text to molecule, and molecule to text."""
        text, mol = self.pairs[rows].T
        mols = np.column_stack([mol, _some(self.molecules[text], random)])
        texts = np.column_stack([text, _some(self.texts[mol], random)])
        return (
            Drawn(self.text[text, None], self.mol[mols], self._counts(text[:, None], mols)),
            Drawn(self.text[texts], self.mol[mol, None], self._counts(texts, mol[:, None])),
        )

    def _counts(self, text: np.ndarray, mol: np.ndarray) -> Bool[np.ndarray, "B N1"]:
        number = len(self.mol)
        right = np.isin(text * number + mol, self.pairs[:, 0] * number + self.pairs[:, 1])
        right[:, 0] = False
        return ~right


def _some(items: Int[np.ndarray, "B K"], random: np.random.Generator) -> Int[np.ndarray, "B N"]:
    order = random.random(items.shape).argsort(1)[:, :NEGATIVES]
    return np.take_along_axis(items, order, 1)


def shortlisted(model: Restored, pairs: Sequence[Pair]) -> Shortlisted:
    """The pairs whose molecules parse, with shortlists among themselves."""
    number = np.arange(len(pairs))
    strings = tuple(p.text for p in pairs), tuple(p.smiles for p in pairs)
    [(pool, text, mol)], _ = encode_pools(model, [Pool("training", *strings, number, number)])
    first_text, texts = np.unique(pool.texts, return_index=True, return_inverse=True)[1:]
    groups = molecule_groups(pool.smiles)
    first_mol, mols = np.unique(groups, return_index=True, return_inverse=True)[1:]
    text_rows, mol_rows = text.rows[first_text], mol.rows[first_mol]
    return Shortlisted(
        facts_of(text_facts, [pool.texts[i] for i in first_text], "facts of texts"),
        facts_of(molecule_facts, [pool.smiles[i] for i in first_mol], "facts of molecules"),
        np.column_stack([texts, mols]),
        top(text_rows, mol_rows, NEAREST)[0],
        top(mol_rows, text_rows, NEAREST)[0],
    )


def learn(data: Shortlisted, seed: int) -> Float[np.ndarray, "F S"]:
    """The worth of each state of each fact, by the softmax over shortlists in both directions."""
    random = np.random.default_rng(seed)
    pairs = np.flatnonzero(~np.isnan(data.text[data.pairs[:, 0]]).all(1))
    if not len(pairs):  # no text states anything
        return np.zeros((len(FACTS), STATES), np.float32)
    size = min(BATCH, len(pairs))
    steps = EPOCHS * (len(pairs) // size)
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps), weight_decay=DECAY)
    groups = np.unique([fact.group for fact in FACTS.values()], return_inverse=True)[1]
    # A rare fact is worth what those of its group are, until its own pairs say more.
    shares = jnp.zeros((len(FACTS), STATES)), jnp.zeros((groups.max() + 1, STATES))
    state = optimizer.init(shares)

    def worth(shares: tuple[Array, Array]) -> Array:
        return shares[0] + shares[1][groups]

    @jax.jit
    def step(shares: Any, state: Any, parts: tuple[Drawn, Drawn]) -> tuple[Any, Any]:
        gradient = jax.grad(lambda shares: _loss(worth(shares), parts))(shares)
        update, state = optimizer.update(gradient, state, shares)
        return optax.apply_updates(shares, update), state

    with progress_of("learning to rerank by facts", steps, transient=True) as on_progress:
        for done in range(steps):
            place = done % (steps // EPOCHS)
            if not place:
                pairs = random.permutation(pairs)
            parts = data.batch(pairs[place * size : (place + 1) * size], random)
            shares, state = step(shares, state, parts)
            on_progress(done + 1)
    return np.round(np.asarray(worth(shares)) * EXACT) / np.float32(EXACT)


def _loss(worth: Float[Array, "F S"], parts: tuple[Drawn, Drawn]) -> Float[Array, ""]:
    def mean(part: Drawn) -> Array:
        scores = agreement(worth, jnp.asarray(part.text), jnp.asarray(part.mol))
        return jax.nn.log_softmax(jnp.where(part.counts, scores, -jnp.inf), 1)[:, 0].mean()

    return -mean(parts[0]) - mean(parts[1])


def choose(model: Restored, worth: Float[np.ndarray, "F S"], pool: Pool) -> dict[float, float]:
    """MRR on a pool, mean over directions, of every weight."""
    [side], _ = encode_pools(model, [pool])
    lists = [shortlists(side.pool, queries) for queries in query_sets(*side)]
    return {
        weight: float(
            np.mean(
                [metrics(s.lists(FactsTable(worth, weight)).ranking("facts"))["mrr"] for s in lists]
            )
        )
        for weight in WEIGHTS
    }


def fit(run: Path, again: bool = True) -> FactsTable | None:
    """Learn, choose, and write facts.json to the run where the facts gain on validation.

    Without `again`, what the run has learned for its best checkpoint is kept. Errors: UserError
    for a model with a second stage of its own.
    """
    config, model = read_config(run), open_run(run, "best")
    if model.reranker is not None:
        raise UserError(
            f"expected a model without a second stage; got {config.model.name} in {run}; "
            "learn the facts for its encoder, a run with --model.name dual"
        )
    if not again and (facts := read_facts(run, model.checkpoint["sha256"])) is not None:
        return facts
    pairs = [p for p in load_pairs(config.data) if p.split == "train"]
    worth = learn(shortlisted(model, pairs), config.train.seed)
    protocol = validation_protocol(config.data)
    tried = choose(model, worth, load_pool(protocol, config.data))
    weight = max(tried, key=lambda w: (tried[w], -w))
    print(f"{protocol}, MRR by weight: " + ", ".join(f"{w:g} {m:.4f}" for w, m in tried.items()))
    if not weight:
        print("the facts gain nothing there: no reranking by facts")
        (run / FACTS_FILE).unlink(missing_ok=True)  # of an earlier choice
        return None
    facts = FactsTable(worth, weight)
    choice = {"chosen_on": protocol, "mrr": {str(w): m for w, m in tried.items()}}
    save_facts(run, model.checkpoint["sha256"], facts, choice)
    print(f"reranking by facts, weight {weight:g}: {run / FACTS_FILE}")
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("facts", _fit, arguments)


def _fit(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "facts", args)
    fit(chosen.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
