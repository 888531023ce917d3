"""What raises accuracy, one change at a time at an equal number of steps, on validation alone."""

from tmr_jax.table.plan import Row, Table

POOL = "chebi20-molt5/validation"
FIRST = "runs/tables/levers/levers_open-s0"  # the run of the first row and seed
NAMES = "runs/tables/levers/names.tsv"  # docs/data.md#names


def lever(label: str, name: str, *overrides: str) -> Row:
    return Row(label, "levers_open", POOL, overrides=overrides, name=f"levers_{name}")


TABLE = Table(
    title="Levers: one epoch of open pairs, ChEBI-20's validation",
    rows=(
        Row("dual encoder", "levers_open", POOL),
        lever("version 1 of the pairs", "version1", "--data.version", "1"),
        lever("3 layers of the molecule", "layers3", "--model.graph.layers", "3"),
        lever("7 layers of the molecule", "layers7", "--model.graph.layers", "7"),
        lever("pairwise sigmoid", "sigmoid", "--model.contrastive", "sigmoid"),
        lever("readout by attention", "attention", "--model.graph.readout", "attention"),
        lever("counts of fragments", "counts", "--features.molecule", "ogb_counts"),
        lever("sentences and clauses", "levels", "--train.levels", "0.5", "0.25", "0.25"),
        lever(
            "second-order losses",
            "second_order",
            *("--model.second-order.u2u", "1", "--model.second-order.u2c", "1"),
        ),
        lever(
            "batches of like molecules, texts in buckets",
            "alike",
            *("--train.alike", "4", "--train.texts", "buckets"),
        ),
        lever("embeddings of 600", "dim600", "--model.dim", "600"),
        lever("text rate doubled", "text_lr", "--optim.text-lr", "2e-4"),
        lever("weight decay", "decay", "--optim.weight-decay", "0.01"),
        lever("groups of eight near pairs", "mined", "--train.mined", "8"),
        lever("taught by the first row", "taught", "--train.teachers", FIRST),
        lever(
            "taught by two of these rows",
            "taught2",
            *("--train.teachers", FIRST, "runs/tables/levers/levers_counts-s0"),
        ),
        lever("masked words first", "masked", "--train.masked-words", "300"),
        # With names an epoch has nearly twice the steps, so this row stands against the next one.
        lever("names, too", "names", "--data.names", NAMES),
        lever("dual encoder, two epochs", "epochs2", "--train.epochs", "2"),
        lever("averaged parameters", "ema", "--optim.ema", "0.99"),
    ),
)
