"""The clauses that ask in chebi20-molt5/clause and validation-clause: python -m tools.make.clauses

Writes tmr_jax/data/clauses_SPLIT.tsv, a pure function of the texts and of a seed
(docs/data.md#short-queries). It is run once: other clauses are another protocol.
"""

from pathlib import Path

from tmr_jax.data.datasets.chebi20 import load_split
from tmr_jax.data.files import write_text
from tmr_jax.data.queries import draw

FOLDER = Path(__file__).resolve().parents[2] / "tmr_jax" / "data"


def main() -> None:
    for split in ("validation", "test"):
        content = draw(load_split("molt5", split))
        write_text(FOLDER / f"clauses_{split}.tsv", content)
        print(f"clauses_{split}.tsv: {content.count(chr(10)) - 1:,} texts ask")


if __name__ == "__main__":
    main()
