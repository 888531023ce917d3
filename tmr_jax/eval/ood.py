"""How far a query lies outside the data: its OOD score, and the detector that a search uses.

Scores are made in chunks and never held whole, so a pool of 33,008 needs no more memory than a
small one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tmr_jax.data.files import read_arrays, save_arrays
from tmr_jax.eval.rank import score_chunks
from tmr_jax.models.encode import l2_normalize
from tmr_jax.types import UserError

DETECTOR = "known.npz"  # in a run directory


class OodDetector(NamedTuple):
    """Decides whether a text is outside the data, whatever index is searched."""

    rows: Float[np.ndarray, "R D"]  # of validation texts
    neighbours: int
    threshold: float  # 95 % of the other validation texts have a lower OOD score
    trusted: float = float("nan")  # score of a best hit from which on (tmr_jax/eval/confidence.py)

    def ood_score(self, texts: Float[np.ndarray, "Q D"]) -> Float[np.ndarray, " Q"]:
        """1 - mean cosine to the nearest validation texts."""
        return ood_scores(texts, self.rows, self.neighbours)


def save_detector(run: Path, checkpoint: str, detector: OodDetector) -> None:
    """Write the detector to the run directory; replaces that of another checkpoint."""
    values = {name: np.array(value) for name, value in detector._asdict().items()}
    values["rows"] = detector.rows.astype(np.float16)  # directions keep four digits
    save_arrays(run / DETECTOR, {"checkpoint": np.array(checkpoint), **values})


def read_detector(run: Path, checkpoint: str) -> OodDetector | None:
    """The detector of this checkpoint (its SHA-256); None if the run has none."""
    path = run / DETECTOR
    if not path.is_file():
        return None
    try:
        values = read_arrays(path)
        if str(values["checkpoint"]) != checkpoint:
            return None
        rows = l2_normalize(values["rows"].astype(np.float32))
        trusted = float(values.get("trusted", "nan"))  # runs evaluated before 0.2 have none
        return OodDetector(rows, int(values["neighbours"]), float(values["threshold"]), trusted)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"expected the OOD detector that eval wrote to {path}; got an unreadable file "
            f"({error}); evaluate the run again"
        ) from error


def ood_scores(
    query: Float[np.ndarray, "Q D"], reference: Float[np.ndarray, "R D"], neighbours: int
) -> Float[np.ndarray, " Q"]:
    """1 - mean cosine of the nearest reference rows: 0 is familiar, higher is further outside.

    Depends on the query's own row and the reference rows only; no label enters.
    Requires: at least one reference row and one neighbour.
    """
    k = min(neighbours, len(reference))
    scores = np.empty(len(query))
    for start, cosines in score_chunks(query, reference):
        nearest = np.partition(cosines, -k, axis=1)[:, -k:]
        scores[start : start + len(cosines)] = 1.0 - nearest.mean(1, dtype=np.float64)
    return scores


def auroc(negatives: Float[np.ndarray, " N"], positives: Float[np.ndarray, " P"]) -> float:
    """Share of (negative, positive) pairs in which the positive is higher; ties count half.

    Requires: neither is empty.
    """
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left")
    up_to = np.searchsorted(ordered, positives, "right")
    return float((below + up_to).mean() / (2 * len(ordered)))
