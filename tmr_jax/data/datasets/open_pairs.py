"""open_pairs: all real pairs in one table, without the molecules of the test sets.

In: open_pairs/pairs.tsv. Out: 16,872 training pairs, none of which shares its connectivity with
a molecule in validation or test of ChEBI-20 or PCdes, so that one run may be tested on both; or,
as version "unseen", the 1,410 more that only PCdes's validation keeps out: what an encoder trained
on the others has not seen, for a second stage.
Scores trained on it are labelled "open-pairs training": not comparable with published ones.
"""

from __future__ import annotations

from tmr_jax.config import TableConfig
from tmr_jax.data.datasets import table
from tmr_jax.data.download import locate, parts_of
from tmr_jax.types import Pair

PAIRS = parts_of("open_pairs")["pairs.tsv"]
# ChEBI-20 validation and test, PCdes validation and test
EVALUATED = ("cv", "ct", "pv", "pt")


def load(version: str = "") -> tuple[list[Pair], table.Report]:
    """The training pairs and the report of all rows; the id of a pair is its row number."""
    pairs, report = _without(EVALUATED)
    if version != "unseen":
        return pairs, report
    seen = {pair.id for pair in pairs}
    more, report = _without(tuple(flag for flag in EVALUATED if flag != "pv"))
    unseen = [pair for pair in more if pair.id not in seen]
    report.dropped += report.kept - len(unseen)
    report.replace(unseen)
    return unseen, report


def _without(flags: tuple[str, ...]) -> tuple[list[Pair], table.Report]:
    config = TableConfig(
        path=str(locate(PAIRS)),
        text="description",
        smiles="SMILES",
        fractions=(1.0, 0.0, 0.0),
        drop_column="eval_skeletons",
        drop_values=flags,
    )
    return table.load(config, seed=0)
