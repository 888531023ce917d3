"""What no training may read, as lists of the package: python -m tools.make.dropped

Compares definitions and training pairs with the texts and names of the evaluated molecules
(tmr_jax.data.overlap), which are located or downloaded. Writes chebi_dropped.txt, ids of
definitions, and open_dropped.txt, digests of texts of `open`.
"""

from __future__ import annotations

import sys
from collections import Counter

from tmr_jax.data.datasets import chebi, open_pairs
from tmr_jax.data.files import write_text
from tmr_jax.data.overlap import Row, Texts, clean_of, digest, evaluated, pool_texts


def main() -> int:
    dropped = definitions()
    write_text(chebi.FOLDER / chebi.DROPPED, "".join(f"{row.id}\n" for row, _ in dropped))
    for reason, count in sorted(Counter(reason for _, reason in dropped).items()):
        print(f"definitions: {reason:10} {count:5,}")
    digests = texts()
    write_text(chebi.FOLDER / open_pairs.DROPPED, "".join(f"{one}\n" for one in digests))
    print(f"texts of open: {len(digests):,}")
    return 0


def definitions() -> list[tuple[Row, str]]:
    """The definitions to drop, in file order, with the reasons."""
    rows = (Row(*definition) for definition in chebi.all_definitions())
    return clean_of(rows, *evaluated())[1]


def texts() -> list[str]:
    """Sorted digests of the texts of `open`, every source, that a pool of an evaluation holds."""
    held = Texts(pool_texts())
    pairs = open_pairs.joined("2", chebi.KINDS)[0]
    return sorted({digest(pair.text) for pair in pairs if pair.text in held})


if __name__ == "__main__":
    sys.exit(main())
