"""What a score is of: every protocol is one small declaration, made before anything is computed.

In: a name. Out: a `Protocol` that says which pool is ranked and how many belong in it, what counts
as right, how ties go, and what of the test a run may have been trained on (MODELS.md 1.3, A5.13).
The pools themselves are read in tmr_jax/data/pools.py; tmr_jax/eval/__main__.py joins the two.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from tmr_jax.data.pools import POOLS
from tmr_jax.eval.metrics import TIES
from tmr_jax.eval.rank import rank
from tmr_jax.types import Ranking, UserError

# Relevance. The literature's is by index; the second one asks what a chemist would: a text that
# fits thirteen molecules cannot point at one of them (DATA.md 5).
PAIR = "its own partner"
IDENTITY = "any candidate with the same text or molecule"
# By index too, of fewer queries: what is left of a test when nobody is known by connectivity.
CLEAN = "its own partner, of queries without a connectivity twin in training"

# What must not be in both training and test. "molecule or text": the whole InChIKey, or the
# identical text; the rule of the literature's splits, which are random, so that 39 % of ChEBI-20's
# test share at least their connectivity with training. "skeleton": the first block of the
# InChIKey; what a claim of "out of domain" must stand on.
Leakage = Literal["molecule or text", "skeleton"]
# What happens to a query that breaks the rule: the evaluation refuses, or the query is left out,
# stays a candidate, and is counted beside the score.
Filter = Literal["none", "test side"]

BATCH = 64  # of KV-PLM's and MoMu's in-batch accuracy
IN_BATCH = f"inbatch-{BATCH}"
TRAINED_ON = ("chebi20", "pcdes", "open", "table")
FOREIGN = {"chebi20": "chebi20-molt5/full-33008", "pcdes": "pcdes/file-order"}


@dataclass(frozen=True)
class Protocol:
    """Who asks, among whom, what is right, and what training must not have shown."""

    name: str
    source: str  # the pool; its queries are the test's
    size: int = 0  # candidates as published; 0: no published number
    batch: int = 0  # a query is ranked among so many, in file order; 0: among the whole pool
    trained_on: str = ""  # data set of every stage of training; "": any
    leakage: Leakage = "skeleton"
    filter: Filter = "none"
    relevance: tuple[str, ...] = (PAIR, IDENTITY)  # a score for each
    ties: str = TIES


def find(name: str, own: str) -> Protocol:
    """The protocol of that name; `own` is the test pool of the run's own data set, "" for none.

    A pool of the division that the run was trained under has the literature's rule of leakage, and
    leaves out the queries that break it: the published splits hold a few. Any other pool claims to
    be foreign, and one shared connectivity refuses.
    Errors: ValueError for an unknown name, with the nearest known ones.
    """
    asked, known = name.replace("->", "→"), _declared(own)
    if asked in known:
        return known[asked]
    if asked == IN_BATCH:
        raise UserError(
            f"expected a pool to cut into batches, as these data have no test of their own; got "
            f"{name!r}; name one: {IN_BATCH}/pcdes/file-order"
        )
    near = difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise UserError(f"expected a protocol; got {name!r}; {hint}")


def _declared(own: str) -> dict[str, Protocol]:
    pools = {name: _of_pool(name, size, own) for name, size in POOLS.items()}
    # A full pool has candidates that do not ask, which no batch could hold.
    whole = [p for p in pools.values() if "/full-" not in p.name]
    cut = [dataclasses.replace(p, name=f"{IN_BATCH}/{p.name}", batch=BATCH) for p in whole]
    found = pools | {p.name: p for p in (*cut, *_foreign())}
    return found | ({IN_BATCH: found[f"{IN_BATCH}/{own}"]} if own else {})


def _of_pool(name: str, size: int, own: str) -> Protocol:
    if own and _division(name) == _division(own):
        return Protocol(name, name, size, leakage="molecule or text", filter="test side")
    return Protocol(name, name, size)


def _division(pool: str) -> str:
    """What divides the pairs: both versions of ChEBI-20 divide the same molecules alike."""
    family, part = pool.split("/")
    if family.startswith("chebi20-"):
        return "chebi20"
    return f"pcdes/{part.removesuffix('-validation')}" if family == "pcdes" else family


def _foreign() -> list[Protocol]:
    found = []
    for train in TRAINED_ON:
        for test, source in FOREIGN.items():
            if test == train:
                continue
            refusing = Protocol(f"ood/{train}→{test}", source, POOLS[source], trained_on=train)
            name = f"{refusing.name}/filtered"
            found += [refusing, dataclasses.replace(refusing, name=name, filter="test side")]
    return found


def within(batch: int, label: Int[np.ndarray, "... C"]) -> Int[np.ndarray, "... C"]:
    """The labels of candidates, those of different batches made different; 0: one batch."""
    if not batch:
        return label
    return label + np.arange(label.shape[-1]) // batch * (label.max(initial=0) + 1)


def rank_within(
    batch: int,
    query: Float[np.ndarray, "Q D"],
    candidate: Float[np.ndarray, "C D"],
    target: Int[np.ndarray, " Q"],
    group: Int[np.ndarray, " C"],
    labels: Int[np.ndarray, "L C"] | None = None,
) -> Ranking:
    """`rank` where each query meets only the candidates of its target's batch; 0: all of them.

    Requires: C is a multiple of `batch`.
    """
    if not batch:
        return rank(query, candidate, target, group, labels)
    greater, equal = np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
    for start in range(0, len(candidate), batch):
        asks, part = np.flatnonzero(target // batch == start // batch), slice(start, start + batch)
        mine = None if labels is None else labels[:, part]
        found = rank(query[asks], candidate[part], target[asks] - start, group[part], mine)
        greater[asks], equal[asks] = found.greater, found.equal
    return Ranking(greater, equal, batch)
