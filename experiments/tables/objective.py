"""DiffTMR by the noise levels of its generative loss in a training step; the paper does not say."""

from tmr_jax.table.plan import Claim, Row, Table

FULL = "chebi20-text2mol/full-33010"
OBJECTIVE = "--model.hdan.objective"

TABLE = Table(
    title="DiffTMR on ChEBI-20: noise levels of a training step",
    rows=(
        Row("all 50 levels", "difftmr_chebi", FULL),
        Row("one at random", "difftmr_chebi", FULL, overrides=(OBJECTIVE, "random_step")),
        Row("the chain unrolled", "difftmr_chebi", FULL, overrides=(OBJECTIVE, "unrolled")),
    ),
    claims=(Claim("all levels help", "nobody", "all 50 levels", "one at random"),),
)
