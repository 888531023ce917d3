"""The ablation on real pairs: one frozen text encoder, one budget, minutes a run, three seeds.

Claims are of the papers, which make them of other pairs and of a text encoder that learns, or ours.
"""

from tmr_jax.table.plan import Claim, Row, Table

POOL = "chebi20-molt5/test-split"
BANK, DIFFTMR = "Memory Bank (BIBM 2024)", "DiffTMR (ACM MM 2025)"

TABLE = Table(
    title="Ablation on open pairs, frozen text encoder",
    rows=(
        Row("dual", "ablation_open", POOL),
        Row("dual, second order", "ablation_second_order_open", POOL),
        Row("mbank", "ablation_mbank_open", POOL),
        Row("mbank, no memory", "ablation_mbank_no_memory_open", POOL),
        Row("mbank, no u2u", "ablation_mbank_no_u2u_open", POOL),
        Row("mbank, no u2c", "ablation_mbank_no_u2c_open", POOL),
        Row("mbank, no adversary", "ablation_mbank_no_adversarial_open", POOL),
        Row("mbank, no triplet", "ablation_mbank_no_triplet_open", POOL),
        Row("mbank, InfoNCE", "ablation_mbank_info_nce_open", POOL),
        Row("mbank, mixed statistics", "ablation_mbank_mixed_open", POOL),
        Row("difftmr", "ablation_difftmr_open", POOL),
        Row("difftmr, before the generator", "ablation_difftmr_open", POOL, tier="tapr"),
        Row("difftmr, first stage alone", "ablation_difftmr_open", POOL, tier="det"),
        Row("difftmr, no generator", "ablation_difftmr_no_generator_open", POOL, tier="tapr"),
        Row("difftmr, no TAPR", "ablation_difftmr_no_tapr_open", POOL),
        Row("difftmr, no local term", "ablation_difftmr_no_local_open", POOL),
        Row("difftmr, second order", "ablation_difftmr_second_order_open", POOL),
    ),
    claims=(
        Claim("the memory helps", BANK, "mbank", "mbank, no memory"),
        Claim("the loss u2u helps", BANK, "mbank", "mbank, no u2u"),
        Claim("the loss u2c helps", BANK, "mbank", "mbank, no u2c"),
        Claim("the adversary helps", BANK, "mbank", "mbank, no adversary"),
        Claim("the triplet helps", BANK, "mbank", "mbank, no triplet"),
        Claim("the triplet is better than InfoNCE", "ours", "mbank", "mbank, InfoNCE"),
        Claim("statistics of each modality help", "ours", "mbank", "mbank, mixed statistics"),
        Claim(
            "second-order losses help a dual encoder",
            "ours",
            "dual, second order",
            "dual",
        ),
        Claim("TAPR helps", DIFFTMR, "difftmr", "difftmr, no TAPR"),
        Claim("the generator helps", DIFFTMR, "difftmr", "difftmr, no generator"),
        Claim("the local term helps", DIFFTMR, "difftmr", "difftmr, no local term"),
        Claim("second-order losses help DiffTMR", "ours", "difftmr, second order", "difftmr"),
        Claim("DiffTMR is above Memory Bank", DIFFTMR, "difftmr", "mbank"),
    ),
)
