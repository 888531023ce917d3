"""Writing, locking, unpacking and hashing of files."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tmr_jax.types import CommandFailed, UserError

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
    """The uncompressed content of a file; reading a gzip bomb or a damaged file is a ValueError."""
    raw = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    magic = raw.read(2)
    raw.seek(0)
    if magic != GZIP_MAGIC:
        return raw
    return io.BufferedReader(_Unpacked(raw, path), 1 << 16)  # type: ignore[return-value]


class _Unpacked(io.RawIOBase):
    """gzip content that expands to at most the limits above; ValueError beyond."""

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
