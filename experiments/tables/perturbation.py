"""DiffTMR's forms of the perturbation, and none (MODELS.md 2.2, 2.5)."""

from tmr_jax.table.plan import Claim, Row, Table, published

CITED = published()["PERTURBATION"]
SOURCE = "DiffTMR, perturbation ablation"
FORMS = {
    "exp(mean c)": ("difftmr_chebi_tapr_mean", CITED["mean"]),
    "exp(theta mean c)": ("difftmr_chebi_tapr_scalar", CITED["scalar"]),
    "exp(C Theta)": ("difftmr_chebi", CITED["matrix"]),
    "none": ("difftmr_chebi_no_tapr", None),
}

TABLE = Table(
    title="DiffTMR on ChEBI-20: forms of the perturbation",
    rows=tuple(
        Row(label, experiment, "chebi20-text2mol/full-33010", cited=cited)
        for label, (experiment, cited) in FORMS.items()
    ),
    claims=(
        Claim("the matrix is better than the mean", SOURCE, "exp(C Theta)", "exp(mean c)"),
        Claim("the matrix is better than a scalar", SOURCE, "exp(C Theta)", "exp(theta mean c)"),
        Claim("perturbation helps", SOURCE, "exp(C Theta)", "none"),
    ),
)
