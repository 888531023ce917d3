"""ChEBI-20: the published models and the two implemented here.

Cited rows have the protocol and pool of published.py.
"""

from tmr_jax.table.plan import Row, Table, published

FULL, SPLIT = "chebi20-text2mol/full-33010", "chebi20-text2mol/test-split"
CITED = published()["CHEBI20"]
OURS = {"Memory Bank": "mbank_chebi", "DiffTMR": "difftmr_chebi"}

TABLE = Table(
    title="ChEBI-20, text with names",
    rows=(
        *(Row(label, OURS.get(label, ""), FULL, cited=cited) for label, cited in CITED.items()),
        *(Row(f"{label}, small pool", name, SPLIT) for label, name in OURS.items()),
    ),
)
