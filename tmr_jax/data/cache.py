"""tmr cache [--clear [KIND ...]]: what tmr_jax keeps in its cache folder, and clearing it.

In: the cache folder (`files.cache_folder`). Out: each kind with its place, number, size and age, on
standard output. Files are known by the names that tmr_jax gives them: any other one is neither
listed nor removed, and no link below the folder is followed or removed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from rich.filesize import decimal

from tmr_jax import cli
from tmr_jax.data.files import Locked, cache_folder, hold
from tmr_jax.types import UserError, did_you_mean

PARTIAL = r"\.\d+\.tmp"  # behind a dot and the name, of a write that was killed: `files.replaced`


class Kind(NamedTuple):
    """What one kind is, and where; `name` is a pattern of the names of its files or folders."""

    about: str
    name: str
    folder: str = ""  # below the cache folder
    lock: str = ""  # file of a folder that is locked while a process writes there
    is_made: bool = True  # by tmr_jax itself, without a network


def keyed(kind: str) -> str:
    """The names that `files.cache_key` gives, with the suffixes of the formats."""
    return rf"{kind}-[0-9a-f]{{32}}(?:\.npz|\.npy|\.json)?"


SETS = "chebi20|pcdes|pubchem324k|open_pairs|chebi"
KINDS = {
    "compiled": Kind("programs compiled by JAX", r"\w.*-[0-9a-f]{64}-(?:cache|atime)", "compiled"),
    "library": Kind("indexes of files that were searched", keyed("library"), lock="lock"),
    "molecules": Kind("graphs of molecules", keyed("molecules")),
    "texts": Kind("word pieces of texts", keyed("texts")),
    "states": Kind("states of a frozen text encoder", keyed("states")),
    "keys": Kind("InChIKeys of molecules", keyed("keys")),
    "facts": Kind("facts of texts and of molecules", keyed("facts")),
    "mined": Kind("places of pairs for --train.mined", keyed("mined")),
    "masked": Kind("text encoders of --train.masked-words", keyed("masked")),
    "teacher": Kind("embeddings of --train.teachers", keyed("teacher")),
    "ridge": Kind("scores of the linear baseline", keyed("ridge")),
    "short": Kind("right molecules of short queries", keyed("short")),
    "bench_rank": Kind("rows of tools/bench/rank.py", r"\w+\.npy", "bench_rank"),
    "data": Kind("data sets, fetched or put there by you", SETS, "data", is_made=False),
    "mirror": Kind("data sets of a mirror", "mirror-[0-9a-f]{16}", is_made=False),
    "weights": Kind("text weights of a mirror", ".+--.+-[0-9a-f]{16}", "weights", is_made=False),
}


class Entry(NamedTuple):
    """A file or folder of a kind."""

    path: Path
    size: int  # bytes of it, or of all files below it
    written: float  # seconds since 1970, the last time


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 3 where another process indexes a file, whose index is left; else see `cli`."""
    return cli.run("cache", _cache, arguments, expected=(OSError,))


def parser() -> argparse.ArgumentParser:
    made = ", ".join(name for name, kind in KINDS.items() if kind.is_made)
    fetched = ", ".join(name for name, kind in KINDS.items() if not kind.is_made)
    parser = argparse.ArgumentParser(
        prog="tmr cache", description="list what tmr_jax keeps in its cache folder, or clear it"
    )
    parser.add_argument(
        "--clear",
        nargs="*",
        metavar="KIND",
        help=f"remove these kinds; without a name all that can be made again without a network: "
        f"{made}; by name also {fetched}",
    )
    return parser


def _cache(args: list[str]) -> int:
    folder, named = cache_folder(), parser().parse_args(args).clear
    if named is None:
        print("\n".join(listing(folder)))
        return 0
    return clear(folder, named)


def entries(folder: Path, name: str) -> list[Entry]:
    """What the cache folder holds of a kind; links are left out."""
    kind, place = KINDS[name], folder / KINDS[name].folder
    if not place.is_dir() or (kind.folder and place.is_symlink()):
        return []
    pattern = re.compile(rf"(?:{kind.name})|\.(?:{kind.name}){PARTIAL}")
    paths = [path for path in sorted(place.iterdir()) if pattern.fullmatch(path.name)]
    return [_measured(path) for path in paths if not path.is_symlink()]


def _measured(path: Path) -> Entry:
    below = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    size, written = 0, 0.0
    for one in (path, *below):
        with suppress(FileNotFoundError):  # another process has removed it
            status = one.lstat()
            size += 0 if one.is_dir() else status.st_size
            written = max(written, status.st_mtime)
    return Entry(path, size, written)


def listing(folder: Path) -> Iterator[str]:
    """The lines of a table of kinds, and how to clear them."""
    yield f"{folder} (set TMR_JAX_CACHE to move it)"
    yield f"{'kind':<11}{'items':>6}{'size':>10}  {'last written':<15} {'where':<13} what"
    total = 0
    for name, kind in KINDS.items():
        found = entries(folder, name)
        if found:
            size, age = _size(found), time.time() - max(entry.written for entry in found)
            where = f"{kind.folder}/" if kind.folder else f"{name}-*"
            row = f"{name:<11}{len(found):>6,}{decimal(size):>10}  {_ago(age):<15} {where:<13} "
            yield row + kind.about
            total += size
    yield f"{'all':<11}{decimal(total):>16}; to clear: tmr cache --clear [KIND ...]"


def _size(found: Iterable[Entry]) -> int:
    return sum(entry.size for entry in found)


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if (count := int(seconds // length)) > 0:
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "now"


def clear(folder: Path, names: Sequence[str]) -> int:
    """Removes the kinds that are named, or all that are made here; 3 where one is in use."""
    for name in names:
        if name not in KINDS:
            hint = did_you_mean(name, KINDS)
            raise UserError(f"expected a kind of cache, got {name!r}; {hint}")
    status = 0
    for name, kind in KINDS.items():
        found = entries(folder, name)
        if found and not names and not kind.is_made:
            print(f"{name}: {decimal(_size(found))} kept; to clear: tmr cache --clear {name}")
        elif found and (not names or name in names):
            removed = []
            for entry in found:
                try:
                    _remove(entry.path, kind.lock)
                    removed.append(entry)
                except Locked as error:
                    print(error, file=sys.stderr)
                    status = Locked.exit_status
            print(f"{name}: {len(removed):,} removed, {decimal(_size(removed))}")
    return status


def _remove(path: Path, lock: str) -> None:
    """A folder gets a temporary name first, so that nobody reads half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    is_locked = lock and (path / lock).is_file()
    with hold(path / lock) if is_locked else nullcontext():
        partial = path
        if not re.search(f"{PARTIAL}$", path.name):
            partial = path.rename(path.with_name(f".{path.name}.{os.getpid()}.tmp"))
        shutil.rmtree(partial)


if __name__ == "__main__":
    sys.exit(main())
