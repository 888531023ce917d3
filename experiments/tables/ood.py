"""Trained on one data set, tested on the other: the same runs as in their own domain, ranked again.

The other's test pairs whose molecule was trained on are left out of its queries (MODELS.md A1.10);
there are no published numbers, DiffTMR has a figure alone.
"""

from tmr_jax.table.plan import Row, Table

MODELS = {"Memory Bank": "mbank", "DiffTMR": "difftmr"}
OWN = {"chebi": "chebi20-text2mol/full-33010", "pcdes": "pcdes/file-order"}
OTHER = {"chebi": "ood/chebi20→pcdes/filtered", "pcdes": "ood/pcdes→chebi20/filtered"}


def rows(label: str, model: str, data: str) -> tuple[Row, Row]:
    experiment, asked = f"{model}_{data}", ("--protocol", OTHER[data])
    return (
        Row(f"{label}, in domain", experiment, OWN[data]),
        Row(f"{label}, out of domain", experiment, OTHER[data], eval_overrides=asked),
    )


TABLE = Table(
    title="In and out of domain: ChEBI-20 and PCdes",
    metrics=("hits@1", "hits@5", "hits@10", "mrr"),
    rows=tuple(
        row
        for label, model in MODELS.items()
        for data in OWN
        for row in rows(f"{label} of {data}", model, data)
    ),
)
