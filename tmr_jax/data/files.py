"""Writing, locking, unpacking, reading by lines, hashing and caching of files.

The cache folder holds results that are computed once and read from a file the next time. Nothing in
a file is ever unpickled. The headers of a file of arrays are compared with its size before memory
is allocated, and a file with invalid content is computed again.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import socket
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np

from tmr_jax.types import CommandFailed, UserError

Arrays = dict[str, np.ndarray]
T = TypeVar("T")
EXPANSION = 100  # a gzip file may not grow by more ...
EXPANSION_FLOOR = 64 << 20  # ... once it has given this many bytes ...
EXPANSION_LIMIT = 64 << 30  # ... and never beyond this many
GZIP_MAGIC = b"\x1f\x8b"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Writing


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary name next to `path` to write to; the end of the block renames it to `path`.

    A reader finds the old file or the new one. If the block fails, the old file stays and the new
    one is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path` to fill; the end of the block renames it to `path`.

    If the block fails, or another folder with files is there by then, nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text in UTF-8, whole or not at all."""
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Writes a value as JSON, whole or not at all. Errors: ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def to_disk(path: Path) -> None:
    """Returns when a loss of power can no longer lose the file's content."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


# Locking. The operating system releases a lock when its process ends, however it ends; a killed
# process leaves only its name. Not `filelock`: version 3 empties the file when it opens it, and
# with it the name of the process that holds the lock.


class Locked(CommandFailed):
    """Another process works in the directory."""

    exit_status = 3


@contextmanager
def hold(path: Path) -> Iterator[str]:
    """Holds a lock file during the block; yields the owner of a stale lock, or "".

    Raises Locked, with the holder's process and machine, where another process holds it.
    """
    with open(path, "ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"expected to be alone in {path.parent}; got {_holder(file)}, which works there; "
                "wait for it, stop it, or choose another directory"
            ) from None
        stale = _holder(file)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        file.truncate(0)
        file.write(json.dumps(holder).encode() + b"\n")
        try:
            yield stale
        finally:
            file.truncate(0)


def _holder(file: Any) -> str:
    """The process named in a lock file: "process 12 on host x (since ...)", "" where none is."""
    content = os.pread(file.fileno(), 4096, 0).decode("utf-8", "replace").strip()
    if not content:
        return ""
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "a process that left no name"


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Holds a lock file during the block, after waiting for other processes to release it."""
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Unpacking


def open_binary(path: Path) -> BinaryIO:
    """The uncompressed content of a file; reading a gzip bomb or a damaged file is a UserError."""
    raw = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    magic = raw.read(2)
    raw.seek(0)
    if magic != GZIP_MAGIC:
        return raw
    return io.BufferedReader(_Unpacked(raw, path), 1 << 16)  # type: ignore[return-value]


class _Unpacked(io.RawIOBase):
    """gzip content that expands to at most the limits above; UserError beyond."""

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
                "if you trust it, unpack it yourself and give the plain file"
            )
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._gzip.close()
        self._raw.close()
        super().close()


# Lines of text, with the numbers that an editor shows

MAX_LINE = 4 << 20  # characters held of a line; the rest of a longer one is not read
BEGINNING = 80  # characters of an invalid row that an account shows


class Lines:
    """An iterator over lines without their ends. `number` is that of the last one, from 1."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._given_back: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._given_back:
            line = self._given_back.pop()
        elif not (line := self._text.readline(MAX_LINE)):
            raise StopIteration
        elif len(line) == MAX_LINE and line[-1] != "\n":
            while (rest := self._text.readline(MAX_LINE)) and rest[-1] != "\n":
                pass
        self.number += 1
        return line.removesuffix("\n")

    def give_back(self, lines: Sequence[str]) -> None:
        """The next lines are these again."""
        self._given_back += reversed(lines)
        self.number -= len(lines)


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """The lines of a file. Bytes that are not UTF-8 become lone surrogates: see `is_utf8`."""
    with open_binary(path) as raw:
        encoding = _encoding(raw)
        errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
        with io.TextIOWrapper(raw, encoding, errors=errors) as text:  # universal line ends
            yield Lines(text)


def _encoding(raw: BinaryIO) -> str:
    """UTF-16 by its byte order mark, or by the zero byte of an ASCII character; else UTF-8."""
    start = raw.peek(4)[:4]  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = [byte == 0 for byte in start]
    if zeros == [False, True] * 2:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False] * 2 else "utf-8-sig"


def is_utf8(text: str) -> bool:
    """Whether the bytes that a text was read from are UTF-8."""
    return text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text)


def plain_name(name: str) -> str:
    """Letters and digits in one case: how names of columns are compared where none is the same."""
    return "".join(filter(str.isalnum, name)).lower()


def beginning(text: str) -> str:
    """What an account shows of an invalid row: one line, readable in any encoding."""
    return " ".join(
        text[:BEGINNING].encode("utf-8", "surrogateescape").decode("utf-8", "replace").split()
    )


# Caching

VERSION = 1  # raise it whenever the features or keys of any molecule or text change
CACHE_FROM = 1000  # rows; fewer are cached only in a folder that the caller names
MAX_HEADER = 4096  # bytes of one array's header


@dataclass(frozen=True)
class Format(Generic[T]):
    """How a value is kept in a file. `read` raises ValueError where the content is invalid."""

    suffix: str
    read: Callable[[Path], T]
    write: Callable[[BinaryIO, T], object]


def cache_folder() -> Path:
    """TMR_JAX_CACHE, else ~/.cache/tmr_jax, else a temporary folder of this user."""
    named = os.environ.get("TMR_JAX_CACHE")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache" / "tmr_jax"
    except RuntimeError:  # no HOME and no entry in the user database
        return Path(tempfile.gettempdir()) / f"tmr_jax-{os.getuid()}"


def cache_key(kind: str, settings: object, rows: Iterable[str | np.ndarray] = ()) -> str:
    """KIND-DIGEST of everything a value depends on: settings (as JSON) and rows or arrays."""
    digest = hashlib.sha256(json.dumps([kind, VERSION, settings]).encode())
    for row in rows:
        if isinstance(row, str):
            content = row.encode("utf-8", "surrogatepass")
        else:
            content = f"{row.dtype} {row.shape} ".encode() + np.ascontiguousarray(row).tobytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return f"{kind}-{digest.hexdigest()[:32]}"


def cached(
    key: str,
    compute: Callable[[], T],
    is_valid: Callable[[T], bool],
    format: Format[T],
    folder: str | Path | None = None,
) -> T:
    """The value of `key` from its file in the cache folder; computed and written if it is not.

    A file that is damaged or whose value is not valid is computed again, and a folder that cannot
    be written to is reported, both with a note on standard error.
    """
    path = Path(folder or cache_folder()) / f"{key}{format.suffix}"
    if path.is_file():
        try:
            value = format.read(path)
            if is_valid(value):
                return value
            reason = f"expected {key.partition('-')[0]} in {path}; got other content"
        except (ValueError, OSError) as error:
            reason = str(error)
        print(f"{reason}; computing it again", file=sys.stderr)
    value = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial, open(partial, "wb") as file:
            format.write(file, value)
    except OSError as error:  # a full or read-only disk must not stop the work itself
        print(f"{path.name} is not cached: {error}", file=sys.stderr)
    return value


# Formats


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Writes an uncompressed .npz, whole or not at all."""
    with replaced(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> Arrays:
    """Arrays of an uncompressed .npz, each header checked before its array is allocated.

    Raises UserError for anything but plain arrays whose sizes agree with the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > path.stat().st_size:
                raise ValueError("its members claim more bytes than it has")
            return {info.filename.removesuffix(".npy"): _read(archive, info) for info in infos}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(
            f"expected an uncompressed .npz of plain arrays in {path}; got: {error}"
        ) from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{info.filename} is compressed")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(member, max_header_size=MAX_HEADER)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(member, max_header_size=MAX_HEADER)
        else:
            raise ValueError(f"{info.filename} has version {version}")
        shape, _, dtype = header
        content = info.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    if math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"{info.filename} claims shape {shape} of {dtype} in {content} bytes")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False, max_header_size=MAX_HEADER)


ARRAYS = Format[Arrays](".npz", read_arrays, lambda file, arrays: np.savez(file, **arrays))  # type: ignore[arg-type]
JSON = Format[Any](
    ".json",
    lambda path: json.loads(path.read_bytes()),
    lambda file, value: file.write(json.dumps(value).encode()),
)
