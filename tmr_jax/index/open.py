"""Which engine has the index at a place, and which one a new index gets.

A place is a folder, `milvus:FILE.db`, or `http(s)://HOST:PORT/COLLECTION`. The files of a folder
tell its engine; a new one gets LanceDB, unless written as `exact:FOLDER`.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tmr_jax.index.exact import HEAD as EXACT_HEAD
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.schema import LANCE_HEAD, LITE, LOCK, Engine
from tmr_jax.types import UserError

TOKEN = "TMR_JAX_MILVUS_TOKEN"
# A Path made of an address has one slash.
_ADDRESS = re.compile(r"(https?):/{1,2}([^/]+)/(\w+)/?")
_KIND = re.compile(r"(exact|lance|milvus):(.+)", re.S)


class Place(NamedTuple):
    engine: str  # "exact", "lance", "milvus", or "" where the files of the folder tell
    path: Path | None
    uri: str = ""  # of a server
    collection: str = "library"


def parse_place(place: str | Path) -> Place:
    """The parts of a place; ValueError for an invalid one."""
    text = str(place)
    if re.match(r"https?:/", text):
        match = _ADDRESS.fullmatch(text)
        if not match or "@" in match[2] or not _is_host(match[2]):
            raise UserError(
                "expected http(s)://HOST:PORT/COLLECTION, got "
                f"{re.sub('//?[^/@]*@', '//***@', text)!r}; name a collection, and put a "
                f"password or token into the environment variable {TOKEN}"
            )
        return Place("milvus", None, f"{match[1]}://{match[2]}", match[3])
    kind = _KIND.fullmatch(text)
    engine, path = (kind[1], Path(kind[2])) if kind else ("", Path(text))
    if not engine and path.suffix == LITE:
        engine = "milvus"
    if engine == "milvus" and path.suffix != LITE:
        raise UserError(
            f"expected a file that ends in {LITE} after milvus:, got {str(path)!r}; rename it, "
            "or give http://HOST:PORT/COLLECTION"
        )
    return Place(engine, path)


def _is_host(text: str) -> bool:
    try:
        return urllib.parse.urlsplit(f"//{text}").port != 0
    except ValueError:  # a port that is none, half of an IPv6 address
        return False


def is_index_place(place: str | Path) -> bool:
    """Whether it is a folder or names an engine, rather than a file of molecules."""
    engine, path, *_ = parse_place(place)
    return bool(engine or not path or path.is_dir())


def lock_of(place: str | Path) -> Path | None:
    """The file that a writer locks; None for a server, which takes many writers."""
    engine, path, *_ = parse_place(place)
    if path is None:
        return None
    return path.with_name(f"{path.name}.lock") if engine == "milvus" else path / LOCK


def open_engine(place: str | Path) -> Engine:
    """The index at a place.

    Raises ValueError where there is none, where it cannot be read, and where the engine's package
    is not installed.
    """
    engine, path, uri, collection = parse_place(place)
    if engine == "milvus":
        return _milvus()(uri or str(path), collection, os.environ.get(TOKEN, ""))
    assert path is not None
    if engine == "lance" or (not engine and (path / LANCE_HEAD).exists()):
        return _lance()(path)
    return ExactEngine(path)


def create_engine(place: str | Path, width: int, about: dict[str, Any]) -> Engine:
    """An empty index at a place; a folder without an engine gets LanceDB.

    Raises ValueError where something exists, and where the engine's package is not installed.
    """
    engine, path, uri, collection = parse_place(place)
    if engine == "milvus":
        token = os.environ.get(TOKEN, "")
        return _milvus().create(uri or str(path), width, about, collection, token)
    assert path is not None
    return (ExactEngine if engine == "exact" else _lance()).create(path, width, about)


def exists(place: str | Path) -> bool:
    """Whether a place holds something that `open_engine` opens or reports as damaged."""
    engine, path, uri, collection = parse_place(place)
    if uri:
        return _milvus().exists(uri, collection, os.environ.get(TOKEN, ""))
    assert path is not None
    if engine == "milvus":
        return path.exists() and _milvus().exists(str(path), collection)
    return (path / EXACT_HEAD).exists() or ((path / LANCE_HEAD).exists() and _lance().exists(path))


def _lance() -> Any:
    with _installed("lancedb", "make setup"):
        from tmr_jax.index.lance import LanceEngine
    return LanceEngine


def _milvus() -> Any:
    with _installed("pymilvus and milvus-lite", "make setup EXTRAS=dev,milvus"):
        import milvus_lite  # noqa: F401

        from tmr_jax.index.milvus import MilvusEngine
    return MilvusEngine


@contextmanager
def _installed(packages: str, command: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"expected {packages} to be installed, got: {error}; run {command}"
        ) from error
