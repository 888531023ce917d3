"""The best model of an hour: with facts, and by its cosine alone."""

from tmr_jax.table.plan import Claim, Row, Table

POOLS = ("chebi20-molt5/test-split", "chebi20-molt5/full-33008", "pcdes/file-order")
COSINE = "cosine alone"

TABLE = Table(
    title="Open pairs: a dual encoder, a linear branch, and a second stage that reads facts",
    rows=tuple(
        Row(f"{label}, {pool}", "best_open", pool, tier)
        for pool in POOLS
        for label, tier in ((COSINE, "det"), ("facts", "facts"))
    ),
    claims=(Claim("facts help", "ours", f"facts, {POOLS[0]}", f"{COSINE}, {POOLS[0]}"),),
)
