"""Ids of the definitions that no training may read: python -m tools.make.chebi_dropped

Compares the definitions of the package with the texts and names of the evaluated molecules
(tmr_jax.data.overlap), which are located or downloaded, and writes chebi_dropped.txt.
"""

from __future__ import annotations

import sys
from collections import Counter

from tmr_jax.data.datasets import chebi
from tmr_jax.data.files import write_text
from tmr_jax.data.overlap import Row, clean_of, evaluated


def main() -> int:
    dropped = find()
    write_text(chebi.FOLDER / chebi.DROPPED, "".join(f"{row.id}\n" for row, _ in dropped))
    for reason, count in sorted(Counter(reason for _, reason in dropped).items()):
        print(f"{reason:10} {count:5,}")
    print(f"{'all':10} {len(dropped):5,}")
    return 0


def find() -> list[tuple[Row, str]]:
    """The definitions to drop, in file order, with the reasons."""
    rows = (Row(*definition) for definition in chebi.all_definitions())
    return clean_of(rows, *evaluated())[1]


if __name__ == "__main__":
    sys.exit(main())
