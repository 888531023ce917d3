"""Memory Bank on ChEBI-20, one part taken out or changed at a time (MODELS.md A2)."""

from tmr_jax.table.plan import Claim, Row, Table, published

FULL, SOURCE = "chebi20-text2mol/full-33010", "Memory Bank (BIBM 2024)"
CHANGES = {
    "no memory": "no_memory",
    "no u2u": "no_u2u",
    "no u2c": "no_u2c",
    "no second-order losses": "no_second_order",
    "no adversary": "no_adversarial",
    "no triplet": "no_triplet",
    "InfoNCE": "info_nce",
    "second order of cosines": "cos",
    "second order, natural sign": "euclid_neg",
}
SLOTS = {4: "_slots4", 8: "_slots8", 16: "_slots16", 28: "", 64: "_slots64"}

TABLE = Table(
    title="Memory Bank on ChEBI-20: its parts",
    rows=(
        Row("Memory Bank", "mbank_chebi", FULL, cited=published()["CHEBI20"]["Memory Bank"]),
        *(Row(label, f"mbank_chebi_{name}", FULL) for label, name in CHANGES.items()),
        *(Row(f"{n} slots", f"mbank_chebi{name}", FULL, at=(n,)) for n, name in SLOTS.items()),
    ),
    claims=(
        Claim("the memory helps", SOURCE, "Memory Bank", "no memory"),
        Claim("the loss u2u helps", SOURCE, "Memory Bank", "no u2u"),
        Claim("the loss u2c helps", SOURCE, "Memory Bank", "no u2c"),
        Claim("second-order losses help", SOURCE, "Memory Bank", "no second-order losses"),
        Claim("the adversary helps", SOURCE, "Memory Bank", "no adversary"),
        Claim("the triplet helps", SOURCE, "Memory Bank", "no triplet"),
        Claim("the triplet is better than InfoNCE", "ours", "Memory Bank", "InfoNCE"),
    ),
    curve="memory slots",
)
