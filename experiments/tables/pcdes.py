"""PCdes, paragraph level: the published models and the two implemented here.

Cited rows have the protocol and pool of published.py.
"""

from tmr_jax.table.plan import Row, Table, published

OURS = {"Memory Bank": "mbank_pcdes", "DiffTMR": "difftmr_pcdes"}
CITED = published()["PCDES"]

TABLE = Table(
    title="PCdes, paragraphs; ours split by file order",
    metrics=("hits@1", "hits@5", "hits@10", "mrr"),
    rows=tuple(
        Row(label, OURS.get(label, ""), "pcdes/file-order", cited=CITED.get(label))
        for label in dict.fromkeys((*CITED, *OURS))
    ),
)
