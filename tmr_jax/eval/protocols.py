"""Evaluation protocols: each is one small declaration, made before anything is computed.

In: a name. Out: a `Protocol` with its pool and the pool's size, the right answers, the rule of
ties, and the leakage that is allowed (docs/papers.md#protocols). data/pools.py reads the pools.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from tmr_jax.data.pools import POOLS, SHORT
from tmr_jax.eval.metrics import TIES
from tmr_jax.types import UserError, did_you_mean

# What is right. The literature goes by index; the second is what a chemist would ask: a text that
# fits thirteen molecules cannot name one of them.
PAIR = "its own partner"
IDENTITY = "any candidate with the same text or molecule"
# By index, of fewer queries: those whose connectivity is not in training.
CLEAN = "its own partner, of queries without a connectivity twin in training"

# Of queries cut from the texts of the pool, which hold for several molecules.
HOLDER = "any molecule whose text says the query too, or the same molecule"

# What must not be in both training and test. "molecule or text": the whole InChIKey, or the
# identical text. This is the rule of the literature's splits, which are random: 39 % of ChEBI-20's
# test share at least their connectivity with training. "skeleton": the first block of the
# InChIKey, as a claim of "out of domain" requires.
Leakage = Literal["molecule or text", "skeleton"]
# What happens to a query that breaks the rule: the evaluation stops, or the query is removed and
# counted; its target stays a candidate.
Filter = Literal["none", "test side"]

BATCH = 64  # of KV-PLM's and MoMu's in-batch accuracy
IN_BATCH = f"inbatch-{BATCH}"
TRAINED_ON = ("chebi", "chebi20", "pcdes", "open", "table")
FOREIGN = {"chebi20": "chebi20-molt5/full-33008", "pcdes": "pcdes/file-order"}


@dataclass(frozen=True)
class Protocol:
    """The queries, the pool, the right answers, and what must not be in training."""

    name: str
    source: str  # the pool; its queries are the test's
    size: int = 0  # candidates as published; 0: no published number
    batch: int = 0  # a query is ranked among so many, in file order; 0: among the whole pool
    trained_on: str = ""  # data set of all stages of training; "": any
    leakage: Leakage = "skeleton"
    filter: Filter = "none"
    relevance: tuple[str, ...] = (PAIR, IDENTITY)  # a score for each
    ties: str = TIES


def find(name: str, own: str) -> Protocol:
    """The protocol of that name; `own` is the test pool of the run's own data set, "" for none.

    A pool of the run's own split has the literature's rule of leakage, and queries that break it
    are removed: the published splits have a few. Any other pool claims to be foreign, and a single
    shared connectivity is an error.
    Errors: UserError for an unknown name, with the most similar known ones.
    """
    known, key = _declared(own), name.replace("->", "→")
    if key in known:
        return known[key]
    if name == IN_BATCH:
        raise UserError(
            f"expected a pool to cut into batches, as these data have no test of their own; got "
            f"{name!r}; name one: {IN_BATCH}/pcdes/file-order"
        )
    raise UserError(f"expected a protocol; got {name!r}; {did_you_mean(key, known)}")


def _declared(own: str) -> dict[str, Protocol]:
    pools = {name: _of_pool(name, size, own) for name, size in POOLS.items()}
    # A full pool has candidates that are not queries, which batches of pairs cannot hold; and a
    # query that holds for several molecules has them in several batches.
    whole = [p for p in pools.values() if "/full-" not in p.name and PAIR in p.relevance]
    cut = [dataclasses.replace(p, name=f"{IN_BATCH}/{p.name}", batch=BATCH) for p in whole]
    known = pools | {p.name: p for p in (*cut, *_foreign())}
    return known | ({IN_BATCH: known[f"{IN_BATCH}/{own}"]} if own else {})


def _of_pool(name: str, size: int, own: str) -> Protocol:
    protocol = Protocol(name, name, size)
    if name.endswith(SHORT):
        protocol = dataclasses.replace(protocol, relevance=(HOLDER,))
    if own and _division(name) == _division(own):
        return dataclasses.replace(protocol, leakage="molecule or text", filter="test side")
    return protocol


def _division(pool: str) -> str:
    """The split that a pool belongs to: both versions of ChEBI-20 split the molecules alike."""
    family, part = pool.split("/")
    if family.startswith("chebi20-"):
        return "chebi20"
    return f"pcdes/{part.removesuffix('-validation')}" if family == "pcdes" else family


def _foreign() -> list[Protocol]:
    protocols = []
    for train in TRAINED_ON:
        for test, source in FOREIGN.items():
            if test == train:
                continue
            refusing = Protocol(f"ood/{train}→{test}", source, POOLS[source], trained_on=train)
            name = f"{refusing.name}/filtered"
            protocols += [refusing, dataclasses.replace(refusing, name=name, filter="test side")]
    return protocols
