"""Diagnostics of one evaluated pool: OOD scores of queries, calibration, geometry.

In: encoded pools: the evaluated one, the run's validation pool and, if its files are on disk,
another data set's pool. Out: a record for results.json. `fit` sees validation only; the evaluated
pool is only measured. All numbers are about cosines: for a model with a second stage, about the
stage `det`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.config import DataConfig
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.ood import OodDetector, auroc, ood_scores
from tmr_jax.eval.pools import EncodedPool
from tmr_jax.eval.rank import rank, score_chunks
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.types import Direction, Pool

UNRELATED = "unrelated sentences"
PASSING = 0.95  # share of validation queries below the threshold
DIRECTIONS: tuple[Direction, ...] = ("t2m", "m2t")
EDGES = np.linspace(-1.0, 1.0, 81)  # of histograms of cosines
BINS = 15  # of equal width, as in Guo et al.
COLDEST, WARMEST = 1e-3, 10.0  # temperatures of cosines; training learns 0.01 to 0.07
TINY = 1e-12  # confidences stay this far from 0 and 1, so that the log loss is finite


class Signal(NamedTuple):
    """One way to compute an OOD score: 1 - mean cosine to the nearest rows of a reference."""

    reference: Literal["validation texts", "candidates"]
    neighbours: int


class Fitted(NamedTuple):
    """Everything that is chosen or fitted, on validation only."""

    protocol: str  # of the validation pool
    known: np.ndarray  # float32 [R, D]: texts that a text is compared with
    signal: Signal
    tried: dict[Signal, float]  # AUROC
    threshold: float  # PASSING of the validation queries have a lower OOD score
    temperature: dict[Direction, float]
    detector: OodDetector  # the best of the signals that need no candidates


# Texts first: the first of equals is chosen, and a text reference works with any index.
SIGNALS = tuple(
    Signal(reference, neighbours)
    for reference in ("validation texts", "candidates")
    for neighbours in (1, 5, 20)
)


def companions(data: DataConfig) -> list[Pool]:
    """The run's validation pool, and another data set's test pool if its files are on disk.

    Empty without validation pairs: there is nothing to choose and fit on.
    """
    try:
        pools = [load_pool(validation_protocol(data), data)]
    except ValueError as error:  # scores need no validation pairs; only this record is skipped
        print(
            f"OOD scores and calibration are skipped: no validation pairs ({error})",
            file=sys.stderr,
        )
        return []
    other = _other_protocol(data)
    return pools + ([] if other is None else [load_pool(other, data)])


def unrelated_sentences() -> list[str]:
    """Everyday sentences that describe no molecule, written for this package.

    `fit` reads those at even places (from 0), `ood_record` measures on the others.
    """
    file = resources.files("tmr_jax.eval") / "unrelated.txt"
    return file.read_text(encoding="utf-8").splitlines()


def _other_protocol(data: DataConfig) -> str | None:
    """None if its files are not on disk: nothing is downloaded."""
    from tmr_jax.data.datasets import chebi20, pcdes
    from tmr_jax.data.download import find

    if data.name == "pcdes":
        return "chebi20-molt5/test-split" if find(chebi20.MOLT5_PARTS["test"]) else None
    files = (pcdes.SMILES, pcdes.TEXTS)
    on_disk = find(pcdes.TABLE) or all(find(part) for part in files)
    return "pcdes/file-order" if on_disk else None


def fit(validation: EncodedPool, unrelated: Float[np.ndarray, "S D"]) -> Fitted | None:
    """Choose signal, threshold and temperatures; None for fewer than two text queries.

    Every second validation text is a reference, so that no text is its own neighbour; the others
    must be separable from every second of `unrelated`, the rows of `unrelated_sentences()`.
    """
    texts, candidates, _ = validation.queries("t2m")
    if len(texts) < 2:
        return None
    known, familiar = texts[::2], texts[1::2]
    references = {"validation texts": known, "candidates": candidates.rows}

    def scores(signal: Signal, rows: np.ndarray) -> np.ndarray:
        return ood_scores(rows, references[signal.reference], signal.neighbours)

    def threshold(signal: Signal) -> float:
        return float(np.quantile(scores(signal, familiar), PASSING))

    tried = {s: auroc(scores(s, familiar), scores(s, unrelated[::2])) for s in SIGNALS}
    signal = max(tried, key=lambda s: tried[s])
    free = max((s for s in SIGNALS if s.reference == "validation texts"), key=lambda s: tried[s])
    temperatures: dict[Direction, float] = {}
    for direction in DIRECTIONS:
        query, candidates, target = validation.queries(direction)
        if len(query):
            temperatures[direction] = temperature(query, candidates.rows, target)
    detector = OodDetector(known, free.neighbours, threshold(free))
    protocol = validation.pool.protocol
    return Fitted(protocol, known, signal, tried, threshold(signal), temperatures, detector)


def diagnose(
    test: EncodedPool,
    fitted: Fitted,
    others: Sequence[EncodedPool],
    unrelated: Float[np.ndarray, "S D"],
    trained: float | None,
) -> dict[str, Any] | None:
    """The record of one evaluated pool; None for fewer than two text queries.

    `others` of the pool's own data set are skipped. `unrelated` are rows of
    `unrelated_sentences()`, `trained` is the temperature of training.
    """
    if len(test.text_queries()) < 2:
        return None
    family = _family(test.pool)
    others = [o for o in others if _family(o.pool) != family and len(o.text_queries()) > 1]
    return {
        "protocol": test.pool.protocol,
        "validation": fitted.protocol,
        "ood": ood_record(test, fitted, others, unrelated),
        "calibration": [
            calibration_record(test, direction, value, trained)
            for direction, value in fitted.temperature.items()
            if len(test.queries(direction)[2])
        ],
        "geometry": geometry_record(test),
        "similarity": {
            "edges": EDGES.tolist(),
            "counts": {name: c for s in (test, *others) for name, c in _cosines(s).items()},
        },
    }


def _family(pool: Pool) -> str:
    """The data set of a pool: "pcdes" of pcdes/file-order and of ood/open→pcdes."""
    return pool.protocol.split("→")[-1].split("/")[0].split("-")[0]


def ood_record(
    test: EncodedPool,
    fitted: Fitted,
    others: Sequence[EncodedPool],
    unrelated: Float[np.ndarray, "S D"],
) -> dict[str, Any]:
    """AUROC of the chosen signal, against the sentences that did not choose it and `others`."""
    signal = fitted.signal
    from_validation = signal.reference == "validation texts"
    reference = fitted.known if from_validation else test.mol.rows
    queries = {sides.pool.protocol: sides.queries("t2m")[0] for sides in (test, *others)}
    queries[UNRELATED] = unrelated[1::2]
    scores = {n: ood_scores(rows, reference, signal.neighbours) for n, rows in queries.items()}
    tested = scores[test.pool.protocol]
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), 60)
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in scores.items()}
    return {
        **signal._asdict(),
        "tried": [{**s._asdict(), "auroc": value} for s, value in fitted.tried.items()],
        "threshold": fitted.threshold,
        "queries": {name: len(values) for name, values in scores.items()},
        "flagged": {n: float((values > fitted.threshold).mean()) for n, values in scores.items()},
        "auroc": {n: auroc(tested, v) for n, v in scores.items() if n != test.pool.protocol},
        "histogram": {"edges": edges.tolist(), "counts": counts},
    }


def calibration_record(
    test: EncodedPool, direction: Direction, fitted: float, trained: float | None
) -> dict[str, Any]:
    """ECE of the first place under the temperature of training, or 1, and under the fitted one.

    A tie for the first place is right with the chance that a random order gives.
    """
    query, candidate, target = test.queries(direction)
    correct = per_query(rank(query, candidate.rows, target, candidate.group))["hits@1"]
    given = 1.0 if trained is None else trained
    before, after = (confidence(query, candidate.rows, t) for t in (given, fitted))
    return {
        "direction": direction,
        "queries": len(target),
        "temperature_before": given,
        "temperature": fitted,
        "ece_before": ece(before, correct),
        "ece": ece(after, correct),
        "confidence": float(after.mean()),
        "hits@1": float(correct.mean()),
        "bins": {name: values.tolist() for name, values in reliability(after, correct).items()},
    }


def geometry_record(test: EncodedPool) -> dict[str, Any]:
    """Alignment, uniformity and modality gap of the evaluated pairs.

    `gap_of_parts` is the gap between the means of words and of atoms, before a memory bank or
    another readout; None if these are not kept.
    """
    texts = test.text_queries()
    molecules = test.pool.text_target[texts]
    text, mol = test.text.rows[texts], test.mol.rows[molecules]
    means = _means(test.text, texts), _means(test.mol, molecules)
    both = means[0] is not None and means[1] is not None
    return {
        "alignment": alignment(text, mol),
        "uniformity_text": uniformity(text),
        "uniformity_mol": uniformity(mol),
        "modality_gap": modality_gap(text, mol),
        "gap_of_parts": modality_gap(*means) if both else None,
    }


def _means(encoded: Encoded, items: np.ndarray) -> Any:
    """Rows of length one: the mean of each item's words or atoms."""
    side = encoded.side
    if side is None:
        return None
    assert (np.diff(side.offsets) > 0).all(), "an item without words or atoms was encoded"
    sums = np.add.reduceat(side.token_embeddings, side.offsets[:-1])
    return l2_normalize(sums)[encoded.group[items]]


def _cosines(sides: EncodedPool) -> dict[str, list[int]]:
    """Histograms of cosines of positive and of negative pairs (Figure 5 of both papers)."""
    texts = sides.text_queries()
    molecules = sides.pool.text_target[texts]
    groups = sides.text.group[texts], sides.mol.group[molecules]
    counts = similarities(sides.text.rows[texts], sides.mol.rows[molecules], *groups)
    kinds = zip(("positive", "negative"), counts, strict=True)
    return {f"{kind}, {sides.pool.protocol}": count.tolist() for kind, count in kinds}


# Geometry: row i of the texts belongs to row i of the molecules; all have length one


def alignment(text: Float[np.ndarray, "Q D"], mol: Float[np.ndarray, "Q D"]) -> float:
    """Mean squared distance of pairs (Wang & Isola 2020, alpha 2): 0 is best, 4 is worst."""
    return float(np.square(text - mol).sum(1, dtype=np.float64).mean())


def uniformity(rows: Float[np.ndarray, "Q D"]) -> float:
    """log of the mean of exp(-2 d^2) over pairs of rows (Wang & Isola 2020, t 2): lower is better.

    0 if all rows are the same, near -4 if they fill the sphere. Requires: at least two rows.
    """
    total = 0.0
    for start, scores in score_chunks(rows, rows):
        place = np.arange(len(scores))
        scores[place, start + place] = -np.inf  # itself
        total += float(np.exp(4.0 * scores - 4.0).sum(dtype=np.float64))  # d^2 = 2 - 2 cosine
    return math.log(total / (len(rows) * (len(rows) - 1)))


def modality_gap(text: Float[np.ndarray, "Q D"], mol: Float[np.ndarray, "Q D"]) -> float:
    """Distance of the mean text from the mean molecule (Liang et al. 2022): 0 to 2."""
    return float(np.linalg.norm(text.mean(0, dtype=np.float64) - mol.mean(0, dtype=np.float64)))


def similarities(
    text: Float[np.ndarray, "Q D"],
    mol: Float[np.ndarray, "Q D"],
    text_group: Int[np.ndarray, " Q"],
    mol_group: Int[np.ndarray, " Q"],
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """Histograms over EDGES of the cosines of positive pairs and of negative pairs.

    Pairs with equal texts or equal molecules (equal groups) that are not a row's own are neither.
    """
    positive, negative = np.zeros((2, len(EDGES) - 1), np.int64)
    for start, scores in score_chunks(text, mol):
        scores = np.clip(scores, -1.0, 1.0)
        rows = np.arange(start, start + len(scores))
        positive += np.histogram(scores[rows - start, rows], EDGES)[0]
        same = text_group[rows, None] == text_group[None]
        same |= mol_group[rows, None] == mol_group[None]
        negative += np.histogram(scores[~same], EDGES)[0]
    return positive, negative


# Calibration (Guo et al. 2017, On Calibration of Modern Neural Networks)


def temperature(
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
) -> float:
    """The temperature that minimises the log loss of `confidence` against hits.

    Guo et al. 4.2 maximise the likelihood of the target instead. In retrieval thousands of other
    candidates hold that likelihood down, which leaves first places underconfident. A tie at the
    top counts as partly right.
    """
    from scipy.optimize import minimize_scalar

    def log_loss(log_t: float) -> float:
        total, scale = 0.0, math.exp(-log_t)
        for start, scores in score_chunks(query, candidate):
            best = scores.max(1)
            goal = target[start : start + len(scores), None]
            reached = np.take_along_axis(scores, goal, 1)[:, 0]
            right = (reached == best) / (scores == best[:, None]).sum(1)
            sure = np.clip(1.0 / _mass(scores, scale), TINY, 1.0 - TINY)
            total -= float((right * np.log(sure) + (1.0 - right) * np.log1p(-sure)).sum())
        return total / len(query)

    bounds = math.log(COLDEST), math.log(WARMEST)
    best = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return math.exp(best.x)


def confidence(
    query: Float[np.ndarray, "Q D"], candidate: Float[np.ndarray, "C D"], temperature: float
) -> Float[np.ndarray, " Q"]:
    """Probability of each query's best candidate under softmax(cosines / temperature).

    Candidates that are one model input share their mass: each of two duplicates has at most 1/2.
    """
    sure = np.empty(len(query))
    for start, scores in score_chunks(query, candidate):
        sure[start : start + len(scores)] = 1.0 / _mass(scores, 1.0 / temperature)
    return sure


def _mass(scores: np.ndarray, scale: float) -> np.ndarray:
    """Sum over candidates of exp(scale * score), where the best candidate contributes 1."""
    shifted = scores - scores.max(1, keepdims=True)
    shifted *= np.float32(scale)
    return np.exp(shifted, out=shifted).sum(1, dtype=np.float64)


def reliability(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> dict[str, np.ndarray]:
    """Queries in bins ]0, 1/bins], ]1/bins, 2/bins] ... of confidence: `count`, and the means
    `confidence` and `correct`, which are zero in an empty bin.

    `correct` may be a fraction: the expected value of a first place when candidates tie.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sure, right = (
        np.bincount(place, x, bins) / np.maximum(count, 1) for x in (confidence, correct)
    )
    return {"count": count, "confidence": sure, "correct": right}


def ece(
    confidence: Float[np.ndarray, " Q"], correct: Float[np.ndarray, " Q"], bins: int = BINS
) -> float:
    """Expected calibration error: mean over queries of |confidence - correctness| of their bin."""
    binned = reliability(confidence, correct, bins)
    distance = np.abs(binned["confidence"] - binned["correct"])
    return float(np.average(distance, weights=binned["count"]))
