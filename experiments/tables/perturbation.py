"""DiffTMR's forms of the perturbation, and none (docs/papers.md#perturbation)."""

from tmr_jax.table.plan import Claim, Row, Table, published

BASE, FULL = "difftmr_chebi", "chebi20-text2mol/full-33010"
CITED = published()["PERTURBATION"]
SOURCE = "DiffTMR, perturbation ablation"


def variant(label: str, mode: str, name: str, cited: str = "") -> Row:
    overrides = ("--model.tapr.mode", mode)
    return Row(label, BASE, FULL, overrides=overrides, name=name, cited=CITED.get(cited))


TABLE = Table(
    title="DiffTMR on ChEBI-20: forms of the perturbation",
    rows=(
        variant("exp(mean c)", "mean", f"{BASE}_tapr_mean", "mean"),
        variant("exp(theta mean c)", "scalar", f"{BASE}_tapr_scalar", "scalar"),
        Row("exp(C Theta)", BASE, FULL, cited=CITED["matrix"]),
        variant("none", "off", f"{BASE}_no_tapr"),
    ),
    claims=(
        Claim("the matrix is better than the mean", SOURCE, "exp(C Theta)", "exp(mean c)"),
        Claim("the matrix is better than a scalar", SOURCE, "exp(C Theta)", "exp(theta mean c)"),
        Claim("perturbation helps", SOURCE, "exp(C Theta)", "none"),
    ),
)
