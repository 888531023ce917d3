"""Readers of tables, lists of molecules and corpora of texts, plain or gzipped.

A table is a CSV, TSV, Parquet or SDF file; a list of molecules is a .smi file or a .txt of SMILES;
a corpus is a .txt with one text on each line. Rows come one by one: memory holds one row (one batch
of rows of Parquet), and an invalid row is returned with a reason instead of stopping the file.
"""

from __future__ import annotations

import atexit
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tmr_jax.data.features.graph import is_molecule
from tmr_jax.data.features.text import clean_text
from tmr_jax.data.files import beginning, is_utf8, open_binary, open_lines, plain_name
from tmr_jax.types import UserError, did_you_mean

VERSION = 3  # raise it whenever the rows of any file change: an index of older rows is another one
MAX_TEXT = 65_536  # bytes of a line of a list or corpus; no valid SMILES comes near
FIRST = 20  # rows that decide what a file or a column holds
MAX_ROW_GROUP = 4 << 30  # bytes of one Parquet row group, uncompressed
LISTS = ("smi", "smiles", "ism", "cxsmiles", "cxsmi")
KINDS = ".csv, .tsv, .txt, .parquet or .sdf file (or one of them .gz)"
# What people call the column of SMILES, in lower case and without what is between letters.
SMILES_NAMES = {
    *("smiles", "canonicalsmiles", "isomericsmiles", "cansmiles", "isosmiles", "smilesstring"),
    *("compoundsmiles", "structuresmiles", "cxsmiles", "smi", "structure", "molecule", "mol"),
}


class Terms(NamedTuple):
    """What the program that runs calls the file and its columns, for messages."""

    file: str
    columns: str


LIBRARY = Terms("--library", "--smiles-column, --name-column or --text-column")
TRAINING = Terms("--data.table.path", "--data.table.text, .smiles, .id, ...")


def kind_of(path: Path) -> str:
    """The last part of a file's name, but .gz: csv, tsv, ..."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    return "sdf" if kind in ("sd", "mol") else kind


class Cells(NamedTuple):
    """The requested cells of one row, or the reason why the row is invalid."""

    row: int  # counted from 1 after the header
    values: tuple[str, ...]
    refused: str = ""  # a short reason code
    value: str = ""  # the beginning of an invalid row
    line: int = 0  # of the file, where the row begins; of Parquet the row
    own: tuple[str, ...] = ()  # cells of further columns, whatever they hold


def or_standard_input(path: Path) -> Path:
    """The path itself or, for -, that of what standard input holds, in a file of its kind."""
    if str(path) != "-":
        return path
    folder = Path(tempfile.mkdtemp(prefix="tmr_jax-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    content = folder / "standard-input"
    with open(content, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with open_binary(content) as raw:
        start = raw.read(1 << 16)
    return content.rename(content.with_suffix(_suffix_of(start)))


def _suffix_of(start: bytes) -> str:
    """The suffix of a file that starts so: of a table its header has a column of SMILES."""
    if start.startswith(b"PAR1"):
        return ".parquet"
    if b"M  END" in start:
        return ".sdf"
    line = "".join(start.decode("utf-8-sig", "replace").splitlines()[:1])
    names = [line.split(separator) for separator in ",;\t|"]
    is_table = any(len(n) > 1 and SMILES_NAMES & {*map(plain_name, n)} for n in names)
    return ".csv" if is_table or line.lower().startswith("sep=") else ".smi"


# Tables


def read_table(
    path: str | Path, columns: Sequence[str], terms: Terms = TRAINING, own: Sequence[str] = ()
) -> Iterator[Cells]:
    """The named columns of a table row by row; the file's suffix decides the format.

    `columns` are names in the header (CSV, TSV), the schema (Parquet) or the data fields (SDF,
    where "SMILES" is the structure, "<SMILES>" a field of that name and "_Name" the title). Cells
    of the columns `own` (of an SDF fields) are read, too, and make no row invalid. Raises
    UserError, in `terms`, for a file that is missing, is of an unknown kind, lacks a column, or is
    a gzip bomb.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"expected a table file at '{path}'; got {'a folder' if path.is_dir() else 'nothing'}; "
            f"set {terms.file} to a {KINDS}"
        )
    reader = READERS.get(kind_of(path))
    if reader is None:
        raise UserError(f"expected a {KINDS}; got {path.name}; rename or convert it")
    return reader(path, list(columns), terms, list(own))


def header(path: str | Path, wanted: Sequence[str] = ()) -> list[str]:
    """Column names of a CSV or TSV file, which has the columns `wanted`."""
    from tmr_jax.data.delimited import read_header

    with open_lines(Path(path)) as lines:
        return read_header(lines, kind_of(Path(path)), wanted)[0]


def _read_text(
    path: Path, columns: list[str], terms: Terms, own: Sequence[str] = ()
) -> Iterator[Cells]:
    """Rows of a CSV or TSV file."""
    from tmr_jax.data.delimited import read_header, split_rows

    with open_lines(path) as lines:
        names, separator = read_header(lines, kind_of(path), [*columns, *own])
        places = _places(names, columns, path, terms)
        further = _places(names, own, path, terms)
        for number, row in enumerate(split_rows(lines, separator, len(names)), 1):
            if row.refused:
                yield Cells(number, (), row.refused, row.value, row.line)
            else:
                values = tuple(row.cells[place] for place in places)
                others = tuple(row.cells[place] for place in further)
                yield _checked(Cells(number, values, line=row.line, own=others))


def _checked(cells: Cells) -> Cells:
    if (wrong := next((v for v in cells.values if not is_utf8(v)), None)) is None:
        return cells
    return cells._replace(values=(), refused="not-utf-8", value=beginning(wrong))


def _places(names: list[str], columns: Sequence[str], path: Path, terms: Terms) -> list[int]:
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
            f"expected a column {column!r} in the header of {path}; got {shown}; {hint} "
            f"(set {terms.columns} to your names; a file without a header line needs one)"
        )
    return [names.index(column) for column in columns]


def _read_parquet(
    path: Path, columns: list[str], terms: Terms, own: Sequence[str] = ()
) -> Iterator[Cells]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"expected a Parquet file at {path}; got {error}; write it again"
            ) from error
        _places(table.schema_arrow.names, [*columns, *own], path, terms)
        groups = range(table.num_row_groups)
        largest = max((table.metadata.row_group(g).total_byte_size for g in groups), default=0)
        if largest > MAX_ROW_GROUP:
            raise UserError(
                f"expected row groups of at most {MAX_ROW_GROUP:,} bytes in {path}; "
                f"got {largest:,}; write it again with smaller row groups"
            )
        asked = len(columns)
        for number, row in enumerate(_parquet_rows(path, table, [*columns, *own]), 1):
            cells = tuple(map(_cell, row))
            yield _checked(Cells(number, cells[:asked], line=number, own=cells[asked:]))


def _cell(value: Any) -> str:
    """A value of a Parquet file as text; bytes are UTF-8, and NaN is how pandas writes no value."""
    if value is None or value != value:
        return ""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


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


# The column of an SDF that is written from the structure, and RDKit's name of the title.
STRUCTURE, TITLE = "SMILES", "_Name"


def _read_sdf(
    path: Path, columns: list[str], terms: Terms, own: Sequence[str] = ()
) -> Iterator[Cells]:
    from tmr_jax.data.sdf import read_records

    known, number = {STRUCTURE, TITLE}, 0
    with open_lines(path) as lines:
        for number, record in enumerate(read_records(lines), 1):
            known.update(record.fields)
            if record.refused and STRUCTURE in columns:
                yield Cells(number, (), record.refused, record.beginning, record.line)
                continue
            found = {f"<{name}>": value for name, value in record.fields.items()}
            found |= record.fields | {STRUCTURE: record.smiles, TITLE: record.title}
            values = tuple(found.get(column, "") for column in columns)
            others = tuple(record.fields.get(name, "") for name in own)
            yield _checked(Cells(number, values, line=record.line, own=others))
    if number:
        _places(sorted(known), [column.strip("<>") for column in columns], path, terms)


Reader = Callable[[Path, list[str], Terms, Sequence[str]], Iterator[Cells]]
READERS: dict[str, Reader] = dict.fromkeys(("csv", "tsv", "txt"), _read_text)
READERS |= {"parquet": _read_parquet, "sdf": _read_sdf}


# Lists of molecules


class Row(NamedTuple):
    """One row of a list or corpus: a molecule or a text, or the reason why it is invalid."""

    content: str  # a SMILES or a text; of an invalid row its beginning
    name: str
    refused: str = ""  # a short reason code
    line: int = 0  # of the file, where the row begins; of Parquet the row
    own: tuple[str, ...] = ()  # cells of further columns


def read_rows(
    path: Path, smiles_column: str = "", name_column: str = "", own: Sequence[str] = ()
) -> Iterator[Row]:
    """The molecules of a .smi, .txt, CSV, TSV, Parquet or SDF file, in file order.

    A line of a .smi file is a SMILES and, after a space or tab, a name; so is a line of a .txt file
    most of whose first lines begin with a molecule. Every other file is a table. Without
    `smiles_column` a table's is the one called SMILES, or the only one with another usual name, or
    the only one that holds SMILES; of an SDF it is the structure. Without `name_column` the names
    are the titles of an SDF, the second column of a .smi, or where the row is in the file. Cells
    of the columns `own` of a table are read, too. Raises UserError where the file or a column is
    missing.
    """
    if not path.is_file():
        raise UserError(
            f"expected a file of molecules at '{path}'; got "
            f"{'a folder' if path.is_dir() else 'nothing'}; give {LIBRARY.file} a .smi file or a "
            f"{KINDS}"
        )
    if kind_of(path) in LISTS:
        yield from _listed(path, None, smiles_column, name_column)
    elif columns := molecule_columns(path, smiles_column, name_column):
        yield from rows_of_table(path, *columns, own)
    else:
        yield from _listed(path)


def molecule_columns(
    path: Path, smiles_column: str = "", name_column: str = ""
) -> tuple[str, str] | None:
    """The columns of the SMILES and of the names ("": none) of a table; None for a list."""
    if kind_of(path) in LISTS or (not smiles_column and is_bare_list(path)):
        return None
    if kind_of(path) == "sdf":
        # The structure counts, and a field of that name where it is asked for.
        column = f"<{STRUCTURE}>" if smiles_column == STRUCTURE else smiles_column or STRUCTURE
        return column, name_column or TITLE
    return smiles_column or _smiles_column(path), name_column


def holds_molecules(path: Path) -> bool:
    """Whether `read_rows` knows the kind of a file by its name alone."""
    return kind_of(path) != "txt" and kind_of(path) in (*LISTS, *READERS)


def rows_of_table(
    path: Path, column: str, name_column: str = "", own: Sequence[str] = ()
) -> Iterator[Row]:
    """Rows of a table: contents from one column, names from another or their place."""
    place = "row" if kind_of(path) == "parquet" else "line"
    for cells in read_table(path, [column, *filter(None, [name_column])], LIBRARY, own):
        name = cells.values[1].strip() if len(cells.values) > 1 else ""
        content = cells.values[0] if cells.values else cells.value
        yield Row(content, name or f"{place} {cells.line}", cells.refused, cells.line, cells.own)


def is_bare_list(path: Path) -> bool:
    """Whether a file is a .txt most of whose first lines begin with a molecule.

    Most, since a word such as NO is a valid SMILES. A file with a column SMILES is a table.
    """
    if not _is_text_file(path) or _named_smiles(_first_columns(path)):
        return False
    rows = [row for row in _listed(path, FIRST) if row.refused != "too-long"]
    return 2 * sum(not row.refused and is_molecule(row.content) for row in rows) > len(rows)


def _is_text_file(path: Path) -> bool:
    return kind_of(path) == "txt" and path.is_file()


def _first_columns(path: Path) -> list[str]:
    """The first line of a .txt, divided at tabs; nothing where it is longer than `MAX_TEXT`."""
    first = next(_lines_of(path), None)
    return header(path) if first and first.refused != "too-long" else []


def _smiles_column(path: Path) -> str:
    """The column of the SMILES: by its name, else by a usual name or by what the first rows hold.

    UserError where several columns hold SMILES.
    """
    kind = kind_of(path)
    if READERS.get(kind) not in (_read_text, _read_parquet):
        return STRUCTURE  # of a file that `read_table` refuses
    names = names_of_table(path, ())
    if called := _named_smiles(names):
        return called
    usual = [name for name in names if plain_name(name) in SMILES_NAMES]
    for columns in (usual, names):
        found = _with_molecules(path, [name for name in columns if names.count(name) == 1])
        if len(found) > 1:
            raise UserError(
                f"expected one column of SMILES in {path}; got {', '.join(map(repr, found))}; "
                "choose one with --smiles-column"
            )
        if found:
            return found[0]
    return usual[0] if len(usual) == 1 else STRUCTURE


def _named_smiles(names: Sequence[str]) -> str:
    """The name that is SMILES, or the first that is so in another case."""
    return (
        STRUCTURE if STRUCTURE in names else next((n for n in names if n.lower() == "smiles"), "")
    )


def _parquet_columns(path: Path) -> list[tuple[str, bool]]:
    """Name of each column, and whether it holds lists or other values of several parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as file:
        try:
            return [(field.name, pa.types.is_nested(field.type)) for field in pq.read_schema(file)]
        except (pa.ArrowException, OSError):
            return []  # `read_table` explains it


def names_of_table(path: Path, wanted: Sequence[str]) -> list[str]:
    """Column names of a CSV, TSV or Parquet file, which has the columns `wanted`."""
    if kind_of(path) == "parquet":
        return [name for name, _ in _parquet_columns(path)]
    return header(path, wanted)


def nested_columns(path: Path) -> list[str]:
    """The columns of a Parquet file that hold lists or other values of several parts."""
    nested = _parquet_columns(path) if kind_of(path) == "parquet" else []
    return [name for name, is_nested in nested if is_nested]


def _with_molecules(path: Path, columns: list[str]) -> list[str]:
    """Those columns of which most cells in the first rows are molecules."""
    rows = islice(read_table(path, columns, LIBRARY), FIRST)
    cells = zip(*(row.values for row in rows if not row.refused), strict=True)
    held = [[cell for cell in column if cell.strip()] for column in cells]
    share = [2 * sum(map(is_molecule, column)) > len(column) for column in held]
    return [name for name, is_most in zip(columns, share, strict=False) if is_most]


def _lines_of(path: Path) -> Iterator[Row]:
    """The lines of a file; of one that is too long, the beginning."""
    with open_lines(path) as lines:
        for line in lines:
            reason = "" if is_utf8(line) else "not-utf-8"
            # Most lines are short enough by their number of characters.
            if len(line) * 4 > MAX_TEXT and len(line.encode("utf-8", "replace")) >= MAX_TEXT:
                reason = "too-long"
            content = beginning(line) if reason else line
            yield Row(content, f"line {lines.number}", reason, lines.number)


def _listed(
    path: Path, lines: int | None = None, smiles_column: str = "", name_column: str = ""
) -> Iterator[Row]:
    """The molecules of the first lines (None: all), without empty lines, comments and a header."""
    rows = islice(_lines_of(path), lines)
    is_first, columns = True, None
    for row in rows:
        if not row.refused and (not row.content.strip() or row.content.lstrip().startswith("#")):
            continue
        if is_first:
            is_first = False
            names, columns = _header_of_list(row.content, smiles_column, name_column)
            if columns is None and (smiles_column or name_column):
                _places(names, [*filter(None, [smiles_column, name_column])], path, LIBRARY)
            if columns is not None:
                continue
        yield row if row.refused else _molecule_of(row, columns)


def _header_of_list(
    line: str, smiles_column: str, name_column: str
) -> tuple[list[str], tuple[int, int] | None]:
    """The names in the first line of a list, and the places of SMILES and name if it is a header.

    The second of several columns is the name, unless it is another one that is asked for.
    """
    names = [name.strip() for name in line.split("\t" if "\t" in line else None)]
    smiles = smiles_column or next((n for n in names if plain_name(n) in SMILES_NAMES), "")
    if not names or is_molecule(names[0]) or smiles not in names:
        return [], None
    place = names.index(smiles)
    if name_column in names:
        return names, (place, names.index(name_column))
    return names, None if name_column else (place, 1 if place == 0 else 0)


def _molecule_of(row: Row, columns: tuple[int, int] | None) -> Row:
    """A line of a list: a SMILES, or a CXSMILES with its extension between bars, then a name."""
    if columns is not None and "\t" in row.content:
        cells = [*map(str.strip, row.content.split("\t")), ""]
        smiles, name = (cells[min(place, len(cells) - 1)] for place in columns)
        return row._replace(content=smiles, name=name or row.name)
    smiles, *rest = row.content.split(maxsplit=1)
    name = rest[0] if rest else ""
    if name.startswith("|") and "|" in name[1:]:
        extension, _, name = name[1:].partition("|")
        smiles = f"{smiles} |{extension}|"
    return row._replace(content=smiles, name=name.strip().split("\t")[0].strip() or row.name)


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
    return len(names) < 2 and not _named_smiles(names)


def read_texts(
    path: Path, text_column: str = "", name_column: str = "", own: Sequence[str] = ()
) -> Iterator[Row]:
    """The lines of a .txt file or, with `text_column`, the texts of a table, in file order.

    The reason of an invalid row is "empty-text" (no visible character), "too-long" or "not-utf-8".
    Raises UserError where the file or the column is missing.
    """
    rows = rows_of_table(path, text_column, name_column, own) if text_column else _lines_of(path)
    for row in rows:
        yield row if row.refused else _checked_text(row._replace(content=row.content.strip()))


def _checked_text(row: Row) -> Row:
    if len(row.content.encode()) >= MAX_TEXT:
        return row._replace(content=beginning(row.content), refused="too-long")
    try:
        clean_text(row.content)
    except UserError:
        return row._replace(refused="empty-text")
    return row
