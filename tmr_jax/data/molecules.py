"""The molecules of a user's file, row by row: .smi, CSV, TSV, Parquet or SDF, gzipped or not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tmr_jax.data.datasets import table
from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.types import UserError

SMI = (".smi", ".smiles", ".ism")
MAX_LINE = 65_536  # bytes of a line; no SMILES that is accepted comes near
FIRST = 20  # lines of a .txt that are looked at to tell what it is


class Row(NamedTuple):
    """One row of a file: a molecule or a text, or the reason why it cannot be read."""

    content: str  # a SMILES, or a text (data/texts.py)
    name: str
    refused: str = ""


def read_rows(path: Path, smiles_column: str = "", name_column: str = "") -> Iterator[Row]:
    """Rows of a .smi, CSV, TSV, Parquet or SDF file, gzipped or not, in file order.

    A .smi line is a SMILES and, after a space or tab, its name; so is a .txt line where most of the
    first ones begin with a molecule. In tables the columns are looked up by name; without a name
    for them that is "SMILES" (any case in CSV and TSV), and names are row numbers. Raises
    ValueError where the file is missing or has no such column.
    """
    if path.name.lower().removesuffix(".gz").endswith(SMI) or (
        not smiles_column and is_bare_list(path)
    ):
        if not path.is_file():
            raise UserError(
                f"expected a library at '{path}'; got no such file; give --library a .smi, .csv, "
                ".tsv, .parquet or .sdf file (or one of them .gz)"
            )
        yield from _read_smi(path)
        return
    yield from rows_of_table(path, smiles_column or _smiles_column(path), name_column)


def rows_of_table(path: Path, column: str, name_column: str = "") -> Iterator[Row]:
    """Rows of a table with the content of one column, under the names of another or row numbers."""
    columns = [column, *([name_column] if name_column else [])]
    for cells in table.read(path, columns):
        name = cells.values[1] if name_column and cells.values else f"row {cells.row}"
        yield Row(cells.values[0] if cells.values else "", name.strip(), cells.refused)


def is_text_file(path: Path) -> bool:
    """Whether a file's name ends in .txt, which may hold anything."""
    return path.name.lower().removesuffix(".gz").endswith(".txt")


def is_bare_list(path: Path) -> bool:
    """Whether a .txt is a list of molecules: most of its first lines begin with one.

    A single one may be a word such as NO. What has a column SMILES is a table.
    """
    if not is_text_file(path) or not path.is_file() or has_smiles(column_names(path)):
        return False
    lines = islice(enumerate(bounded_lines(path), 1), FIRST)
    rows = [_smi_row(line, number) for number, line in lines if line is not None]
    said = [_is_molecule(row) for row in rows if row is not None]
    return 2 * sum(said) > len(said)


def column_names(path: Path) -> list[str]:
    """What the first line of a .txt has between tabs; nothing where it is beyond `MAX_LINE`."""
    return [] if next(bounded_lines(path), None) is None else table.header(path)


def has_smiles(names: list[str]) -> bool:
    return any(name.lower() == "smiles" for name in names)


def _is_molecule(row: Row) -> bool:
    try:
        return not row.refused and bool(parse_smiles(row.content))
    except BadMolecule:
        return False


def bounded_lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file, gzipped or not, each with its end; None for one beyond `MAX_LINE`."""
    with table.open_binary(path) as raw:
        while line := raw.readline(MAX_LINE):
            too_long, rest = len(line) == MAX_LINE and not line.endswith(b"\n"), line
            while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
                rest = raw.readline(MAX_LINE)
            yield None if too_long else line


def _smiles_column(path: Path) -> str:
    if path.is_file() and path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt")):
        return next((n for n in table.header(path) if n.lower() == "smiles"), "SMILES")
    return "SMILES"


def _read_smi(path: Path) -> Iterator[Row]:
    for number, line in enumerate(bounded_lines(path), 1):
        if line is None:
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
