"""Do explanations mean something? Deletes what they name and sees whether the score falls:

    TMR_JAX_DATA=DIR python tools/check_explanations.py --run runs/det_open

In: a run and right pairs of its first test pool, drawn by the seed among those with so many words
and atoms that a random choice can miss. Each pair loses the five words that its explanation ranks
first, and then five at random (mean over several draws); likewise five atoms. Out: by how much more
the score falls under the explanation's choice, with an interval of 95 % over pairs (paired
bootstrap). One deletion at a time made the ranking, so that five at once fall together is no matter
of course: words that say the same stand in for one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from rich.progress import track

import tmr_jax
from tmr_jax.data.features.graph import BadMolecule, atom_order, featurise
from tmr_jax.data.features.text import clean_text
from tmr_jax.data.pools import load_pool
from tmr_jax.eval.evaluate import default_protocols
from tmr_jax.eval.metrics import bootstrap
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import TrainedModel
from tmr_jax.search.explain import WORD, explain, table_of, without_atoms, without_words

LEAST = 3  # times as many words and atoms as are deleted


@dataclass(frozen=True)
class Arguments:
    run: Path
    pairs: int = 200
    deleted: int = 5
    draws: int = 10
    """Random choices for each pair."""
    seed: int = 0


def check(chosen: Arguments) -> dict[str, tuple[float, float, float]]:
    """Prints and returns, for words and atoms, mean and ends of the interval of the difference."""
    retriever = tmr_jax.load(chosen.run)
    assembly = retriever._assembly
    encoder = Encoder(assembly, retriever._params, parts=True)
    rng = np.random.default_rng(chosen.seed)
    drawn = pairs_of(assembly, chosen, rng)
    falls: dict[str, list[tuple[float, float]]] = {"words": [], "atoms": []}
    for text, smiles in track(drawn, "explaining", transient=True):
        told = explain(assembly, encoder, text, smiles)
        row, mol = encoder.texts([text]).rows[0], encoder.molecules([smiles])[0].rows[0]
        drops = [word.drop for word in told.words]
        words = partial(score_without_words, encoder, told.text, mol)
        falls["words"].append(fall(told.score, drops, words, chosen, rng))
        atoms = partial(score_without_atoms, assembly, encoder, smiles, row)
        falls["atoms"].append(fall(told.score, list(told.drops), atoms, chosen, rng))
    return {name: said(name, np.array(found), chosen) for name, found in falls.items()}


def said(name: str, falls: np.ndarray, chosen: Arguments) -> tuple[float, float, float]:
    """Of [pairs, 2] falls, under the explanation's choice and under random ones."""
    more = falls[:, 0] - falls[:, 1]
    (low,), (high,) = bootstrap(more[None], 2000, chosen.seed, 0.95)
    ours, random = falls.mean(0)
    print(
        f"{name}: {len(more)} pairs, {chosen.deleted} deleted, seed {chosen.seed}: the score falls "
        f"by {ours:.4f} under the explanation's choice and by {random:.4f} under a random one; "
        f"difference {more.mean():.4f} ({low:.4f} to {high:.4f}), above zero in "
        f"{(more > 0).mean():.0%} of the pairs"
    )
    return float(more.mean()), float(low), float(high)


def score_without_words(
    encoder: Encoder, text: str, mol: np.ndarray, sets: list[list[int]]
) -> np.ndarray:
    return encoder.texts([without_words(text, places) for places in sets]).rows @ mol


def score_without_atoms(
    assembly: TrainedModel, encoder: Encoder, smiles: str, text: np.ndarray, sets: list[list[int]]
) -> np.ndarray:
    told = assembly.config.features
    features = featurise(smiles, told.molecule, told.motif)
    row_of = np.argsort(atom_order(smiles, told.molecule)[1])  # atom of the SMILES -> its row
    parts = [without_atoms(features, row_of[atoms].tolist()) for atoms in sets]
    return encoder.mol_rows(table_of(assembly, parts)).rows @ text


def pairs_of(
    assembly: TrainedModel, chosen: Arguments, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Right pairs of the run's first test pool that are long enough."""
    config = assembly.config
    pool = load_pool(default_protocols(config)[0], config.data)
    least = LEAST * chosen.deleted
    found = []
    for i in rng.permutation(len(pool.texts)):
        if len(found) == chosen.pairs:
            break
        text, smiles = pool.texts[i], pool.smiles[pool.text_target[i]]
        if pool.text_target[i] < 0 or len(WORD.findall(clean_text(text))) < least:
            continue
        try:
            atoms = len(featurise(smiles, config.features.molecule, config.features.motif).nodes)
        except BadMolecule:
            continue
        if atoms >= least:
            found.append((text, smiles))
    return found


def fall(
    score: float,
    drops: list[float],
    score_without: Callable[[list[list[int]]], np.ndarray],
    chosen: Arguments,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """What the score loses without the first ones by drop, and without random ones (mean)."""
    first = np.argsort(-np.array(drops), kind="stable")[: chosen.deleted].tolist()
    others = [
        rng.choice(len(drops), chosen.deleted, replace=False).tolist() for _ in range(chosen.draws)
    ]
    left = score - score_without([first, *others])
    return float(left[0]), float(left[1:].mean())


if __name__ == "__main__":
    check(tyro.cli(Arguments, description=__doc__))
