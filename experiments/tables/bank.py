"""Memory Bank on ChEBI-20, one part removed or changed at a time (docs/papers.md#memory-bank)."""

from tmr_jax.table.plan import Claim, Row, Table, published

BASE, FULL, SOURCE = "mbank_chebi", "chebi20-text2mol/full-33010", "Memory Bank (BIBM 2024)"
SLOTS, FIRST = "--model.bank.slots", "--model.bank.first-order"
U2U, U2C, KERNEL = (f"--model.second-order.{field}" for field in ("u2u", "u2c", "kernel"))
RELEASED = "an alternative in the paper's code"


def variant(label: str, name: str, *overrides: str, note: str = "") -> Row:
    return Row(label, BASE, FULL, overrides=overrides, name=f"{BASE}_{name}", note=note)


TABLE = Table(
    title="Memory Bank on ChEBI-20: its parts",
    rows=(
        Row("Memory Bank", BASE, FULL, cited=published()["CHEBI20"]["Memory Bank"]),
        variant("no memory", "no_memory", SLOTS, "0", note="means over words and over atoms"),
        variant("no u2u", "no_u2u", U2U, "0"),
        variant("no u2c", "no_u2c", U2C, "0"),
        variant("no second-order losses", "no_second_order", U2U, "0", U2C, "0"),
        variant("no adversary", "no_adversarial", "--model.bank.adversarial", "0"),
        variant("no triplet", "no_triplet", FIRST, "none"),
        variant("InfoNCE", "info_nce", FIRST, "info_nce", note="the paper has the triplet alone"),
        variant("second order of cosines", "cos", KERNEL, "cos", note=RELEASED),
        variant(
            "second order, natural sign",
            "euclid_neg",
            *(KERNEL, "euclid_neg"),
            note="far items get less mass; the paper's code has the other sign",
        ),
        *(
            Row(
                f"{slots} slots",
                BASE,
                FULL,
                overrides=() if slots == 28 else (SLOTS, str(slots)),  # 28: the paper's
                name="" if slots == 28 else f"{BASE}_slots{slots}",
                at=(slots,),
            )
            for slots in (4, 8, 16, 28, 64)
        ),
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
