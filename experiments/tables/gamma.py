"""DiffTMR by gamma, the share of the local score; the paper chose 0.4."""

from tmr_jax.table.plan import Claim, Row, Table

FULL = "chebi20-text2mol/full-33010"
PER_CENT = {0: "_gamma0", 20: "_gamma02", 40: "", 60: "_gamma06", 100: "_gamma1"}

TABLE = Table(
    title="DiffTMR on ChEBI-20: share of the local score, and second-order losses",
    rows=(
        *(
            Row(f"gamma = {share / 100:g}", f"difftmr_chebi{name}", FULL, at=(share,))
            for share, name in PER_CENT.items()
        ),
        Row("gamma = 0.4, second-order losses", "difftmr_chebi_second_order", FULL),
    ),
    claims=(
        Claim("the local score helps", "DiffTMR", "gamma = 0.4", "gamma = 0"),
        Claim("the global score helps", "DiffTMR", "gamma = 0.4", "gamma = 1"),
    ),
    curve="gamma in per cent",
)
