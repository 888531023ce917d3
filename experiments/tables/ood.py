"""Trained on one data set, tested on the other: the runs of the in-domain tables, evaluated again.

Test pairs whose molecule was trained on are not queries. There are no published numbers; DiffTMR
has only a figure.
"""

from tmr_jax.table.plan import Row, Table

MODELS = {"Memory Bank": "mbank", "DiffTMR": "difftmr"}
IN_DOMAIN = {"chebi": "chebi20-text2mol/full-33010", "pcdes": "pcdes/file-order"}
OUT_OF_DOMAIN = {"chebi": "ood/chebi20→pcdes/filtered", "pcdes": "ood/pcdes→chebi20/filtered"}


def rows(label: str, model: str, data: str) -> tuple[Row, Row]:
    experiment, protocol = f"{model}_{data}", ("--protocol", OUT_OF_DOMAIN[data])
    return (
        Row(f"{label}, in domain", experiment, IN_DOMAIN[data]),
        Row(f"{label}, out of domain", experiment, OUT_OF_DOMAIN[data], eval_overrides=protocol),
    )


TABLE = Table(
    title="In and out of domain: ChEBI-20 and PCdes",
    metrics=("hits@1", "hits@5", "hits@10", "mrr"),
    rows=tuple(
        row
        for label, model in MODELS.items()
        for data in IN_DOMAIN
        for row in rows(f"{label} of {data}", model, data)
    ),
)
