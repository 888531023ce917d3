"""The models on freely available pairs. Scores do not compare with published ones, and with each
other only by their budgets, which the labels state.
"""

from tmr_jax.table.plan import Claim, Row, Table

POOLS = ("chebi20-molt5/test-split", "chebi20-molt5/full-33008", "pcdes/file-order")
DUAL = "dual encoder (7 epochs, texts in buckets)"
BANK = "Memory Bank (9 epochs, packed texts)"
DIFFTMR = "DiffTMR (2 epochs on one encoder for all seeds, the dual encoder's)"
MODELS = {DUAL: "det_open", BANK: "mbank_open", DIFFTMR: "difftmr_open"}
SMALL = f", {POOLS[0]}"

TABLE = Table(
    title="Open pairs: the models side by side",
    rows=tuple(
        Row(f"{label}, {pool}", experiment, pool)
        for pool in POOLS
        for label, experiment in MODELS.items()
    ),
    claims=(
        Claim(
            "Memory Bank is above a dual encoder",
            "Memory Bank (BIBM 2024)",
            f"{BANK}{SMALL}",
            f"{DUAL}{SMALL}",
        ),
        Claim(
            "DiffTMR is above Memory Bank",
            "DiffTMR (ACM MM 2025)",
            f"{DIFFTMR}{SMALL}",
            f"{BANK}{SMALL}",
        ),
    ),
)
