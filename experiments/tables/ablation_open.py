"""The ablation on real pairs: one frozen text encoder, one budget, minutes a run, three seeds.

A claim with a paper's name is the paper's, made for other pairs and a text encoder that is trained.
"""

from tmr_jax.table.plan import Claim, Row, Table

POOL = "chebi20-molt5/test-split"
BANK, DIFFTMR = "Memory Bank (BIBM 2024)", "DiffTMR (ACM MM 2025)"
SECOND_ORDER = ("--model.second-order.u2u", "1", "--model.second-order.u2c", "1")


def variant(label: str, name: str, *overrides: str, tier: str = "", note: str = "") -> Row:
    """A row that changes a few fields of ablation_open, ablation_mbank_open or
    ablation_difftmr_open; `name` says what it changes."""
    model = label.split(",")[0]
    base, part = ("ablation", "") if model == "dual" else (f"ablation_{model}", f"_{model}")
    run = f"ablation{part}_{name}_open"
    return Row(label, f"{base}_open", POOL, tier, overrides, name=run, note=note)


TABLE = Table(
    title="Ablation on open pairs, frozen text encoder",
    rows=(
        Row("dual", "ablation_open", POOL),
        variant("dual, second order", "second_order", *SECOND_ORDER),
        Row("mbank", "ablation_mbank_open", POOL),
        variant("mbank, no memory", "no_memory", "--model.bank.slots", "0"),
        variant("mbank, no u2u", "no_u2u", "--model.second-order.u2u", "0"),
        variant("mbank, no u2c", "no_u2c", "--model.second-order.u2c", "0"),
        variant("mbank, no adversary", "no_adversarial", "--model.bank.adversarial", "0"),
        variant("mbank, no triplet", "no_triplet", "--model.bank.first-order", "none"),
        variant(
            "mbank, InfoNCE",
            "info_nce",
            *("--model.bank.first-order", "info_nce"),
            note="the paper has the triplet alone",
        ),
        variant(
            "mbank, mixed statistics",
            "mixed",
            *("--model.bank.statistics", "mixed"),
            note="BatchNorm's running statistics of both modalities together, as in the paper's "
            "code",
        ),
        Row("difftmr", "ablation_difftmr_open", POOL),
        Row("difftmr, before the generator", "ablation_difftmr_open", POOL, tier="tapr"),
        Row("difftmr, first stage alone", "ablation_difftmr_open", POOL, tier="det"),
        variant(
            "difftmr, no generator",
            "no_generator",
            *("--model.hdan.weight", "0"),
            tier="tapr",
            note="the tiers x0 and fused are of random parameters",
        ),
        variant("difftmr, no TAPR", "no_tapr", "--model.tapr.mode", "off"),
        variant("difftmr, no local term", "no_local", "--model.hdan.gamma", "0"),
        variant(
            "difftmr, second order",
            "second_order",
            *SECOND_ORDER,
            note="losses of Memory Bank; neither paper tries this",
        ),
    ),
    claims=(
        Claim("the memory helps", BANK, "mbank", "mbank, no memory"),
        Claim("the loss u2u helps", BANK, "mbank", "mbank, no u2u"),
        Claim("the loss u2c helps", BANK, "mbank", "mbank, no u2c"),
        Claim("the adversary helps", BANK, "mbank", "mbank, no adversary"),
        Claim("the triplet helps", BANK, "mbank", "mbank, no triplet"),
        Claim("the triplet is better than InfoNCE", "ours", "mbank", "mbank, InfoNCE"),
        Claim("statistics of each modality help", "ours", "mbank", "mbank, mixed statistics"),
        Claim("second-order losses help a dual encoder", "ours", "dual, second order", "dual"),
        Claim("TAPR helps", DIFFTMR, "difftmr", "difftmr, no TAPR"),
        Claim("the generator helps", DIFFTMR, "difftmr", "difftmr, no generator"),
        Claim("the local term helps", DIFFTMR, "difftmr", "difftmr, no local term"),
        Claim("second-order losses help DiffTMR", "ours", "difftmr, second order", "difftmr"),
        Claim("DiffTMR is above Memory Bank", DIFFTMR, "difftmr", "mbank"),
    ),
)
