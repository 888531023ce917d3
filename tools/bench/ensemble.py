"""Several runs as one: python -m tools.bench.ensemble --runs RUN RUN --protocol POOL

Ranks a pool by the cosines of each run, and by their mean. Queries that any of the runs was trained
on are left out for all. Second stages are not used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmr_jax import cli
from tmr_jax.data.files import cache_folder
from tmr_jax.eval.evaluate import read_config
from tmr_jax.eval.leakage import check, check_data, own_test
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.pools import EncodedPool, declared_pool, encode_pools, open_run
from tmr_jax.eval.protocols import find
from tmr_jax.eval.scores import query_sets
from tmr_jax.models.encode import Encoded
from tmr_jax.models.runtime import use_compile_cache

SHOWN = ("hits@1", "hits@10", "mrr")


@dataclass(frozen=True)
class Arguments:
    """Rank a pool by the mean of the cosines of several runs."""

    runs: tuple[Path, ...]
    """Run directories."""
    protocol: str = "chebi20-molt5/validation"
    """A pool, as --protocols of the evaluation has it."""


def sides(runs: Sequence[Path], name: str) -> list[EncodedPool]:
    """The pool as each run encodes it. Errors: as of an evaluation."""
    configs = [read_config(run) for run in runs]
    data = configs[0].data
    protocol = find(name, own_test(data, data))
    pool = declared_pool(protocol, data)
    for run, config in zip(runs, configs, strict=True):
        check_data(run, config, protocol)
        pool = check(run, config, protocol, pool).pool
    return [encode_pools(open_run(run, "best"), [pool])[0][0] for run in runs]


def mean(each: Sequence[EncodedPool]) -> EncodedPool:
    """Rows whose products are the mean of the cosines; items are equal where they are for all."""

    def together(some: Sequence[Encoded]) -> Encoded:
        rows = np.concatenate([one.rows for one in some], 1) / np.float32(np.sqrt(len(some)))
        groups = np.stack([one.group for one in some], 1)
        return Encoded(rows, np.unique(groups, axis=0, return_inverse=True)[1].ravel())

    return EncodedPool(
        each[0].pool, together([s.text for s in each]), together([s.mol for s in each])
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run("tools.bench.ensemble", measure, arguments)


def measure(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "tools.bench.ensemble", args)
    use_compile_cache(cache_folder())
    each = sides(chosen.runs, chosen.protocol)
    for name, side in zip((*chosen.runs, "mean of all"), (*each, mean(each)), strict=True):
        for one in query_sets(*side):
            found = metrics(one.ranking())
            print(f"{name}, {one.direction}: " + "  ".join(f"{k} {found[k]:.4f}" for k in SHOWN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
