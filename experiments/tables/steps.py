"""DiffTMR by diffusion steps, trained and evaluated (Table 3c): one run per number trained."""

from tmr_jax.table.plan import Row, Table, published

BASE, FULL = "difftmr_chebi", "chebi20-text2mol/full-33010"
DEFAULT = 50  # steps of the base
STEPS, OBJECTIVE = "--model.hdan.steps", "--model.hdan.objective"
# A thousand noise levels in every training step would cost twenty times what fifty do.
RANDOM = (OBJECTIVE, "random_step")
RANDOM_NOTE = "trained on one noise level drawn for each query and step, not on all of them"


def row(trained: int, evaluated: int) -> Row:
    is_default, is_long = trained == DEFAULT, trained == 1000
    return Row(
        f"{trained} -> {evaluated}",
        BASE,
        FULL,
        overrides=() if is_default else (STEPS, str(trained), *(RANDOM if is_long else ())),
        eval_overrides=() if trained == evaluated else ("--refine.steps", str(evaluated)),
        cited=published()["STEPS"][trained, evaluated],
        at=(trained, evaluated),
        name="" if is_default else f"{BASE}_steps{trained}",
        note=RANDOM_NOTE if is_long else "",
    )


TABLE = Table(
    title="DiffTMR on ChEBI-20: diffusion steps of training and of evaluation",
    rows=tuple(row(*steps) for steps in published()["STEPS"]),
    curve="steps of training (down) and of evaluation (across)",
)
