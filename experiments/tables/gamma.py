"""DiffTMR by gamma, the share of the local score; the paper chose 0.4."""

from tmr_jax.table.plan import Claim, Row, Table

BASE, FULL = "difftmr_chebi", "chebi20-text2mol/full-33010"
NAMES = {0: "gamma0", 20: "gamma02", 40: "", 60: "gamma06", 100: "gamma1"}  # by per cent


def at_gamma(percent: int) -> Row:
    label, name = f"gamma = {percent / 100:g}", NAMES[percent]
    if not name:
        return Row(label, BASE, FULL, at=(percent,))
    overrides = ("--model.hdan.gamma", f"{percent / 100:g}")
    return Row(label, BASE, FULL, overrides=overrides, at=(percent,), name=f"{BASE}_{name}")


TABLE = Table(
    title="DiffTMR on ChEBI-20: share of the local score, and second-order losses",
    rows=(
        *(at_gamma(percent) for percent in NAMES),
        Row(
            "gamma = 0.4, second-order losses",
            BASE,
            FULL,
            overrides=("--model.second-order.u2u", "1", "--model.second-order.u2c", "1"),
            name=f"{BASE}_second_order",
            note="losses of Memory Bank; neither paper tries this",
        ),
    ),
    claims=(
        Claim("the local score helps", "DiffTMR", "gamma = 0.4", "gamma = 0"),
        Claim("the global score helps", "DiffTMR", "gamma = 0.4", "gamma = 1"),
    ),
    curve="gamma in per cent",
)
