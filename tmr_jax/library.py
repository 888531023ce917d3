"""A library of molecules to search: rows of a file in, embeddings and names out.

Files are read as a stream and encoded chunk by chunk, so memory is bounded by the chunk. What was
computed is kept in the cache folder under a hash of the file's content, the model's parameters and
the featuriser; a second search of the same file opens it in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tmr_jax.assembly import Encoder
from tmr_jax.data import table
from tmr_jax.data.cache import CACHE_FROM, VERSION, cache_folder

CHUNK = 960  # molecules encoded together: whole batches, and few enough to be no file of the cache
assert CHUNK < CACHE_FROM
SMI = (".smi", ".smiles", ".ism")
MAX_LINE = 65_536  # bytes of a .smi line; no SMILES that is accepted comes near
ROWS, ENTRIES, OFFSETS, ACCOUNT = "rows.f32", "entries.jsonl", "offsets.i64", "account.json"


class Row(NamedTuple):
    """One row of a file: a molecule, or the reason why it cannot be read."""

    smiles: str
    name: str
    refused: str = ""


class Account(NamedTuple):
    """What became of the rows of a library: rows = kept + all refused."""

    source: str
    rows: int
    kept: int
    refused: dict[str, int]  # reason -> how many


class Library(NamedTuple):
    """Embedded items; item i has the unit row `rows[i]` and (content, name) `entries[i]`."""

    rows: np.ndarray  # float32 [C, D]
    entries: Sequence[tuple[str, str]]  # a SMILES or a text, and its name
    account: Account
    of_texts: bool = False


# Reading


def read_rows(path: Path, smiles_column: str = "", name_column: str = "") -> Iterator[Row]:
    """Rows of a .smi, CSV, TSV, Parquet or SDF file, gzipped or not, in file order.

    A .smi line is a SMILES and, after a space or tab, its name. In tables the columns are looked
    up by name; without a name for them that is "SMILES" (any case in CSV and TSV), and names are
    row numbers. Raises ValueError where the file is missing or has no such column.
    """
    if path.name.lower().removesuffix(".gz").endswith(SMI):
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


# Building


def open_library(
    path: Path, encoder: Encoder, identity: Sequence[str], smiles_column: str, name_column: str
) -> Library:
    """The library of a file, from the cache folder or computed and left there.

    `identity` names the model: what changes an embedding must change it. Raises ValueError where
    the file cannot be read, holds no molecule, or there is no room for the embeddings.
    """
    if not path.is_file():
        next(read_rows(path, smiles_column, name_column), None)  # says what is wrong
    content = _sha256(path)
    key = json.dumps([VERSION, content, path.suffixes, *identity, smiles_column, name_column])
    place = cache_folder() / f"library-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    library = _kept(place, str(path))
    if library is None:
        rows = read_rows(path, smiles_column, name_column)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".tmp", dir=place.parent))
        except OSError as error:
            raise ValueError(
                f"expected to keep the library's embeddings in {place.parent}; got {error}; "
                "free some space, or set TMR_JAX_CACHE to a folder you may write to"
            ) from error
        library = _build(rows, encoder, part, place, str(path))
    return library


def _build(rows: Iterable[Row], encoder: Encoder, part: Path, place: Path, source: str) -> Library:
    try:
        account = _write(rows, encoder, part, source)
        shutil.rmtree(place, ignore_errors=True)  # of an earlier, damaged one
        os.replace(part, place)
    except OSError as error:
        raise ValueError(
            f"expected to write the library's embeddings to {part}; got {error}; "
            "free some space, or set TMR_JAX_CACHE to a folder with more of it"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    library = _kept(place, source)
    assert library is not None, f"{place} was just written with {account}"
    return library


def _write(rows: Iterable[Row], encoder: Encoder, part: Path, source: str) -> Account:
    """Embeddings and entries of all molecules, chunk by chunk, and the account at last."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total, kept, width, refused = 0, 0, 0, {}
    offsets = [0]
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        open(part / ROWS, "wb") as embeddings,
        open(part / ENTRIES, "wb") as entries,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("encoding the library", total=None)
        stream = iter(rows)
        while chunk := list(islice(stream, CHUNK)):
            sound = [row for row in chunk if not row.refused]
            encoded, places, bad = encoder.molecules([row.smiles for row in sound])
            for reason in [row.refused for row in chunk if row.refused] + [b.reason for b in bad]:
                refused[reason] = refused.get(reason, 0) + 1
            for i in places:
                line = json.dumps([sound[i].smiles.strip(), sound[i].name]).encode() + b"\n"
                offsets.append(offsets[-1] + entries.write(line))
            embeddings.write(np.ascontiguousarray(encoded.rows, np.float32).tobytes())
            total, kept, width = total + len(chunk), kept + len(places), encoded.rows.shape[1]
            bar.update(task, completed=total)
    account = Account(source, total, kept, refused)
    _check_kept(account)
    np.array(offsets, np.int64).tofile(part / OFFSETS)
    (part / ACCOUNT).write_text(json.dumps({**account._asdict(), "width": width}), "utf-8")
    return account


def _check_kept(account: Account) -> None:
    if not account.kept:
        raise ValueError(
            f"expected at least one molecule in {account.source}; got none of {account.rows:,} "
            f"rows (refused: {account.refused}); check which column holds the SMILES"
        )


def library_of(molecules: Sequence[str], encoder: Encoder) -> Library:
    """A library in memory, of SMILES; what is no molecule is counted and left out."""
    encoded, kept, bad = encoder.molecules(molecules)
    refused: dict[str, int] = {}
    for b in bad:
        refused[b.reason] = refused.get(b.reason, 0) + 1
    account = Account("the list given", len(molecules), len(kept), refused)
    _check_kept(account)
    entries = [(str(molecules[i]), f"row {i + 1}") for i in kept]
    return Library(encoded.rows, entries, account)


# Keeping


class _Entries(Sequence):
    """Lines of a file by number; only those asked for are read."""

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        self._path, self._offsets = path, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> tuple[str, str]:  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(i)
        with open(self._path, "rb") as file:
            file.seek(int(self._offsets[i]))
            content, name = json.loads(file.read(int(self._offsets[i + 1] - self._offsets[i])))
        return content, name


def _kept(place: Path, source: str) -> Library | None:
    """The library in a folder of the cache; None where there is none or its files do not agree."""
    try:
        said = json.loads((place / ACCOUNT).read_text("utf-8"))
        account = Account(source, said["rows"], said["kept"], said["refused"])
        shape = (account.kept, int(said["width"]))
        sizes = [(place / name).stat().st_size for name in (ROWS, OFFSETS, ENTRIES)]
        if sizes[:2] != [4 * shape[0] * shape[1], 8 * (shape[0] + 1)]:
            return None
        offsets = np.memmap(place / OFFSETS, np.int64, "r")
        if offsets[-1] != sizes[2] or (np.diff(offsets) <= 0).any():
            return None
        rows = np.memmap(place / ROWS, np.float32, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Library(rows, _Entries(place / ENTRIES, offsets), account)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
