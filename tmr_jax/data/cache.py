"""The cache folder: results that are computed once and read from a file the next time.

Nothing in a file is ever unpickled. The headers of a file of arrays are compared with its size
before memory is allocated, and a file with invalid content is computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np

from tmr_jax.data.files import replaced
from tmr_jax.types import UserError

Arrays = dict[str, np.ndarray]
T = TypeVar("T")
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

    Raises ValueError for anything but plain arrays whose sizes agree with the file.
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
