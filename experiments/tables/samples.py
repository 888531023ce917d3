"""DiffTMR by F, perturbations of a molecule at evaluation: one run, evaluated again."""

from tmr_jax.table.plan import Claim, Row, Table, published

SOURCE = "DiffTMR, ablation of F"
DEFAULT = 15  # of the run's own evaluation

TABLE = Table(
    title="DiffTMR on ChEBI-20: perturbations F of a molecule",
    rows=tuple(
        Row(
            f"F = {samples}",
            "difftmr_chebi",
            "chebi20-text2mol/full-33010",
            eval_overrides=() if samples == DEFAULT else ("--refine.samples", str(samples)),
            cited=cited,
            at=(samples,),
        )
        for samples, cited in published()["SAMPLES"].items()
    ),
    claims=(
        Claim("F = 15 is better than 5", SOURCE, "F = 15", "F = 5"),
        Claim("F = 15 is better than 20", SOURCE, "F = 15", "F = 20"),
    ),
    curve="perturbations F",
)
