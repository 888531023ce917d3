"""Rows of a table of delimited text, with quoted cells, that no stray quote can join.

A quoted cell may hold separators and line breaks. A quote that opens a cell and is not closed, or
that only a stray quote far below closes, would make one cell of all rows between. Such a row alone
is invalid; the lines after it are read as rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tmr_jax.data.features.graph import is_molecule
from tmr_jax.data.files import Lines, beginning

MAX_CELL = 131_072  # characters; csv's own limit, kept so that no global setting changes
SEPARATORS = {"csv": ",;\t|", "tsv": "\t,;|", "txt": "\t"}  # by kind of file, the likely one first
LOOKED_AT = 20  # lines that are compared with rows: enough to tell a text from rows


class Split(NamedTuple):
    """The cells of one row, or the reason why it is invalid and its beginning."""

    line: int  # where the row begins
    cells: list[str]
    refused: str = ""
    value: str = ""


def read_header(lines: Lines, kind: str, wanted: Sequence[str]) -> tuple[list[str], str]:
    """Column names and the separator, which is what makes most of the header.

    A line such as sep=; names the separator. Else it is the first of SEPARATORS with which the
    header has the `wanted` columns, or, if none has them, most columns.
    """
    line = next(lines, "")
    if named := re.fullmatch(r'"?sep=(.)"?', line.strip(" "), re.I):
        return _names(next(lines, ""), named[1]), named[1]
    found = [(_names(line, separator), separator) for separator in SEPARATORS[kind]]
    return max(found, key=lambda f: (set(wanted) <= set(f[0]) and bool(wanted), len(f[0])))


def _names(line: str, separator: str) -> list[str]:
    """The names in a header, without empty ones at its end."""
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # an enormous cell
        cells = [line]
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def split_rows(lines: Lines, separator: str, expected: int) -> Iterator[Split]:
    """Every row below the header but empty lines, of `expected` cells or invalid."""
    for line in lines:
        if line:  # a line of separators is a row
            number = lines.number
            cells = (
                _cells(lines, line, separator, expected) if '"' in line else line.split(separator)
            )
            yield _checked(number, line, cells, expected)


def _checked(number: int, line: str, cells: list[str] | str, expected: int) -> Split:
    """`cells` is a reason where there are none."""
    if isinstance(cells, str):
        return Split(number, [], cells, beginning(line))
    if any(len(cell) > MAX_CELL for cell in cells):
        return Split(number, [], "too-long", beginning(line))
    if len(cells) < expected or any(cell.strip() for cell in cells[expected:]):
        counts = f"{len(cells)} cells, header has {expected}"
        return Split(number, [], "ragged", f"{beginning(line)} ({counts})")
    return Split(number, cells[:expected])


def _cells(lines: Lines, first: str, separator: str, expected: int) -> list[str] | str:
    """The cells of a row with quotes, which may take several lines; or why it is invalid."""
    taken = [first]

    def rest() -> Iterator[str]:
        yield first + "\n"
        for line in lines:
            taken.append(line)
            yield line + "\n"

    spaces = separator != "\t"  # before a quote, as people write them after commas
    rows = csv.reader(rest(), delimiter=separator, strict=True, skipinitialspace=spaces)
    try:
        cells = next(rows)
        fits = len(cells) == expected and not (
            len(taken) > 1 and _are_rows(taken, separator, expected)
        )
        if fits or (len(taken) == 1 and separator != "\t"):
            return cells
    except csv.Error:  # not closed, too long, or closed in the middle of a cell
        pass
    lines.give_back(taken[1:])
    if separator == "\t":  # most writers of TSV quote nothing: a quote is a character
        literal = [_unquoted(cell) for cell in first.split("\t")]
        if len(literal) == expected:
            return literal
    try:
        rows = csv.reader([first + "\n", "\n"], delimiter=separator, skipinitialspace=spaces)
        cells = next(rows)
    except csv.Error:
        return "too-long"
    return cells if rows.line_num == 1 else "open-quote"


def _are_rows(lines: Sequence[str], separator: str, expected: int) -> bool:
    """Whether the lines of one quoted cell look like rows: cells as many as the header has, and a
    molecule in the same column of each (or, without molecules, lines enough to exclude chance)."""
    table = [line.split(separator) for line in lines[:LOOKED_AT]]
    if any(len(cells) != expected for cells in table):
        return False
    columns = list(zip(*table, strict=True))
    with_molecules = [column for column in columns if is_molecule(column[0])]
    if with_molecules:
        return any(all(map(is_molecule, column)) for column in with_molecules)
    return expected > 2 and len(lines) > 3


def _unquoted(cell: str) -> str:
    """A cell without the quotes that spreadsheets add around it; other quotes are text."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1]
    return cell if '"' in inner.replace('""', "") else inner.replace('""', '"')
