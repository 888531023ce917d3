"""Files of the public data sets: found in a folder, in the cache, or fetched, and verified always.

In: a `Part`, which says once what a file is called, where it lies and what its content hashes to.
Out: the path of a file with exactly that content, plain or gzipped.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

CHUNK = 1 << 20  # bytes read at once
LARGEST = 1 << 30  # bytes of a part whose size is not known beforehand
GZIP_MAGIC = b"\x1f\x8b"


class MissingPart(ValueError):
    """A file is neither in the data folder nor in the cache and cannot be fetched."""


class WrongContent(ValueError):
    """A file is there but does not hold what was pinned."""


class Part(NamedTuple):
    """One file of a data set. Hashes and size are those of the uncompressed content."""

    set: str  # folder below the data folder, e.g. "chebi20"
    name: str
    url: str = ""  # empty: derived here, not to be had from any server
    sha256: str = ""
    git_blob: str = ""  # id by `git hash-object`, for files known only by their repository
    size: int = 0  # bytes; 0: not known


class Digest(NamedTuple):
    """What a file really holds."""

    size: int
    sha256: str
    git_blob: str
    head: bytes  # first bytes, to tell an HTML page or a Git-LFS pointer from data


def cache_folder() -> Path:
    """TMR_JAX_CACHE, else ~/.cache/tmr_jax, else (no home) a folder among temporary files."""
    chosen = os.environ.get("TMR_JAX_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "tmr_jax"
    except RuntimeError:  # HOME unset and the user unknown to the system
        return Path(tempfile.gettempdir()) / "tmr_jax"


def find(part: Part) -> Path | None:
    """The verified local file of a part, or None; TMR_JAX_DATA is asked before the cache."""
    for folder in _local_folders():
        for name in (part.name, part.name + ".gz"):
            path = folder / part.set / name
            if path.is_file():
                verify(part, path)
                return path
    return None


def locate(part: Part) -> Path:
    """The verified file of a part, fetched if it is nowhere at hand."""
    return find(part) or fetch(part)


def verify(part: Part, path: Path) -> None:
    """Raises WrongContent, with expected and got hash, unless the file holds the part."""
    got = digest(path, part.size or LARGEST)
    if _agrees(part, got):
        return
    raise WrongContent(
        f"expected {path} to hold {part.name} of {part.set} with {_pinned(part)}; "
        f"got {_what(got)} with {got.size:,} bytes, SHA-256 {got.sha256}, git blob {got.git_blob}. "
        f"Delete the file and run: {command(part.set)}"
    )


def command(name: str) -> str:
    """The command that fetches a data set."""
    return f"make data SET={name}  (or: python tools/fetch_data.py {name})"


def digest(path: Path, limit: int) -> Digest:
    """Hashes of the uncompressed content, streamed; more than `limit` bytes are refused."""
    # the git blob id covers the size, which is only known at the end, hence two passes
    size, sha256, head = 0, hashlib.sha256(), b""
    for chunk in _chunks(path):
        size += len(chunk)
        head = head or chunk[:512]
        sha256.update(chunk)
        if size > limit:
            raise WrongContent(
                f"expected at most {limit:,} bytes in {path}; got more. Delete the file and fetch it again"
            )
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in _chunks(path):
        blob.update(chunk)
    return Digest(size, sha256.hexdigest(), blob.hexdigest(), head)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise WrongContent(
            f"expected a whole gzip file at {path}; got a damaged one ({error}). "
            "Delete it and fetch it again"
        ) from error


def _open(path: Path) -> BinaryIO:
    file = open(path, "rb")
    magic = file.read(2)
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if magic == GZIP_MAGIC else file  # type: ignore[return-value]


def _local_folders() -> list[Path]:
    data = os.environ.get("TMR_JAX_DATA")
    return ([Path(data)] if data else []) + [cache_folder() / "data"]


def _agrees(part: Part, got: Digest) -> bool:
    pinned = part.sha256 or part.git_blob
    assert pinned, f"{part.name} has no pinned hash"
    sha256_agrees = part.sha256 in ("", got.sha256)
    return sha256_agrees and part.git_blob in ("", got.git_blob)


def _pinned(part: Part) -> str:
    said = [f"SHA-256 {part.sha256}"] if part.sha256 else []
    said += [f"git blob {part.git_blob}"] if part.git_blob else []
    return ", ".join(([f"{part.size:,} bytes"] if part.size else []) + said)


def _what(got: Digest) -> str:
    start = got.head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer (the data themselves were never downloaded)"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page (a login or error page in place of the data)"
    return "other content"


def fetch(part: Part) -> Path:
    raise MissingPart(f"expected {part.name} of {part.set}; it is not at hand: {command(part.set)}")
