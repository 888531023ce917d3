"""The tests' 96 pairs, seconds a run: shows that every part of a table works."""

from tmr_jax.table.plan import Claim, Row, Table

POOL, FEW = "table/test", ("--refine.samples", "1")

TABLE = Table(
    title="Smoke: three small models on 96 pairs",
    seeds=(0, 1, 2),
    metrics=("hits@1", "hits@10", "mrr"),
    rows=(
        Row("dual", "smoke", POOL),
        Row("mbank", "smoke_mbank", POOL),
        Row("difftmr, F = 2", "smoke_difftmr", POOL, at=(2,)),
        Row("difftmr, F = 1", "smoke_difftmr", POOL, eval_overrides=FEW, at=(1,)),
    ),
    claims=(Claim("the memory bank helps", "nobody", "mbank", "dual"),),
    curve="perturbations F",
)
