"""The models on real pairs that anyone has; scores compare with one another, with no paper's."""

from tmr_jax.table_plan import Claim, Row, Table

POOLS = ("chebi20-molt5/test-split", "chebi20-molt5/full-33008", "pcdes/file-order")
MODELS = {"dual encoder": "det_open", "Memory Bank": "mbank_open", "DiffTMR": "difftmr_open"}
SMALL = f", {POOLS[0]}"

TABLE = Table(
    title="Open pairs: the models beside one another",
    rows=tuple(
        Row(f"{label}, {pool}", experiment, pool)
        for pool in POOLS
        for label, experiment in MODELS.items()
    ),
    claims=(
        Claim(
            "Memory Bank is above the rest",
            "BIBM 2024",
            f"Memory Bank{SMALL}",
            f"dual encoder{SMALL}",
        ),
        Claim(
            "DiffTMR is above Memory Bank", "ACM MM 2025", f"DiffTMR{SMALL}", f"Memory Bank{SMALL}"
        ),
    ),
)
