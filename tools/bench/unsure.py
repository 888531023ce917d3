"""Whether a search knows when it fails: python -m tools.bench.unsure --run RUN ZINC

A search warns where its best hit scores below a threshold that evaluation learns from validation
queries, unless a hit has all that a short text states (docs/search.md). This asks, by the defaults
of `tmr search`, the library of tools.bench.hybrid: the sixty short queries, 100 descriptions of its
molecules from ChEBI's test part, 30 of molecules that it lacks, and 30 sentences outside chemistry
that no evaluation chose anything on. A short query fails if fewer than five of its first ten are
right, or fewer than half of those that there are; a description, if its molecule is not among them.

Prints the AUROC of the best score (failures score lower) with its bootstrap interval, and how many
of each kind fail and are warned of.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool, Float

import tmr_jax
from tmr_jax import cli
from tmr_jax.config import DataConfig
from tmr_jax.data import load_pairs_with_report
from tmr_jax.data.features.graph import is_molecule
from tmr_jax.eval.diagnostics import unrelated_sentences
from tmr_jax.eval.ood import auroc, read_detector
from tmr_jax.models.run import load_run
from tmr_jax.search.retriever import Answer
from tools.bench.hybrid import FIRST, answers, canonical, library, sample
from tools.bench.short_queries import LEVEL, RESAMPLES, SEED, decide, short_queries

PRESENT, ABSENT, OUTSIDE = 100, 30, 30


@dataclass(frozen=True)
class Arguments:
    zinc: tyro.conf.Positional[Path]
    """Molecules of ZINC, e.g. zinc250k/zinc.txt.gz."""
    run: Path
    """Run directory, or a folder of exported weights."""


def described(smiles: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """ChEBI's test descriptions with their molecules: of the library, and of none of it."""
    pairs = [p for p in load_pairs_with_report(DataConfig(name="chebi"))[0] if p.split == "test"]
    np.random.default_rng(SEED).shuffle(pairs)
    there, held = [(p.text, canonical(p.smiles)) for p in pairs], set(smiles)
    present = [one for one in there if one[1] in held][:PRESENT]
    return present, [one for one in there if one[1] not in held][:ABSENT]


def best(answer: Answer) -> float:
    """What the warning goes by; a hit with all that the text states is better than any score."""
    return np.inf if answer.has_stated else answer.best_score


def trusted(run: Path) -> float:
    """The threshold that evaluation has left in the run."""
    detector = read_detector(run, load_run(run)[2].sha256)
    return np.nan if detector is None else detector.trusted


def interval(
    scores: Float[np.ndarray, " Q"], failed: Bool[np.ndarray, " Q"]
) -> tuple[float, float, float]:
    """The AUROC, and the bootstrap interval over queries."""
    random, values = np.random.default_rng(SEED), []
    while len(values) < RESAMPLES:
        rows = random.integers(0, len(scores), len(scores))
        if 0 < failed[rows].sum() < len(rows):
            values.append(auroc(-scores[rows][~failed[rows]], -scores[rows][failed[rows]]))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return auroc(-scores[~failed], -scores[failed]), float(low), float(high)


def main(words: list[str]) -> int:
    args = tyro.cli(Arguments, args=words, description=__doc__)
    smiles = list(dict.fromkeys(canonical(s) for s in sample(args.zinc) if is_molecule(s)))
    short, (present, absent) = short_queries(), described(smiles)
    outside = unrelated_sentences()[1::2][:OUTSIDE]
    right, place = decide(short, smiles), {s: i for i, s in enumerate(smiles)}
    texts = [*(q.text for q in short), *(t for t, _ in (*present, *absent)), *outside]
    with tempfile.TemporaryDirectory() as folder:
        model = library(tmr_jax.load(args.run), smiles, Path(folder))
        found = answers(model, texts, FIRST)[False]
    first = [[hit.content for hit in answer.hits[:FIRST]] for answer in found]
    failed = [
        2 * sum(row[place[s]] for s in ten) < min(FIRST, max(int(row.sum()), 1))
        for row, ten in zip(right, first, strict=False)
    ]
    failed += [own not in ten for (_, own), ten in zip(present, first[len(short) :], strict=False)]
    failed += [True] * (len(absent) + len(outside))
    wrong, scores = np.array(failed), np.array([best(answer) for answer in found])
    warned = np.array([answer.is_unsure for answer in found])
    print(f"{len(texts)} queries, {len(smiles):,} molecules; warned of {warned.sum()}")
    print(f"threshold, of validation: {trusted(args.run):.3f}")
    print("AUROC of the best score {:.3f} ({:.3f} to {:.3f})".format(*interval(scores, wrong)))
    kinds = {"short": short, "described": present, "absent": absent, "outside chemistry": outside}
    ends = np.cumsum([len(asked) for asked in kinds.values()])
    for kind, rows in zip(kinds, np.split(np.arange(len(texts)), ends[:-1]), strict=True):
        bad, said = wrong[rows], warned[rows]
        print(
            f"{kind}: {len(rows)}, {bad.sum()} fail; warned of {said[bad].sum()} of these and of "
            f"{said[~bad].sum()} of the other {(~bad).sum()}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("unsure", main, None, expected=(OSError,)))
