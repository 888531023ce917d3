"""IUPAC names as second captions of training molecules.

In: the training part of PubChem324k's names, or a file of names that tools/make/names.py writes.
Out: pairs of name and molecule, without the molecules that share their connectivity (InChIKey
block 1) with one in validation or test of ChEBI-20 or PCdes. A name says more of the structure than
people type, so it never is an evaluated text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tmr_jax.data.datasets import chebi20, pcdes
from tmr_jax.data.datasets.table import Report
from tmr_jax.data.download import locate, parts_of
from tmr_jax.data.features.similarity import molecule_keys
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair, UserError

NAMES = parts_of("pubchem324k")["iupac_train.txt"]
SOUND = ("same", "unchecked")  # outcomes of names: OPSIN reads the molecule, or was not there


def iupac_pairs() -> tuple[list[Pair], Report]:
    """Training pairs and the report of all rows; the id is the CID. Errors: MissingPart.

    Refused: "evaluated" for the connectivity of an evaluated molecule, "no-inchikey" for a molecule
    whose connectivity cannot be compared, "no-name".
    """
    report = Report(source="pubchem324k/iupac")
    rows = [cells.values for cells in read_table(locate(NAMES), ["cid", "SMILES", "description"])]
    evaluated, pairs = evaluated_blocks(), []
    for cells, block in zip(rows, blocks([smiles for _, smiles, _ in rows]), strict=True):
        report.rows += 1
        cid, smiles, name = (cell.strip() for cell in cells)
        if not name or not block or block in evaluated:
            reason = "no-name" if not name else "evaluated" if block else "no-inchikey"
            report.refuse(report.rows, reason, smiles)
        else:
            pairs.append(Pair(cid, name, smiles, "train"))
    report.keep(pairs)
    return pairs, report


def add_names(pairs: list[Pair], report: Report, path: Path) -> None:
    """Appends a pair of name and molecule for each training molecule that the file names.

    Molecules of other splits get none, and so does one whose name OPSIN does not read as the same
    molecule. Errors: UserError where the file names no training molecule.
    """
    rows = (cells.values for cells in read_table(path, ["SMILES", "name", "outcome"]))
    names = {smiles: name for smiles, name, outcome in rows if name and outcome in SOUND}
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.split == "train":
            first.setdefault(pair.smiles, pair)
    more = [p._replace(id=f"{p.id}-name", text=names[s]) for s, p in first.items() if s in names]
    if not more:
        raise UserError(
            f"expected names of training molecules in {path} (--data.names); got none of "
            f"{len(first):,}; make them: python -m tools.make.names --smiles FILE --out {path}"
        )
    pairs += more
    report.rows += len(more)
    report.keep(pairs)
    report.sources.append({"source": "IUPAC names", "licence": "MIT", "rows": len(more)})


def evaluated_blocks() -> frozenset[str]:
    """Connectivities in validation and test of ChEBI-20 and PCdes. Errors: MissingPart."""
    splits = ("validation", "test")
    smiles = [s for split in splits for _, s in chebi20.molecules("molt5", split)]
    smiles += [p.smiles for split in splits for p in pcdes.load_split("file-order", split)[0]]
    return frozenset(blocks(smiles)) - {""}


def blocks(smiles: Sequence[str]) -> list[str]:
    """First block of each molecule's InChIKey; "" where there is none."""
    keys = molecule_keys(smiles, "connectivity")
    return ["" if key.startswith("SMI:") else key.split("-")[0] for key in keys]
