"""DiffTMR by diffusion steps, trained and evaluated (Table 3c): one run per number trained."""

from tmr_jax.table.plan import Row, Table, published

TRAINED = {50: "difftmr_chebi"}  # the default T

TABLE = Table(
    title="DiffTMR on ChEBI-20: diffusion steps of training and of evaluation",
    rows=tuple(
        Row(
            f"{trained} -> {evaluated}",
            TRAINED.get(trained, f"difftmr_chebi_steps{trained}"),
            "chebi20-text2mol/full-33010",
            eval_overrides=() if trained == evaluated else ("--refine.steps", str(evaluated)),
            cited=cited,
            at=(trained, evaluated),
        )
        for (trained, evaluated), cited in published()["STEPS"].items()
    ),
    curve="steps of training (down) and of evaluation (across)",
)
