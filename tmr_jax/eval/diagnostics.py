"""Diagnostics of one evaluated pool: OOD scores of queries, calibration, geometry.

In: encoded pools: the evaluated one, the run's validation pool and, if its files are on disk,
another data set's pool. Out: a record for results.json. `fit` sees validation only; the evaluated
pool is only measured. All numbers are about cosines: for a model with a second stage, about the
stage `det`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from tmr_jax.config import DataConfig
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.eval.calibration import confidence, ece, reliability, temperature
from tmr_jax.eval.geometry import EDGES, alignment, modality_gap, similarities, uniformity
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.ood import OodDetector, auroc, ood_scores
from tmr_jax.eval.pools import EncodedPool
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.types import Pool

UNRELATED = "unrelated sentences"
PASSING = 0.95  # share of validation queries below the threshold
DIRECTIONS: tuple[Direction, ...] = ("t2m", "m2t")


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
    """None if its files are not on disk (nothing is downloaded), and for generated text."""
    from tmr_jax.data.datasets import chebi20, pcdes
    from tmr_jax.data.download import find

    if data.name == "demo":
        return None
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
    return {
        **signal._asdict(),
        "tried": [{**s._asdict(), "auroc": value} for s, value in fitted.tried.items()],
        "threshold": fitted.threshold,
        "queries": {name: len(values) for name, values in scores.items()},
        "flagged": {n: float((values > fitted.threshold).mean()) for n, values in scores.items()},
        "auroc": {n: auroc(tested, v) for n, v in scores.items() if n != test.pool.protocol},
        "histogram": _histogram(scores),
    }


def _histogram(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), 60)
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in scores.items()}
    return {"edges": edges.tolist(), "counts": counts}


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
    bins = reliability(after, correct)
    return {
        "direction": direction,
        "queries": len(target),
        "temperature_before": given,
        "temperature": fitted,
        "ece_before": ece(before, correct),
        "ece": ece(after, correct),
        "confidence": float(after.mean()),
        "hits@1": float(correct.mean()),
        "bins": {name: values.tolist() for name, values in bins._asdict().items()},
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
