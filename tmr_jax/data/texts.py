"""The texts of a user's file, row by row: a .txt with one on each line, or a column of a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tmr_jax.data.features.text import clean_text
from tmr_jax.data.molecules import (
    MAX_LINE,
    Row,
    bounded_lines,
    column_names,
    has_smiles,
    is_bare_list,
    is_text_file,
    rows_of_table,
)
from tmr_jax.types import UserError


def holds_texts(
    path: Path, smiles_column: str = "", name_column: str = "", text_column: str = ""
) -> bool:
    """Whether a file is a corpus: a column of texts is named, or it is a .txt of nothing but text.

    A .txt whose lines begin with molecules is a list of those, and one whose first line has a tab,
    or is SMILES, is a table. Raises ValueError where columns of both are named.
    """
    if smiles_column and text_column:
        raise UserError(
            f"expected a library of molecules or of texts, got the columns {smiles_column!r} and "
            f"{text_column!r} for both; name one of them"
        )
    if text_column or smiles_column or name_column:
        return bool(text_column)
    if not is_text_file(path) or not path.is_file() or is_bare_list(path):
        return False
    names = column_names(path)
    return len(names) < 2 and not has_smiles(names)


def read_texts(path: Path, text_column: str = "", name_column: str = "") -> Iterator[Row]:
    """Rows of a .txt file, or with a column of a CSV, TSV, Parquet or SDF file, in file order.

    Every line is a row, under its number. Refused is a text without a visible character
    (`empty-text`) or beyond the length of a line (`too-long`). Raises ValueError where the file is
    missing or has no such column.
    """
    if text_column:
        for row in rows_of_table(path, text_column, name_column):
            yield row if row.refused else _row(row.content, row.name)
        return
    for number, line in enumerate(bounded_lines(path), 1):
        yield _row_of_line(line, f"row {number}")


def _row_of_line(line: bytes | None, name: str) -> Row:
    if line is None:
        return Row("", name, "too-long")
    try:
        return _row(line.decode("utf-8-sig"), name)
    except UnicodeDecodeError:
        return Row("", name, "not-utf-8")


def _row(text: str, name: str) -> Row:
    text = text.strip()
    if len(text.encode()) >= MAX_LINE:
        return Row(text, name, "too-long")
    try:
        clean_text(text)
    except ValueError:
        return Row(text, name, "empty-text")
    return Row(text, name)
