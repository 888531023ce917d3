"""A table of texts and molecules, read row by row: CSV, TSV, Parquet or SDF, gzipped or not.

In: a file of the user's (or a public set's). Out: Pairs, and a `Report` that accounts for every
row: kept, left out on request, or refused for a reason. Reading never holds more than one row
(CSV, TSV, SDF) or one batch of rows (Parquet); a row that breaks is refused, not the file.
"""

from __future__ import annotations

import array
import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from tmr_jax.data.files import write_text
from tmr_jax.types import Pair, UserError, did_you_mean

if TYPE_CHECKING:
    from tmr_jax.config import TableConfig

MAX_CELL = 131_072  # characters; csv's own limit, kept so that no global setting changes
MAX_LINE = 4 << 20  # characters held of one line; the rest is skipped and the row refused
EXPANSION = 100  # a gzip file may not grow by more ...
EXPANSION_FLOOR = 64 << 20  # ... once it has given this many bytes ...
EXPANSION_LIMIT = 64 << 30  # ... and never beyond this many
MAX_ROW_GROUP = 4 << 30  # bytes of one Parquet row group, uncompressed
EXAMPLES = 5  # refused rows shown per reason
GZIP_MAGIC = b"\x1f\x8b"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


class Refusal(NamedTuple):
    """One row that was not taken, and why."""

    row: int  # counted from 1 after the header
    reason: str
    value: str  # what was found, shortened


@dataclass
class Report:
    """The account of one reading: rows = kept + dropped + all refused."""

    source: str
    rows: int = 0
    kept: int = 0
    dropped: int = 0  # left out because the caller asked for it
    refused: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    examples: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, row: int, reason: str, value: str) -> None:
        seen = self.refused.get(reason, 0)
        self.refused[reason] = seen + 1
        if seen < EXAMPLES:
            self.examples.append(Refusal(row, reason, value[:80]))

    def keep(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self.kept += 1
            self.splits[pair.split] = self.splits.get(pair.split, 0) + 1


class Cells(NamedTuple):
    """The asked-for cells of one row, or the reason why the row cannot be read."""

    row: int
    values: tuple[str, ...]
    refused: str = ""
    found: str = ""


def load(config: TableConfig, seed: int) -> tuple[list[Pair], Report]:
    """All pairs of a user's table with their splits, and the account of its rows.

    Raises ValueError where the file is missing, its columns are not as configured, or no row is
    left.
    """
    report = Report(source=config.path)
    pairs = list(stream(config, seed, report))
    if not pairs:
        raise UserError(
            f"expected at least one usable row in {config.path}; got none of {report.rows:,} "
            f"(refused: {report.refused}, left out by the filter: {report.dropped:,}); "
            "look at the examples: "
            + "; ".join(f"row {e.row}: {e.reason}" for e in report.examples)
        )
    if config.split == "scaffold":
        from tmr_jax.data.splits import scaffold_splits

        names = scaffold_splits([p.smiles for p in pairs], config.fractions, seed)
        pairs = [p._replace(split=s) for p, s in zip(pairs, names, strict=True)]
        report.splits = {}
        report.kept = 0
        report.keep(pairs)
    _note_shared_molecules(pairs, report)
    return pairs, report


def stream(config: TableConfig, seed: int, report: Report) -> Iterator[Pair]:
    """Pairs of a table one by one, in file order, bounded in memory; fills `report` on the way.

    A pair's split under `split="scaffold"` is "train" here: that split needs all the molecules.
    """
    if config.split == "column" and not config.split_column:
        raise UserError(
            "expected the name of the column that holds train/validation/test; got none; "
            "set --data.table.split-column, or --data.table.split random"
        )
    from tmr_jax.data.splits import check_fractions, random_split

    fractions = check_fractions(config.fractions)
    columns = {"text": config.text, "smiles": config.smiles}
    columns |= {"id": config.id} if config.id else {}
    columns |= {"split": config.split_column} if config.split == "column" else {}
    columns |= {"drop": config.drop_column} if config.drop_column else {}
    drop = set(config.drop_values)
    seen = HashSet()
    for cells in read(config.path, list(columns.values())):
        report.rows += 1
        if cells.refused:
            report.refuse(cells.row, cells.refused, cells.found)
            continue
        row = dict(zip(columns, cells.values, strict=True))
        if drop and drop & flags(row["drop"]):
            report.dropped += 1
            continue
        split = SPLITS.get(row["split"].strip().lower(), "") if "split" in row else "train"
        name = row["id"].strip() if config.id else str(cells.row)
        reason, value = _reason(row, split, name, seen)
        if reason:
            report.refuse(cells.row, reason, value)
            continue
        if config.split == "random":
            split = random_split(name, fractions, seed)
        pair = Pair(name, row["text"].strip(), row["smiles"].strip(), split)
        report.keep([pair])
        yield pair


def _reason(row: dict[str, str], split: str, name: str, seen: HashSet) -> tuple[str, str]:
    """Why a readable row is refused, and what was found; two empty strings where it is not."""
    from tmr_jax.data.features.graph import BadMolecule, parse_smiles

    if not row["text"].strip():
        return "empty-text", ""
    if not split:
        return "unknown-split", row["split"]
    if not name:
        return "empty-id", ""
    try:
        parse_smiles(row["smiles"].strip())
    except BadMolecule as error:
        return error.reason, row["smiles"]
    if "id" in row and not seen.add(name):
        return "duplicate-id", name
    return "", ""


def flags(cell: str) -> set[str]:
    """The marks in a cell: 'cv,mt' holds cv and mt; the whole cell counts as one mark too."""
    return {cell.strip(), *re.split(r"[,;|\s]+", cell.strip())}


def read(path: str | Path, columns: Sequence[str]) -> Iterator[Cells]:
    """The named columns of a table row by row; the suffix says the format.

    `columns` are looked up in the header (CSV, TSV), the schema (Parquet) or the property names
    (SDF, where "SMILES" is written from the structure unless a property has the name).
    Raises ValueError for a file that is missing, is of an unknown kind, has no such columns, or
    unpacks to more than a gzip file may.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"expected a table file at '{path}'; got {'a folder' if path.is_dir() else 'nothing'}; "
            "set --data.table.path to a .csv, .tsv, .parquet or .sdf file (or one of them .gz)"
        )
    kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    reader = READERS.get(kind)
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
    return _split_header(first, "\t" if _is_tsv(Path(path)) else ",")


def open_binary(path: Path) -> BinaryIO:
    """The uncompressed content of a file; a gzip file is unpacked under the expansion caps."""
    raw = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    magic = raw.read(2)
    raw.seek(0)
    if magic != GZIP_MAGIC:
        return raw
    return io.BufferedReader(_Unpacked(raw, path), 1 << 16)  # type: ignore[return-value]


class _Unpacked(io.RawIOBase):
    """gzip content that stops with ValueError where it expands beyond the caps."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        self._raw, self._path, self._out = raw, path, 0
        self._packed = os.fstat(raw.fileno()).st_size
        self._gzip = gzip.GzipFile(fileobj=raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._gzip.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"expected a whole gzip file at {self._path}; got a damaged one ({error}); "
                "copy or download it again"
            ) from error
        self._out += len(chunk)
        grown = self._out > max(EXPANSION_FLOOR, EXPANSION * self._packed)
        if grown or self._out > EXPANSION_LIMIT:
            raise UserError(
                f"expected {self._path} ({self._packed:,} bytes) to unpack to at most "
                f"{EXPANSION} times its size; got more than {self._out:,} bytes; "
                "if it is meant to be so, unpack it yourself and give the plain file"
            )
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._gzip.close()
        self._raw.close()
        super().close()


def _as_text(raw: BinaryIO, path: str | Path) -> io.TextIOWrapper:
    start = raw.peek(4)[:4] if hasattr(raw, "peek") else b""  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"expected {path} in UTF-8; got UTF-16; save it as UTF-8 (CSV UTF-8)")
    # bytes that are not UTF-8 become lone surrogates, so that only their row is refused
    return io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="\n")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            while (rest := text.readline(MAX_LINE)) and not rest.endswith("\n"):
                pass
            line = "x" * (MAX_CELL + 1) + "\n"  # refused below as too long, whatever it held
        yield line


def _is_tsv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".tsv", ".txt"))


def _split_header(line: str, separator: str) -> list[str]:
    if not line.strip():
        return []
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _read_csv(path: Path, columns: list[str]) -> Iterator[Cells]:
    with open_binary(path) as raw, _as_text(raw, path) as text:
        lines = _lines(text)
        names = _split_header(next(lines, ""), ",")
        places = _places(names, columns, path)
        rows, number = csv.reader(lines), 0
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:  # a cell beyond csv's limit; the next line starts afresh
                number += 1
                yield Cells(number, (), "too-long", str(error))
                continue
            if cells:
                number += 1
                yield _pick(number, cells, places, len(names))


def _read_tsv(path: Path, columns: list[str]) -> Iterator[Cells]:
    with open_binary(path) as raw, _as_text(raw, path) as text:
        lines = _lines(text)
        names = _split_header(next(lines, ""), "\t")
        places = _places(names, columns, path)
        number = 0
        for line in lines:
            line = line.rstrip("\r\n")
            if line:
                number += 1
                cells = [_unquoted(cell) for cell in line.split("\t")]
                yield _pick(number, cells, places, len(names))


def _unquoted(cell: str) -> str:
    """A cell without the quotes that spreadsheets put round it; other quotes belong to the text."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1]
    return cell if '"' in inner.replace('""', "") else inner.replace('""', '"')


def _pick(number: int, cells: list[str], places: list[int], expected: int) -> Cells:
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
    """Where the columns stand in the header; ValueError where one does not."""
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
        except pa.ArrowInvalid as error:
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
        number = 0
        for batch in _batches(path, table, list(dict.fromkeys(columns))):
            for row in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
                number += 1
                cells = ["" if value is None else str(value) for value in row]
                yield _pick(number, cells, list(range(len(cells))), len(cells))


def _batches(path: Path, table: Any, columns: list[str]) -> Iterator[Any]:
    """Record batches of a `pyarrow.parquet.ParquetFile`."""
    import pyarrow as pa

    try:
        yield from table.iter_batches(batch_size=1024, columns=columns)
    except pa.ArrowInvalid as error:
        raise UserError(f"expected whole pages in {path}; got {error}; write it again") from error


def _seekable(path: Path) -> BinaryIO:
    """The file itself, or an unpacked temporary copy that vanishes on closing."""
    if path.name.lower().endswith(".gz"):
        copy = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
        with open_binary(path) as packed:
            shutil.copyfileobj(packed, copy, 1 << 20)
        copy.seek(0)
        return copy  # type: ignore[return-value]
    return open(path, "rb")


def _read_sdf(path: Path, columns: list[str]) -> Iterator[Cells]:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    known: set[str] = set()
    number = 0
    with open_binary(path) as raw, BlockLogs():
        for mol in Chem.ForwardSDMolSupplier(raw):
            number += 1
            if mol is None:
                yield Cells(number, (), "unparsable", "no molecule in this record")
                continue
            known.update(mol.GetPropNames())
            cells = [_property(mol, column) for column in columns]
            yield _pick(number, cells, list(range(len(cells))), len(cells))
    if number:
        _places(sorted(known | {"SMILES"}), columns, path)


def _property(mol: Any, name: str) -> str:
    from rdkit import Chem

    if mol.HasProp(name):
        return mol.GetProp(name)
    return Chem.MolToSmiles(mol) if name == "SMILES" else ""


READERS: dict[str, Callable[[Path, list[str]], Iterator[Cells]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "txt": _read_tsv,
    "parquet": _read_parquet,
    "sdf": _read_sdf,
}


class HashSet:
    """Which strings were seen, in 11 to 22 bytes for each: 64-bit hashes, open addressing.

    Two of 10 million different ids share a 64-bit hash with probability 3e-6.
    """

    def __init__(self) -> None:
        self._slots = array.array("Q", [0]) * 1024
        self._used = 0

    def add(self, word: str) -> bool:
        """True where the word is new."""
        key = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        new = self._put(int.from_bytes(key, "little") or 1)
        if new and 4 * self._used > 3 * len(self._slots):
            self._grow()
        return new

    def _put(self, key: int) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        place = key & mask
        while slots[place]:
            if slots[place] == key:
                return False
            place = (place + 1) & mask
        slots[place] = key
        self._used += 1
        return True

    def _grow(self) -> None:
        old, self._used = self._slots, 0
        self._slots = array.array("Q", [0]) * (2 * len(old))
        for key in old:
            if key:
                self._put(key)


def _note_shared_molecules(pairs: list[Pair], report: Report) -> None:
    """A molecule in training and in test inflates a score: say so, in numbers."""
    trained = {p.smiles for p in pairs if p.split == "train"}
    for split in ("validation", "test"):
        shared = sum(p.smiles in trained for p in pairs if p.split == split)
        if shared:
            report.notes.append(
                f"{shared:,} {split} rows have a SMILES that is in training too; "
                "--data.table.split scaffold keeps them apart"
            )


def show_report(report: Report) -> None:
    """Prints the account of a reading."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    grid = Table(title=f"rows of {escape(report.source)}", title_justify="left")
    for column, justify in (("what", "left"), ("rows", "right"), ("first ones", "left")):
        grid.add_column(column, justify=justify)  # type: ignore[arg-type]
    splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    grid.add_row("in", f"{report.rows:,}", "")
    grid.add_row("kept", f"{report.kept:,}", splits)
    if report.dropped:
        grid.add_row("left out by the filter", f"{report.dropped:,}", "")
    for reason, count in sorted(report.refused.items()):
        first = [e for e in report.examples if e.reason == reason][:3]
        shown = "; ".join(f"row {e.row}: {e.value}".rstrip(": ") for e in first)
        grid.add_row(f"refused: {reason}", f"{count:,}", escape(shown))
    console.print(grid)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def save_report(report: Report, path: str | Path) -> None:
    """Writes the account of a reading as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(report)
    content["examples"] = [example._asdict() for example in report.examples]
    write_text(path, json.dumps(content, indent=2) + "\n")
