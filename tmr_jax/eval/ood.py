"""Can an answer be trusted? Strangeness of queries, calibration, geometry, slots of a memory bank.

In: encoded pools: the tested one, the run's validation pool and, where it is at hand, another data
set's. Out: a record for results.json and its lines for the terminal. `fit` sees validation alone;
with what it gives, the tested pool is only measured. All of it is about cosines: of a model with
a second stage, about the tier `det`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from tmr_jax.config import DataConfig
from tmr_jax.data.cache import read_arrays, save_arrays
from tmr_jax.eval.calibration import (
    EDGES,
    alignment,
    auroc,
    confidence,
    ece,
    modality_gap,
    ood_scores,
    reliability,
    similarities,
    temperature,
    uniformity,
)
from tmr_jax.eval.metrics import per_query
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.models.dual_encoder import MAX_LOG_SCALE
from tmr_jax.models.encode import Encoded, unit
from tmr_jax.types import Pool, UserError

UNRELATED = "unrelated sentences"
KNOWN = "known.npz"  # in a run directory
KEPT = 0.95  # share of the validation queries that the threshold of strangeness lets pass
STILL, EVEN = 0.01, 0.01  # of a dead slot, see `slot_record`
DIRECTIONS: tuple[Direction, ...] = ("t2m", "m2t")


class Sides(NamedTuple):
    """A pool as the model reads it."""

    pool: Pool
    text: Encoded
    mol: Encoded


class Signal(NamedTuple):
    """Strangeness of a text: 1 - its mean cosine to so many nearest rows of a reference."""

    reference: Literal["validation texts", "candidates"]
    neighbours: int


class Known(NamedTuple):
    """What a search tells strange queries by, whatever library it is in."""

    rows: Float[np.ndarray, "R D"]  # of validation texts
    neighbours: int
    threshold: float  # KEPT of the other validation texts are below it

    def strangeness(self, texts: Float[np.ndarray, "Q D"]) -> Float[np.ndarray, " Q"]:
        """1 - mean cosine to the nearest validation texts."""
        return ood_scores(texts, self.rows, self.neighbours)


class Fitted(NamedTuple):
    """All that is chosen or fitted, and on validation alone."""

    protocol: str  # of the validation pool
    known: np.ndarray  # float32 [R, D]: texts that a text is compared with
    signal: Signal
    tried: dict[Signal, float]  # AUROC
    threshold: float  # of strangeness: KEPT of the validation queries are below it
    temperature: dict[Direction, float]
    search: Known  # the best of the signals that need no candidates


# Texts first: the first of equals is chosen, and it tells the same whatever library is searched.
SIGNALS = (
    Signal("validation texts", 1),
    Signal("validation texts", 5),
    Signal("validation texts", 20),
    Signal("candidates", 1),
    Signal("candidates", 5),
    Signal("candidates", 20),
)


def companions(data: DataConfig) -> list[Pool]:
    """The run's validation pool, and another data set's test pool where one is at hand.

    Nothing without validation pairs: there is then nothing to choose and fit on.
    """
    from tmr_jax.data.pools import load_pool, validation_protocol

    try:
        found = [load_pool(validation_protocol(data), data)]
    except ValueError as error:  # scores need no validation pairs: only this record is left out
        print(f"no record of trust, for lack of validation pairs: {error}", file=sys.stderr)
        return []
    other = _other_protocol(data)
    return found + ([] if other is None else [load_pool(other, data)])


def _other_protocol(data: DataConfig) -> str | None:
    """None where its files are not at hand (nothing is fetched for it), and for generated text."""
    from tmr_jax.data.datasets import chebi20, pcdes
    from tmr_jax.data.download import find

    if data.name == "demo":
        return None
    if data.name == "pcdes":
        return "chebi20-molt5/test-split" if find(chebi20.MOLT5_PARTS["test"]) else None
    files = (pcdes.SMILES, pcdes.TEXTS)
    at_hand = find(pcdes.TABLE) or all(find(part) for part in files)
    return "pcdes/file-order" if at_hand else None


def trained_temperature(params: Any) -> float | None:
    """What training divided the cosines by; None of a loss without a scale."""
    if "log_scale" not in params:
        return None
    return math.exp(-min(float(params["log_scale"]), MAX_LOG_SCALE))


def fit(validation: Sides, unrelated: Float[np.ndarray, "S D"]) -> Fitted | None:
    """The signal of strangeness, its threshold and the temperatures; None below two text queries.

    Every second validation text is known, so that no text is its own neighbour; the others are to
    be told from every second of `unrelated`, the rows of SENTENCES.
    """
    texts, candidates, _ = _queries(validation, "t2m")
    if len(texts) < 2:
        return None
    known, familiar = texts[::2], texts[1::2]
    references = {"validation texts": known, "candidates": candidates.rows}

    def scores(signal: Signal, rows: np.ndarray) -> np.ndarray:
        return ood_scores(rows, references[signal.reference], signal.neighbours)

    tried = {s: auroc(scores(s, familiar), scores(s, unrelated[::2])) for s in SIGNALS}
    signal = max(tried, key=lambda s: tried[s])
    threshold = float(np.quantile(scores(signal, familiar), KEPT))
    free = max((s for s in SIGNALS if s.reference == "validation texts"), key=lambda s: tried[s])
    limit = float(np.quantile(scores(free, familiar), KEPT))
    search = Known(known, free.neighbours, limit)
    fitted: dict[Direction, float] = {}
    for direction in DIRECTIONS:
        query, candidates, target = _queries(validation, direction)
        if len(query):
            fitted[direction] = temperature(query, candidates.rows, target)
    return Fitted(validation.pool.protocol, known, signal, tried, threshold, fitted, search)


def keep_known(run: Path, checkpoint: str, known: Known) -> None:
    """In the run directory, for the searches to come; that of another checkpoint is replaced."""
    told = {
        "neighbours": np.array(known.neighbours),
        "threshold": np.array(known.threshold),
    }
    save_arrays(run / KNOWN, {"rows": known.rows, "checkpoint": np.array(checkpoint), **told})


def read_known(run: Path, checkpoint: str) -> Known | None:
    """None where nothing was kept for this checkpoint (its SHA-256)."""
    path = run / KNOWN
    if not path.is_file():
        return None
    try:
        found = read_arrays(path)
        if str(found["checkpoint"]) != checkpoint:
            return None
        return Known(found["rows"], int(found["neighbours"]), float(found["threshold"]))
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"expected what eval has kept in {path}, got a file that cannot be read ({error}); "
            "evaluate the run again"
        ) from error


def trust_of(
    test: Sides,
    fitted: Fitted,
    others: Sequence[Sides],
    unrelated: Float[np.ndarray, "S D"],
    trained: float | None,
) -> dict[str, Any] | None:
    """The record of one tested pool; None where it has fewer than two text queries.

    `others` of the tested pool's own data set are left out. `unrelated` are rows of SENTENCES,
    `trained` is the temperature of training.
    """
    if len(_pairs(test)[0]) < 2:
        return None
    family = _family(test.pool)
    others = [o for o in others if _family(o.pool) != family and len(_pairs(o)[0]) > 1]
    return {
        "protocol": test.pool.protocol,
        "validation": fitted.protocol,
        "ood": strangeness(test, fitted, others, unrelated),
        "calibration": [
            calibration(test, direction, value, trained)
            for direction, value in fitted.temperature.items()
            if len(_queries(test, direction)[2])
        ],
        "geometry": geometry(test),
        "similarity": {
            "edges": EDGES.tolist(),
            "counts": {name: c for s in (test, *others) for name, c in _cosines(s).items()},
        },
    }


def _family(pool: Pool) -> str:
    """The data set of a pool: "pcdes" of pcdes/file-order and of ood/open→pcdes."""
    return pool.protocol.split("→")[-1].split("/")[0].split("-")[0]


def _pairs(sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Places of the texts that ask, and of their molecules."""
    asks = np.flatnonzero(sides.pool.text_target >= 0)
    return asks, sides.pool.text_target[asks]


def _queries(sides: Sides, direction: Direction) -> tuple[np.ndarray, Encoded, np.ndarray]:
    """Rows that ask, candidates, and the place of each one's target among them."""
    query, candidate, target = sides.text, sides.mol, sides.pool.text_target
    if direction == "m2t":
        query, candidate, target = sides.mol, sides.text, sides.pool.mol_target
    asks = np.flatnonzero(target >= 0)
    return query.rows[asks], candidate, target[asks]


# Strangeness


def strangeness(
    test: Sides, fitted: Fitted, others: Sequence[Sides], unrelated: Float[np.ndarray, "S D"]
) -> dict[str, Any]:
    """AUROC of the chosen signal, against the sentences that did not choose it and `others`."""
    signal = fitted.signal
    own_texts = signal.reference == "validation texts"
    reference = fitted.known if own_texts else test.mol.rows
    asked = {sides.pool.protocol: _queries(sides, "t2m")[0] for sides in (test, *others)}
    asked[UNRELATED] = unrelated[1::2]
    found = {name: ood_scores(rows, reference, signal.neighbours) for name, rows in asked.items()}
    own = found[test.pool.protocol]
    return {
        **signal._asdict(),
        "tried": [{**s._asdict(), "auroc": value} for s, value in fitted.tried.items()],
        "threshold": fitted.threshold,
        "queries": {name: len(values) for name, values in found.items()},
        "flagged": {n: float((values > fitted.threshold).mean()) for n, values in found.items()},
        "auroc": {n: auroc(own, v) for n, v in found.items() if n != test.pool.protocol},
        "histogram": _histogram(found),
    }


def _histogram(found: dict[str, np.ndarray]) -> dict[str, Any]:
    edges = np.histogram_bin_edges(np.concatenate(list(found.values())), 60)
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in found.items()}
    return {"edges": edges.tolist(), "counts": counts}


# Calibration


def calibration(
    test: Sides, direction: Direction, fitted: float, trained: float | None
) -> dict[str, Any]:
    """ECE of the first place under the temperature of training, or 1, and under the fitted one.

    Where candidates tie for the first place, it is right with the chance that a random order gives.
    """
    query, candidate, target = _queries(test, direction)
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


# Geometry


def geometry(test: Sides) -> dict[str, Any]:
    """Alignment, uniformity and modality gap of the tested pairs.

    `gap_of_parts` is that of the means of words and of atoms, before a memory bank or another
    readout; None where they are not kept.
    """
    asks, wanted = _pairs(test)
    text, mol = test.text.rows[asks], test.mol.rows[wanted]
    parts = _means(test.text, asks), _means(test.mol, wanted)
    whole = parts[0] is not None and parts[1] is not None
    return {
        "alignment": alignment(text, mol),
        "uniformity_text": uniformity(text),
        "uniformity_mol": uniformity(mol),
        "modality_gap": modality_gap(text, mol),
        "gap_of_parts": modality_gap(*parts) if whole else None,
    }


def _means(encoded: Encoded, items: np.ndarray) -> Any:
    """Unit rows: of each item, the mean of its words or atoms, whose direction is their sum's."""
    side = encoded.side
    if side is None:
        return None
    assert (np.diff(side.offsets) > 0).all(), "an item without words or atoms was encoded"
    return unit(np.add.reduceat(side.parts, side.offsets[:-1]))[encoded.group[items]]


def _cosines(sides: Sides) -> dict[str, list[int]]:
    """Counts of cosines of partners and of strangers (MODELS.md: Figure 5 of both papers)."""
    asks, wanted = _pairs(sides)
    groups = sides.text.group[asks], sides.mol.group[wanted]
    right, wrong = similarities(sides.text.rows[asks], sides.mol.rows[wanted], *groups)
    name = sides.pool.protocol
    return {f"positive, {name}": right.tolist(), f"negative, {name}": wrong.tolist()}


# Memory bank


def slot_record(
    start: Float[np.ndarray, "M D"],
    end: Float[np.ndarray, "M D"],
    sharpness: Float[np.ndarray, " M"],
) -> dict[str, Any]:
    """How far training moved each slot, and how selectively it reads words and atoms.

    Inputs: the bank at the start and at the end; `sharpness` is the mean over items of 1 - entropy
    of a slot's attention over that of even attention: 0 even, 1 on a single word or atom. Every
    slot reads every item with weights that sum to 1, so how much it is read says nothing, only how.

    A slot is dead that moved at most 1 % of what the median slot did and attends evenly within
    1 %: it has learned nothing, and what it gives is the plain mean that needs no slot. Either
    sign alone is no death: a slot may start well, and one that moved may have learned the mean.
    """
    moved = np.linalg.norm(end - start, axis=1)
    norms = np.linalg.norm(start, axis=1), np.linalg.norm(end, axis=1)
    length = norms[0] * norms[1]
    dot = (start * end).sum(1)
    dead = (moved <= STILL * np.median(moved)) & (sharpness < EVEN)
    return {
        "moved": moved.tolist(),
        "norm_start": norms[0].tolist(),
        "norm_end": norms[1].tolist(),
        # A row of zeros, as the first slot starts, has no direction.
        "cosine": [float(d / n) if n else None for d, n in zip(dot, length, strict=True)],
        "sharpness": sharpness.tolist(),
        "dead": np.flatnonzero(dead).tolist(),
    }


# In words


def trust_lines(record: dict[str, Any]) -> list[str]:
    """A record of `trust_of` for the terminal."""
    strange, shape = record["ood"], record["geometry"]
    own = record["protocol"]
    lines = [
        f"{own}, trust: fitted on {record['validation']}",
        f"  strangeness: 1 - mean cosine to {signal_words(strange)}; above the threshold "
        f"{strange['threshold']:.3f} are {100 * strange['flagged'][own]:.1f} % of the queries",
    ]
    for name, value in strange["auroc"].items():
        lines.append(
            f"  AUROC {value:.3f} against {name} ({strange['queries'][name]:,}, "
            f"{100 * strange['flagged'][name]:.1f} % above the threshold)"
        )
    for one in record["calibration"]:
        lines.append(
            f"  {one['direction']}: ECE {one['ece_before']:.3f} at T "
            f"{one['temperature_before']:.4f}, {one['ece']:.3f} at T {one['temperature']:.4f}; "
            f"mean confidence {100 * one['confidence']:.1f}, hits@1 {100 * one['hits@1']:.1f}"
        )
    lines.append(
        f"  alignment {shape['alignment']:.3f}; uniformity of texts "
        f"{shape['uniformity_text']:.3f}, of molecules {shape['uniformity_mol']:.3f}"
    )
    return [*lines, f"  modality gap {gap_words(shape)}"]


def signal_words(strange: dict[str, Any]) -> str:
    """What the chosen signal looks at."""
    count = strange["neighbours"]
    if count == 1:
        return f"the nearest of the {strange['reference']}"
    return f"the {count} nearest {strange['reference']}"


def gap_words(shape: dict[str, Any]) -> str:
    """The modality gap, before and after where both are known."""
    after = f"{shape['modality_gap']:.3f}"
    if shape["gap_of_parts"] is None:
        return after
    return f"{shape['gap_of_parts']:.3f} of the means of words and atoms, {after} of embeddings"


def slot_lines(record: dict[str, Any]) -> list[str]:
    """A record of `slot_record` for the terminal; dead slots are named."""
    moved, sharp = np.array(record["moved"]), np.array(record["sharpness"])
    dead = record["dead"]
    named = f"dead slots: {', '.join(map(str, dead))}" if dead else "no dead slot"
    return [
        f"memory bank, {len(moved)} slots: {named}",
        f"  moved {moved.min():.3f} to {moved.max():.3f}, median {np.median(moved):.3f}; "
        f"sharpness {sharp.min():.3f} to {sharp.max():.3f} (0: even attention)",
    ]
