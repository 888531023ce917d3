"""From the results of runs to the lines of a table: means over seeds, costs and claims.

In: for each row the results.json of its seeds, or why there is none. Out: a `Line` for each row and
direction, and one sentence for each claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.table.plan import Claim, Row, Table

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.96
LAST_TIER = "fused"  # of a model with a second stage: its own ranking
DIRECTIONS = ("t2m", "m2t")
UNASKED = "no query asks in this direction"  # begins what a line says that has run


class Cost(NamedTuple):
    """What the run of one seed took."""

    train_seconds: float
    eval_seconds: float
    peak_bytes: int  # of the training process


class Found(NamedTuple):
    """One row's results of one seed: the scores of its evaluation, or why there are none."""

    seed: int
    # of results.json, the model's own ranking of its own partner; `beside` holds Hits@1 by what
    # else is right
    scores: list[dict[str, Any]]
    cost: Cost | None
    trust: Any  # what the evaluation says of similarities; None where it does not
    missing: str = ""


class Line(NamedTuple):
    """One row in one direction; `records` are the scores of the seeds that have one."""

    row: Row
    direction: str
    seeds: tuple[int, ...]
    records: list[dict[str, Any]]
    costs: list[Cost]
    trust: list[Any]
    missing: str

    @property
    def cited_only(self) -> bool:
        return not self.row.experiment

    @property
    def unasked(self) -> bool:
        """Its pool was ranked, and has no query of this direction."""
        return self.missing.startswith(UNASKED)

    def values(self, metric: str) -> list[float]:
        return [record["metrics"][metric] for record in self.records]

    def beside(self, right: str) -> float | None:
        """Mean Hits@1 of the same ranking where other answers are right; None: not at hand."""
        values = [record["beside"][right] for record in self.records if right in record["beside"]]
        return float(np.mean(values)) if values and len(values) == len(self.records) else None

    def said(self, what: str) -> Any:
        """What all seeds have alike: the pool, the rule of ties, what counts as right."""
        return self.records[0][what]


class Spread(NamedTuple):
    """A metric over seeds, and the widest bootstrap interval over queries of any seed."""

    mean: float
    std: float | None  # of a sample; None: one seed
    low: float
    high: float


def lines(table: Table, found: Sequence[Sequence[Found]]) -> list[Line]:
    """Both directions of every row, save those that neither a run nor a paper has a number for."""
    both = [
        _line(row, direction, list(seeds))
        for row, seeds in zip(table.rows, found, strict=True)
        for direction in DIRECTIONS
    ]
    return [line for line in both if line.records or line.missing or _printed(line)]


def _line(row: Row, direction: str, found: list[Found]) -> Line:
    with_record = [(f, r) for f in found for r in f.scores if _is_of(r, row, direction)]
    missing = next((f.missing for f in found if f.missing), "")
    if row.experiment and not with_record and not all(f.missing for f in found):
        missing = f"{UNASKED}: {row.protocol}"
    return Line(
        row,
        direction,
        tuple(f.seed for f, _ in with_record),
        [record for _, record in with_record],
        [f.cost for f, _ in with_record if f.cost is not None],
        [f.trust for f, _ in with_record if f.trust is not None],
        missing,
    )


def _is_of(record: dict[str, Any], row: Row, direction: str) -> bool:
    place = (record["protocol"], record["direction"])
    return place == (row.protocol, direction) and record["tier"] in (row.tier or LAST_TIER, "")


def _printed(line: Line) -> bool:
    return line.row.cited is not None and bool(line.row.cited.of(line.direction))


def spread(line: Line, metric: str) -> Spread:
    values = line.values(metric)
    bounds = [record["intervals"][metric] for record in line.records]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return Spread(float(np.mean(values)), std, low, high)


class Difference(NamedTuple):
    mean: float
    low: float
    high: float
    seeds: int
    queries: int  # 0: the results hold no rank of single queries


def difference(better: Line, worse: Line, metric: str) -> Difference | None:
    """What `better` has more than `worse`, by seed in pairs; None for fewer than two seeds.

    The 95 % interval holds what differs between seeds (Student's t) and, where the results hold
    the rank of every query, what differs between queries; the two are independent.
    """
    ours, theirs = (dict(zip(s.seeds, s.records, strict=True)) for s in (better, worse))
    seeds = [seed for seed in ours if seed in theirs]
    if len(seeds) < 2:
        return None
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    by_seed = np.array([a["metrics"][metric] - b["metrics"][metric] for a, b in pairs])
    half = student(len(seeds) - 1) * _error(by_seed)
    queries = 0
    if all("ranks" in record for pair in pairs for record in pair):
        by_query = np.mean([of_ranks(a, metric) - of_ranks(b, metric) for a, b in pairs], 0)
        half, queries = math.hypot(half, NORMAL * _error(by_query)), len(by_query)
    mean = float(by_seed.mean())
    return Difference(mean, mean - half, mean + half, len(seeds), queries)


def _error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def student(freedom: int) -> float:
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else STUDENT[-1]


def of_ranks(record: dict[str, Any], metric: str) -> np.ndarray:
    """Hits@k or MRR of every query, by the rank that its target is expected at."""
    ranks = np.asarray(record["ranks"], float)
    if metric == "mrr":
        return 1 / ranks
    return (ranks <= int(metric.removeprefix("hits@"))).astype(float)


def verdict(found: Difference, threshold: float) -> str:
    """held, not held, or undecided: by where the interval is."""
    if found.low > 0:
        return "held"
    if found.high < 0 or (found.low > -threshold and found.high < threshold):
        return "not held"
    return "undecided at this scale"


def sentences(claim: Claim, all_lines: Sequence[Line]) -> list[str]:
    """One for each direction; m2t of a pool whose molecules do not ask is left out."""
    found = {(x.row.label, x.direction): x for x in all_lines}
    told = []
    for direction in (claim.direction,) if claim.direction else DIRECTIONS:
        better, worse = (found[label, direction] for label in (claim.better, claim.worse))
        left_out = direction == "m2t" and (better.unasked or worse.unasked)
        if claim.direction or not left_out:
            told.append(sentence(claim, better, worse))
    return list(dict.fromkeys(told))  # what was not run is so in both directions


def sentence(claim: Claim, better: Line, worse: Line) -> str:
    """One sentence: the verdict, what was claimed by whom, and the numbers behind it."""
    said = f"{claim.text} ({claim.source})"
    for line in (better, worse):
        if not line.records:
            return f"Not run: {said}; {line.row.label}: {line.missing}."
    what = f"{better.direction} {claim.metric} of {claim.better!r} less that of {claim.worse!r}"
    found = difference(better, worse, claim.metric)
    if found is None:
        return f"Undecided at this scale: {said}; {what} needs two seeds of both."
    over = f"{found.seeds} seeds" + (f", {found.queries:,} queries" if found.queries else "")
    result = verdict(found, claim.threshold)
    return (
        f"{result.capitalize()}: {said}; {what}, in {better.said('protocol')}: {found.mean:+.4f} "
        f"(95 % {found.low:+.4f} to {found.high:+.4f}; {over})."
    )
