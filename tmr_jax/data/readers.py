"""Readers of tables, lists of molecules and corpora of texts, plain or gzipped.

A table is a CSV, TSV, Parquet or SDF file; a list of molecules is a .smi file or a .txt of SMILES;
a corpus is a .txt with one text on each line. Rows come one by one: memory holds one row (one batch
of rows of Parquet), and an invalid row is returned with a reason instead of stopping the file.
"""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tmr_jax.data.features.graph import BadMolecule, parse_smiles
from tmr_jax.data.features.text import clean_text
from tmr_jax.data.files import open_binary
from tmr_jax.types import UserError, did_you_mean

MAX_CELL = 131_072  # characters; csv's own limit, kept so that no global setting changes
MAX_ROW = 4 << 20  # characters held of one line of a table; the rest is not read
MAX_LINE = 65_536  # bytes of a line of a list or corpus; no valid SMILES comes near
FIRST = 20  # lines of a .txt that decide whether it is a list of molecules
MAX_ROW_GROUP = 4 << 30  # bytes of one Parquet row group, uncompressed
SMI = (".smi", ".smiles", ".ism")


def _kind(path: Path) -> str:
    """The last part of a file's name, but .gz: csv, tsv, ..."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


class Cells(NamedTuple):
    """The requested cells of one row, or the reason why the row is invalid."""

    row: int  # counted from 1 after the header
    values: tuple[str, ...]
    refused: str = ""  # a short reason code
    value: str = ""  # the invalid content, or where it is wrong


# Tables


def read_table(path: str | Path, columns: Sequence[str]) -> Iterator[Cells]:
    """The named columns of a table row by row; the file's suffix decides the format.

    `columns` are names in the header (CSV, TSV), the schema (Parquet) or the properties (SDF, where
    "SMILES" is written from the structure unless a property has that name). Raises UserError for
    a file that is missing, is of an unknown kind, lacks a column, or is a gzip bomb.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"expected a table file at '{path}'; got {'a folder' if path.is_dir() else 'nothing'}; "
            "set --data.table.path to a .csv, .tsv, .parquet or .sdf file (or one of them .gz)"
        )
    reader = READERS.get(_kind(path))
    if reader is None:
        raise UserError(
            f"expected a .csv, .tsv, .txt, .parquet or .sdf file (or one of them .gz); "
            f"got {path.name}; rename or convert it"
        )
    return reader(path, list(columns))


def header(path: str | Path) -> list[str]:
    """Column names of a CSV or TSV file."""
    with open_binary(Path(path)) as raw, _as_text(raw, path) as text:
        first = next(_lines(text), "")
    return _split_header(first, "," if _kind(Path(path)) == "csv" else "\t")


def _as_text(raw: BinaryIO, path: str | Path) -> io.TextIOWrapper:
    start = raw.peek(4)[:4] if hasattr(raw, "peek") else b""  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"expected {path} in UTF-8; got UTF-16; save it as UTF-8 (CSV UTF-8)")
    # Bytes that are not UTF-8 become lone surrogates, so that only their row is invalid.
    return io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="\n")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_ROW):
        if len(line) == MAX_ROW and not line.endswith("\n"):
            while (rest := text.readline(MAX_ROW)) and not rest.endswith("\n"):
                pass
            line = "x" * (MAX_CELL + 1) + "\n"  # `_pick` returns it as too long
        yield line


def _split_header(line: str, separator: str) -> list[str]:
    if not line.strip():
        return []
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise UserError(f"expected a header of column names; got {error}; correct it") from error


def _read_text(path: Path, columns: list[str]) -> Iterator[Cells]:
    """Rows of a CSV or TSV file."""
    with open_binary(path) as raw, _as_text(raw, path) as text:
        lines, is_csv = _lines(text), _kind(path) == "csv"
        names = _split_header(next(lines, ""), "," if is_csv else "\t")
        places = _places(names, columns, path)
        rows, number = csv.reader(lines) if is_csv else map(_split_tabs, lines), 0
        while True:
            try:
                cells = next(rows, None)
            except csv.Error as error:  # a cell beyond csv's limit; the next line is a new row
                number += 1
                yield Cells(number, (), "too-long", str(error))
                continue
            if cells is None:
                return
            if cells:
                number += 1
                yield _pick(number, cells, places, len(names))


def _split_tabs(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    return [_unquoted(cell) for cell in line.split("\t")] if line else []


def _unquoted(cell: str) -> str:
    """A cell without the quotes that spreadsheets add around it; other quotes are text."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1]
    return cell if '"' in inner.replace('""', "") else inner.replace('""', '"')


def _pick(number: int, cells: list[str], places: Sequence[int], expected: int) -> Cells:
    if any(len(cell) > MAX_CELL for cell in cells):
        return Cells(number, (), "too-long", f"a cell of more than {MAX_CELL:,} characters")
    if len(cells) != expected:
        return Cells(number, (), "ragged", f"{len(cells)} cells, header has {expected}")
    values = tuple(cells[place] for place in places)
    for value in values:
        if not value.isascii() and any("\udc80" <= c <= "\udcff" for c in value):
            return Cells(number, (), "not-utf-8", value.encode("utf-8", "replace").decode())
    return Cells(number, values)


def _places(names: list[str], columns: list[str], path: Path) -> list[int]:
    """Index of each column in the header; UserError where one is missing or ambiguous."""
    for column in columns:
        if names.count(column) == 1:
            continue
        if column in names:
            raise UserError(
                f"expected one column {column!r} in {path}; got {names.count(column)}; "
                "rename the others"
            )
        shown = ", ".join(repr(name[:40]) for name in names[:20]) or "an empty file"
        hint = did_you_mean(column, names, "no name is similar", repr)
        raise UserError(
            f"expected a column {column!r} in the header of {path}; got {shown}; "
            f"{hint} (set --data.table.text, .smiles, .id, ... to your names; "
            "a file without a header line needs one)"
        )
    return [names.index(column) for column in columns]


def _read_parquet(path: Path, columns: list[str]) -> Iterator[Cells]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"expected a Parquet file at {path}; got {error}; write it again"
            ) from error
        _places(table.schema_arrow.names, columns, path)
        groups = range(table.num_row_groups)
        largest = max((table.metadata.row_group(g).total_byte_size for g in groups), default=0)
        if largest > MAX_ROW_GROUP:
            raise UserError(
                f"expected row groups of at most {MAX_ROW_GROUP:,} bytes in {path}; "
                f"got {largest:,}; write it again with smaller row groups"
            )
        for number, row in enumerate(_parquet_rows(path, table, columns), 1):
            cells = ["" if value is None else str(value) for value in row]
            yield _pick(number, cells, range(len(cells)), len(cells))


def _parquet_rows(path: Path, table: Any, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Values of the columns, row by row, of a `pyarrow.parquet.ParquetFile`."""
    import pyarrow as pa

    batches = table.iter_batches(batch_size=1024, columns=list(dict.fromkeys(columns)))
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            rows = list(zip(*(batch.column(c).to_pylist() for c in columns), strict=True))
        except (pa.ArrowException, OSError, OverflowError) as error:
            raise UserError(
                f"expected whole pages and readable values in {path}; got {error}; write it again"
            ) from error
        yield from rows


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """The file itself, or an unpacked temporary copy of it."""
    with open_binary(path) as file:
        if isinstance(file.raw, io.FileIO):  # type: ignore[attr-defined]
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.seek(0)
            yield copy  # type: ignore[misc]


def _read_sdf(path: Path, columns: list[str]) -> Iterator[Cells]:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    known, number = {"SMILES"}, 0
    with open_binary(path) as raw, BlockLogs():
        file = _Unfailing(raw)
        for number, mol in enumerate(Chem.ForwardSDMolSupplier(file), 1):
            if file.error:  # the record may be cut short
                raise file.error
            if mol is None:
                yield Cells(number, (), "unparsable", "invalid record")
                continue
            try:
                known.update(mol.GetPropNames())
                cells = [_property(mol, column) for column in columns]
            except UnicodeDecodeError as error:
                yield Cells(number, (), "not-utf-8", error.object.decode("utf-8", "replace"))
                continue
            yield _pick(number, cells, range(len(cells)), len(cells))
        if file.error:
            raise file.error
    if number:
        _places(sorted(known), columns, path)


class _Unfailing:
    """A file that ends where reading it fails: RDKit cannot pass on an error of what it reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: UserError | OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (UserError, OSError) as error:
            self.error = error
            return b""


def _property(mol: Any, name: str) -> str:
    from rdkit import Chem

    if mol.HasProp(name):
        return mol.GetProp(name)
    return Chem.MolToSmiles(mol) if name == "SMILES" else ""


READERS = {**dict.fromkeys(("csv", "tsv", "txt"), _read_text), "parquet": _read_parquet}
READERS["sdf"] = _read_sdf


# Lists of molecules


class Row(NamedTuple):
    """One row of a list or corpus: a molecule or a text, or the reason why it is invalid."""

    content: str  # a SMILES or a text
    name: str
    refused: str = ""  # a short reason code


def read_rows(path: Path, smiles_column: str = "", name_column: str = "") -> Iterator[Row]:
    """The molecules of a .smi, .txt, CSV, TSV, Parquet or SDF file, in file order.

    A line of a .smi file is a SMILES and, after a space or tab, a name; so is a line of a .txt file
    most of whose first lines begin with a molecule. Every other file is a table: without
    `smiles_column` its column is "SMILES" (in any case in CSV and TSV), and without `name_column`
    the names are row numbers. Raises UserError where the file or a column is missing.
    """
    is_list = path.name.lower().removesuffix(".gz").endswith(SMI)
    if not is_list and (smiles_column or not is_bare_list(path)):
        yield from rows_of_table(path, smiles_column or _smiles_column(path), name_column)
        return
    if not path.is_file():
        raise UserError(
            f"expected a file of molecules at '{path}'; got no such file; give a .smi, .csv, "
            ".tsv, .parquet or .sdf file (or one of them .gz)"
        )
    yield from _listed(path)


def rows_of_table(path: Path, column: str, name_column: str = "") -> Iterator[Row]:
    """Rows of a table: contents from one column, names from another or row numbers."""
    for cells in read_table(path, [column, *([name_column] if name_column else [])]):
        name = cells.values[1] if name_column and cells.values else f"row {cells.row}"
        yield Row(cells.values[0] if cells.values else "", name.strip(), cells.refused)


def is_bare_list(path: Path) -> bool:
    """Whether a file is a .txt most of whose first lines begin with a molecule.

    Most, since a word such as NO is a valid SMILES. A file with a column SMILES is a table.
    """
    if not _is_text_file(path) or _smiles_of(_first_columns(path)):
        return False
    rows = [row for row in _listed(path, FIRST) if row.refused != "too-long"]
    return 2 * sum(map(_is_molecule, rows)) > len(rows)


def _is_text_file(path: Path) -> bool:
    return _kind(path) == "txt" and path.is_file()


def _first_columns(path: Path) -> list[str]:
    """The first line of a .txt, divided at tabs; nothing where it is longer than `MAX_LINE`."""
    first = next(_lines_of(path), None)
    return header(path) if first and first.refused != "too-long" else []


def _smiles_of(names: list[str]) -> str:
    return next((name for name in names if name.lower() == "smiles"), "")


def _smiles_column(path: Path) -> str:
    has_header = path.is_file() and READERS.get(_kind(path)) is _read_text
    return (has_header and _smiles_of(header(path))) or "SMILES"


def _is_molecule(row: Row) -> bool:
    try:
        return not row.refused and bool(parse_smiles(row.content))
    except BadMolecule:
        return False


def _lines_of(path: Path) -> Iterator[Row]:
    """The lines of a file, each with its end; one longer than `MAX_LINE` is not read whole."""
    with open_binary(path) as raw:
        number = 0
        while line := raw.readline(MAX_LINE):
            number += 1
            name, rest = f"row {number}", line
            while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
                rest = raw.readline(MAX_LINE)
            try:
                content, reason = line.decode("utf-8-sig"), ""
            except UnicodeDecodeError:
                content, reason = "", "not-utf-8"
            too_long = len(line) == MAX_LINE and not line.endswith(b"\n")
            yield Row("", name, "too-long") if too_long else Row(content, name, reason)


def _listed(path: Path, lines: int | None = None) -> Iterator[Row]:
    """The molecules of the first lines (None: all), without empty lines, comments and a header."""
    for number, row in enumerate(islice(_lines_of(path), lines), 1):
        smiles, *name = row.content.split(maxsplit=1) or [""]
        is_header = number == 1 and smiles.lower() == "smiles"
        if row.refused:
            yield row
        elif smiles and not smiles.startswith("#") and not is_header:
            yield Row(smiles, name[0].strip() if name else row.name)


# Texts


def holds_texts(
    path: Path, smiles_column: str = "", name_column: str = "", text_column: str = ""
) -> bool:
    """Whether a file is a corpus: `text_column` is given, or it is a .txt of plain texts.

    A .txt whose lines begin with molecules is a list of molecules; one whose first line has a tab
    or is "SMILES" is a table. Raises UserError where columns of both kinds are given.
    """
    if smiles_column and text_column:
        raise UserError(
            f"expected a library of molecules or of texts; got the columns {smiles_column!r} and "
            f"{text_column!r} for both; name one of them"
        )
    if text_column or smiles_column or name_column:
        return bool(text_column)
    if not _is_text_file(path) or is_bare_list(path):
        return False
    names = _first_columns(path)
    return len(names) < 2 and not _smiles_of(names)


def read_texts(path: Path, text_column: str = "", name_column: str = "") -> Iterator[Row]:
    """The lines of a .txt file or, with `text_column`, the texts of a table, in file order.

    The reason of an invalid row is "empty-text" (no visible character), "too-long" or "not-utf-8".
    Raises UserError where the file or the column is missing.
    """
    rows = rows_of_table(path, text_column, name_column) if text_column else _lines_of(path)
    for row in rows:
        yield row if row.refused else _checked_text(row._replace(content=row.content.strip()))


def _checked_text(row: Row) -> Row:
    if len(row.content.encode()) >= MAX_LINE:
        return row._replace(refused="too-long")
    try:
        clean_text(row.content)
    except UserError:
        return row._replace(refused="empty-text")
    return row
