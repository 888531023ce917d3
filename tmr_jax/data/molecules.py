"""The molecules of a user's file, row by row: .smi, CSV, TSV, Parquet or SDF, gzipped or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tmr_jax.data import table
from tmr_jax.features.graph import BadMolecule, parse_smiles

SMI = (".smi", ".smiles", ".ism")
MAX_LINE = 65_536  # bytes of a .smi line; no SMILES that is accepted comes near


class Row(NamedTuple):
    """One row of a file: a molecule, or the reason why it cannot be read."""

    smiles: str
    name: str
    refused: str = ""


def read_rows(path: Path, smiles_column: str = "", name_column: str = "") -> Iterator[Row]:
    """Rows of a .smi, CSV, TSV, Parquet or SDF file, gzipped or not, in file order.

    A .smi line is a SMILES and, after a space or tab, its name; so is a .txt line where the first
    begins with a molecule. In tables the columns are looked
    up by name; without a name for them that is "SMILES" (any case in CSV and TSV), and names are
    row numbers. Raises ValueError where the file is missing or has no such column.
    """
    if path.name.lower().removesuffix(".gz").endswith(SMI) or (
        not smiles_column and _is_bare_list(path)
    ):
        if not path.is_file():
            raise ValueError(
                f"expected a library at '{path}'; got no such file; give --library a .smi, .csv, "
                ".tsv, .parquet or .sdf file (or one of them .gz)"
            )
        yield from _read_smi(path)
        return
    columns = [smiles_column or _smiles_column(path)]
    columns += [name_column] if name_column else []
    for cells in table.read(path, columns):
        name = cells.values[1] if name_column and cells.values else f"row {cells.row}"
        yield Row(cells.values[0] if cells.values else "", name.strip(), cells.refused)


def _is_bare_list(path: Path) -> bool:
    """Whether a .txt file begins with a molecule, where a table has the names of its columns."""
    if not path.name.lower().removesuffix(".gz").endswith(".txt") or not path.is_file():
        return False
    with table.open_binary(path) as raw:
        row = _smi_row(raw.readline(MAX_LINE), 1)
    try:
        return row is not None and not row.refused and bool(parse_smiles(row.smiles))
    except BadMolecule:
        return False


def _smiles_column(path: Path) -> str:
    if path.is_file() and path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt")):
        return next((n for n in table.header(path) if n.lower() == "smiles"), "SMILES")
    return "SMILES"


def _read_smi(path: Path) -> Iterator[Row]:
    number = 0
    with table.open_binary(path) as raw:
        while line := raw.readline(MAX_LINE):
            number += 1
            too_long, rest = len(line) == MAX_LINE and not line.endswith(b"\n"), line
            while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
                rest = raw.readline(MAX_LINE)
            if too_long:
                yield Row("", f"row {number}", "too-long")
            elif (row := _smi_row(line, number)) is not None:
                yield row


def _smi_row(line: bytes, number: int) -> Row | None:
    """None for an empty line, a comment, and a first line that says SMILES."""
    try:
        words = line.decode("utf-8-sig").split(maxsplit=1)
    except UnicodeDecodeError:
        return Row("", f"row {number}", "not-utf-8")
    if not words or words[0].startswith("#") or (number == 1 and words[0].lower() == "smiles"):
        return None
    return Row(words[0], words[1].strip() if len(words) > 1 else f"row {number}")
