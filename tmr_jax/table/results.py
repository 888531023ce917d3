"""From the results of runs to the lines of a table: means over seeds, costs and claims.

In: for each row the results of its seeds, or why there are none. Out: a `Line` for each row and
direction, and one sentence for each claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.table.plan import Claim, Row, Table

LEVEL = 0.975  # quantile at the end of a 95 % interval
LAST_TIERS = ("fused", "facts")  # the final ranking of a run with a second stage
DIRECTIONS = ("t2m", "m2t")
NO_QUERIES = "no queries in this direction"  # of a pool that was ranked


class Cost(NamedTuple):
    """What the run of one seed took."""

    train_seconds: float
    eval_seconds: float
    peak_bytes: int  # of the training process


class SeedResult(NamedTuple):
    """One row's results of one seed: the scores of its evaluation, or why there are none."""

    seed: int
    # The model's scores in results.json where only a query's own pair is right; `other_hits` holds
    # Hits@1 by the other notions of right.
    scores: list[dict[str, Any]]
    cost: Cost | None
    trust: Any  # diagnostics of the evaluation; None without them
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

    def other_hits(self, right: str) -> float | None:
        """Mean Hits@1 of the same ranking where other candidates are right; None: not available."""
        values = [record["other_hits"].get(right) for record in self.records]
        return float(np.mean(values)) if values and None not in values else None


class Summary(NamedTuple):
    """A metric over seeds, and the widest bootstrap interval over queries of any seed."""

    mean: float
    std: float | None  # of a sample; None: one seed
    low: float
    high: float


def lines(table: Table, results: Sequence[Sequence[SeedResult]]) -> list[Line]:
    """Both directions of every row, except those without any number, ours or published."""
    both = [
        _line(row, direction, list(seeds))
        for row, seeds in zip(table.rows, results, strict=True)
        for direction in DIRECTIONS
    ]
    return [
        line
        for line in both
        if line.records or line.missing or (line.row.cited and line.row.cited.of(line.direction))
    ]


def _line(row: Row, direction: str, results: list[SeedResult]) -> Line:
    place, tiers = (row.protocol, direction), (row.tier,) if row.tier else LAST_TIERS
    scored = [
        (x, record)
        for x in results
        for record in x.scores
        if (record["protocol"], record["direction"]) == place and record["tier"] in (*tiers, "")
    ]
    missing = next((x.missing for x in results if x.missing), "")
    if row.experiment and not scored and not all(x.missing for x in results):
        missing = f"{NO_QUERIES}: {row.protocol}"
    return Line(
        row,
        direction,
        tuple(x.seed for x, _ in scored),
        [record for _, record in scored],
        [x.cost for x, _ in scored if x.cost is not None],
        [x.trust for x, _ in scored if x.trust is not None],
        missing,
    )


def summary(line: Line, metric: str) -> Summary:
    values = [record["metrics"][metric] for record in line.records]
    bounds = [record["intervals"][metric] for record in line.records]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return Summary(float(np.mean(values)), std, low, high)


class Difference(NamedTuple):
    mean: float
    low: float
    high: float
    seeds: int
    queries: int  # 0: the results hold no ranks of single queries


def difference(better: Line, worse: Line, metric: str) -> Difference | None:
    """By how much `better` exceeds `worse`, paired by seed; None for fewer than two seeds.

    The 95 % interval covers the variation between seeds (Student's t) and, where the results hold
    the rank of every query, between queries; the two are independent.
    """
    from scipy import stats

    ours, theirs = (dict(zip(s.seeds, s.records, strict=True)) for s in (better, worse))
    seeds = [seed for seed in ours if seed in theirs]
    if len(seeds) < 2:
        return None
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    by_seed = np.array([a["metrics"][metric] - b["metrics"][metric] for a, b in pairs])
    half = float(stats.t.ppf(LEVEL, len(seeds) - 1) * stats.sem(by_seed))
    queries = 0
    if all("ranks" in record for pair in pairs for record in pair):
        by_query = np.mean([of_ranks(a, metric) - of_ranks(b, metric) for a, b in pairs], 0)
        half, queries = math.hypot(half, stats.norm.ppf(LEVEL) * stats.sem(by_query)), len(by_query)
    mean = float(by_seed.mean())
    return Difference(mean, mean - half, mean + half, len(seeds), queries)


def of_ranks(record: dict[str, Any], metric: str) -> np.ndarray:
    """Hits@k or MRR of every query, from the expected rank of its target."""
    ranks = np.asarray(record["ranks"], float)
    if metric == "mrr":
        return 1 / ranks
    return (ranks <= int(metric.removeprefix("hits@"))).astype(float)


def verdict(difference: Difference, threshold: float) -> str:
    """held, not held or undecided, from the interval."""
    low, high = difference.low, difference.high
    if low > 0:
        return "held"
    if high < 0 or (low > -threshold and high < threshold):
        return "not held"
    return "undecided at this scale"


def sentences(claim: Claim, table_lines: Sequence[Line]) -> list[str]:
    """One for each direction, except m2t where the pool has no molecule queries."""
    by_label = {(x.row.label, x.direction): x for x in table_lines}
    texts = []
    for direction in (claim.direction,) if claim.direction else DIRECTIONS:
        better, worse = (by_label[label, direction] for label in (claim.better, claim.worse))
        no_queries = any(line.missing.startswith(NO_QUERIES) for line in (better, worse))
        if claim.direction or direction == "t2m" or not no_queries:
            texts.append(sentence(claim, better, worse))
    return list(dict.fromkeys(texts))  # rows that were not run are so in both directions


def sentence(claim: Claim, better: Line, worse: Line) -> str:
    """One sentence: the verdict, the claim and its source, and the numbers."""
    claimed = f"{claim.text} ({claim.source})"
    for line in (better, worse):
        if not line.records:
            return f"Not run: {claimed}; {line.row.label}: {line.missing}."
    what = f"{better.direction} {claim.metric} of {claim.better!r} less that of {claim.worse!r}"
    gain = difference(better, worse, claim.metric)
    if gain is None:
        return f"Undecided at this scale: {claimed}; {what} needs two seeds of both."
    over = f"{gain.seeds} seeds" + (f", {gain.queries:,} queries" if gain.queries else "")
    result = verdict(gain, claim.threshold)
    return (
        f"{result.capitalize()}: {claimed}; {what}, in {better.records[0]['protocol']}: "
        f"{gain.mean:+.4f} (95 % {gain.low:+.4f} to {gain.high:+.4f}; {over})."
    )
