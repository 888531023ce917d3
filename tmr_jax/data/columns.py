"""A file's own columns: their names, whether they hold numbers, dates or texts, and their values.

In: a table, and which of its columns are read for something else. Out: every other one, as
`Column`. All values of a column decide what it holds, so this reads the file once. A column that is
not kept says why.
"""

# The readers are imported inside the functions: a search of an index reads no file.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tmr_jax.data.files import beginning, is_utf8, open_lines

NUMBER, DATE, TEXT = "number", "date", "text"
MOST = 200  # columns
LONGEST, LONGEST_NAME = 32_767, 100  # characters of a value, as spreadsheets hold, and of a name
AT_ONCE = 4096  # rows
COUNTED = 10_000  # names of fields beyond MOST

# Without a leading zero, which an identifier has, and with no more digits than a float64 keeps.
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d{0,14})(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2})?", re.A)
# Spreadsheets and pandas write the time of midnight after it.
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?)?", re.A)


class Column(NamedTuple):
    """One column of a file."""

    name: str  # as filters, tables and exports call it
    kind: str  # NUMBER, DATE or TEXT; "" where it is not kept
    source: str  # its name in the file
    why: str = ""  # it is not kept, or is text although its first values are numbers or dates

    def values(self, cells: Iterable[str]) -> list[float | str | None]:
        """Numbers, or texts, of cells of the file; a date as 2024-01-31, None for an empty cell."""
        filled = (cell.strip() for cell in cells)
        if self.kind == NUMBER:
            return [float(cell) if cell else None for cell in filled]
        return [(cell[:10] if self.kind == DATE else cell) or None for cell in filled]


def kept(columns: Iterable[Sequence[str]]) -> dict[str, str]:
    """Names and kinds of the columns that are kept."""
    return {name: kind for name, kind, *_ in columns if kind}


def as_number(text: str) -> float | None:
    """The number that a text is, in digits with a point; None for any other text."""
    return float(text) if _NUMBER.fullmatch(text) else None


def as_date(text: str) -> str | None:
    """The date that a text is, as 2024-01-31; None for any other text."""
    found = _DATE.fullmatch(text)
    try:
        return date.fromisoformat(found[1]).isoformat() if found else None
    except ValueError:  # such as the 30th of February
        return None


IS = {NUMBER: _NUMBER.fullmatch, DATE: as_date}


def read_columns(
    path: Path, used: Sequence[str], is_taken: Callable[[str], bool] = lambda name: False
) -> list[Column]:
    """The columns of a table but those `used` for something else, in the order of the file.

    One whose name is taken is called file.NAME. At most `MOST` are kept, and of these none with a
    value of more than `LONGEST` characters, or without a name of its own.
    """
    from tmr_jax.data import readers

    is_sdf = readers.kind_of(path) == "sdf"
    tallies: dict[str, _Tally] = {}
    further: set[str] = set()
    if not is_sdf:
        names = [name for name in readers.names_of_table(path, used) if name not in used]
        tallies = {name: _Tally(name, names.count(name)) for name in dict.fromkeys(names[:MOST])}
        further = {*names} - {*tallies}
        for name in set(readers.nested_columns(path)) & {*tallies}:
            tallies[name].left_out = "it holds lists"
    place = "row" if readers.kind_of(path) == "parquet" else "line"
    for lines, columns in _of_sdf(path, used) if is_sdf else _of_table(path, tallies.values()):
        for name, cells in columns.items():
            if name not in tallies and len(tallies) < MOST:
                tallies[name] = _Tally(name)
            if name in tallies:
                tallies[name].add(cells, lines, place)
            elif len(further) < COUNTED:
                further.add(name)
    found: list[Column] = []
    for tally in tallies.values():
        column = tally.column(is_taken)
        if column.name in kept(found):
            column = column._replace(kind="", why=f"another column is called {column.name!r}, too")
        found.append(column)
    if further:
        shown = f"{min(further)!r} and {len(further) - 1:,} others"
        found.append(Column(shown, "", "", f"a file has more than {MOST} columns of its own"))
    return found


Part = tuple[list[int], dict[str, list[str]]]  # lines of some rows, and their cells by column


def _of_table(path: Path, tallies: Iterable[_Tally]) -> Iterator[Part]:
    from tmr_jax.data import readers

    names = [tally.source for tally in tallies if not tally.left_out]
    rows = readers.read_table(path, [], readers.LIBRARY, names) if names else iter(())
    while part := [*islice(rows, AT_ONCE)]:
        whole = [row for row in part if not row.refused]
        cells = zip(*(row.own for row in whole), strict=True)
        yield [row.line for row in whole], dict(zip(names, map(list, cells), strict=False))


def _of_sdf(path: Path, used: Sequence[str]) -> Iterator[Part]:
    """The fields, whose names only the whole file tells."""
    from tmr_jax.data import readers
    from tmr_jax.data.sdf import read_records

    special = (readers.STRUCTURE, readers.TITLE)
    fields = {name[1:-1] if name.startswith("<") else name for name in used if name not in special}
    with open_lines(path) as lines:
        records = read_records(lines, with_molecules=False)
        while part := [*islice(records, AT_ONCE)]:
            names = dict.fromkeys(name for r in part for name in r.fields if name not in fields)
            columns = {name: [r.fields.get(name, "") for r in part] for name in names}
            yield [record.line for record in part], columns


class _Tally:
    """What the values of a column have been so far."""

    def __init__(self, source: str, count: int = 1) -> None:
        self.source, self.left_out, self._why = source, "", ""
        self._name = " ".join("".join(c if c.isprintable() else " " for c in source).split())
        self._kinds, self._is_empty = [NUMBER, DATE], True
        if not self._name:
            self.left_out = "it has no name"
        elif count > 1:
            self.left_out = f"{count} columns have this name"
        elif len(self._name) > LONGEST_NAME or not is_utf8(source):
            self.left_out = f"its name is not UTF-8 of at most {LONGEST_NAME} characters"

    def add(self, cells: Sequence[str], lines: Sequence[int], place: str) -> None:
        if self.left_out:
            return
        filled = [(c, at) for cell, at in zip(cells, lines, strict=True) if (c := cell.strip())]
        if not filled:
            return
        if not is_utf8("".join(cells)):
            at = next(at for cell, at in filled if not is_utf8(cell))
            self.left_out = f"{place} {at} is not in UTF-8"
            return
        longest, at = max(filled, key=lambda one: len(one[0]))
        if len(longest) > LONGEST:
            self.left_out = f"{place} {at} has more than {LONGEST:,} characters"
            return
        for kind in tuple(self._kinds):
            other = next(((c, at) for c, at in filled if not IS[kind](c)), None)
            if other is None:
                continue
            self._kinds.remove(kind)
            if not self._is_empty or other != filled[0]:
                cell, line = other
                self._why = f"{beginning(cell)!r} in {place} {line} is not a {kind}"
        self._is_empty = False

    def column(self, is_taken: Callable[[str], bool]) -> Column:
        name = f"file.{self._name}" if is_taken(self._name) else self._name
        if self.left_out:
            return Column(self._name, "", self.source, self.left_out)
        kind = TEXT if self._is_empty else (*self._kinds, TEXT)[0]
        return Column(name, kind, self.source, self._why if kind == TEXT else "")
