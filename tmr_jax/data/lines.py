"""The lines of a text file, with the numbers that an editor shows.

In: a file in UTF-8 or UTF-16, plain or gzipped, with LF, CRLF or CR. Out: its lines one by one; a
reader that went too far gives lines back.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tmr_jax.data.files import open_binary

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


def beginning(text: str) -> str:
    """What an account shows of an invalid row: one line, readable in any encoding."""
    return " ".join(
        text[:BEGINNING].encode("utf-8", "surrogateescape").decode("utf-8", "replace").split()
    )
