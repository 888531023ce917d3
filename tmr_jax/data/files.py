"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; at the end of the block it becomes `path`.

    A reader finds the old file or the new one. Where the block fails the old one stays, and nothing
    else does.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A whole file of text, in UTF-8."""
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_disk(path: Path) -> None:
    """Returns when a file's content would outlive a loss of power."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
