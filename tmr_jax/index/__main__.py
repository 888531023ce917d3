"""python -m tmr_jax.index --run runs/NAME --library FILE --out FOLDER: a file becomes a library.

In: a trained run and a file of molecules (.smi, .csv, .tsv, .parquet, .sdf, gzipped or not), or of
descriptions (.txt, one on each line, or a column of a table). Out: a folder with a vector of each,
and properties and functional groups of every molecule, to search with `tmr search --library
FOLDER`. What is no molecule or text is listed in refused.tsv with the reason. Killed or stopped,
the same words go on. `tmr index copy FROM TO` takes a library to another engine, or another place.
`tmr index check LIBRARY` reads every byte of a library again.
"""

# Heavy imports wait inside the functions: a wrong word is said at once.
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from tmr_jax import cli

if TYPE_CHECKING:
    from tmr_jax.index.build import BuildReport
    from tmr_jax.index.schema import Engine

USER_ERROR = 2


@dataclass(frozen=True)
class Build:
    """Make a library of a file."""

    run: Path
    """Directory that training wrote: the library answers to this model only."""
    library: Path
    """Molecules: .smi, .csv, .tsv, .parquet or .sdf, gzipped or not. Or descriptions: .txt, one on
    each line, or a table with --text-column."""
    out: Path
    """Folder of the library; one of the same file and model is gone on with."""
    smiles_column: str = ""
    """Column of the SMILES in a table; without it, SMILES."""
    text_column: str = ""
    """Column of the descriptions in a table, for a library of those."""
    name_column: str = ""
    """Column of the names in a table; without it, row numbers."""


@dataclass(frozen=True)
class Check:
    """Read every byte of a library and compare it with what was written."""

    library: tyro.conf.Positional[str]
    """What tmr index, or tmr index copy, has written."""


@dataclass(frozen=True)
class Copy:
    """Take a library to another engine or place; nothing is encoded again.

    A place is a folder, milvus:FILE.db, or http(s)://HOST:PORT/COLLECTION of a Milvus server (with
    its token in TMR_JAX_MILVUS_TOKEN). A new folder is LanceDB's; exact:FOLDER says otherwise.
    """

    origin: tyro.conf.Positional[str]
    """The library that is there."""
    to: tyro.conf.Positional[str]
    """Where it is to be, too; a copy that was begun there is gone on with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 3 while another process builds the same index; else see `cli`."""
    return cli.run("index", _start, arguments, resumable=True)


def _start(args: list[str]) -> int:
    if args[:1] == ["check"]:
        return check(cli.parse(Check, "index check", args[1:]).library)
    if args[:1] == ["copy"]:
        chosen = cli.parse(Copy, "index copy", args[1:])
        return copy(chosen.origin, chosen.to)
    return make(cli.parse(Build, "index", args))


def make(chosen: Build) -> int:
    """Builds, shows how far it is, and says what became of the rows."""
    from tmr_jax.index.build import Source, build_shown, model_of_run

    columns = (chosen.smiles_column, chosen.name_column, chosen.text_column)
    source = Source(chosen.library, *columns)
    account = build_shown(source, chosen.out, model_of_run(chosen.run))
    print(sentence(account, chosen.out, source.of))
    return 0


def sentence(account: BuildReport, out: Path, of: str) -> str:
    """What became of the rows, in words; `of` what the library is, as `store.contents` says."""
    from tmr_jax.index.schema import DESCRIPTIONS

    kept = f"{account.kept:,} {of} of {account.rows:,} rows in {out}"
    if of == DESCRIPTIONS:
        told = [
            f"{account.duplicates:,} came before",
            f"{account.cut:,} are longer than the model reads",
        ]
    else:
        told = [f"{account.salts:,} are of several parts", f"{account.duplicates:,} came before"]
        told += [f"{account.variants:,} came before but for salt and charge"]
    lines = [f"{kept}; {', '.join(told)}"]
    if account.refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(account.refused.items()))
        lines.append(f"left out: {reasons}; each row is in {out / 'refused.tsv'}")
    if account.made < account.shards:
        lines.append(f"{account.shards - account.made:,} of {account.shards:,} shards were there")
    return "\n".join(lines)


def copy(origin: str, to: str) -> int:
    """Copies, and says what has come of it."""
    from tmr_jax.index.copy import copy_shown

    copied = copy_shown(origin, to)
    there = copied.count - copied.sent
    print(
        f"{copied.count:,} {copied.of} of {origin} in {to}, read again and the same"
        + (f"; {there:,} were there" if there else "")
        + f" (SHA-256 {copied.sha256})"
    )
    return 0


def check(place: str) -> int:
    """Says whether a library holds what was written into it; 2 where it does not."""
    from tmr_jax.index.open import open_engine
    from tmr_jax.index.schema import contents

    store = open_engine(place)
    bad = _differing(store)
    if store.account is None:
        bad["the whole"] = "its making has not come to its end"
    for name, wrong in sorted(bad.items()):
        print(f"{name}: {wrong}")
    if bad:
        print(
            f"error: expected a whole library in {place}, got {len(bad):,} parts that are not as "
            "they were written; say the words that made it again, they mend it",
            file=sys.stderr,
        )
        return USER_ERROR
    print(f"{store.count():,} {contents(store.about)} in {place}, every byte as it was written")
    return 0


def _differing(store: Engine) -> dict[str, str]:
    """Parts of a library that are not what was written, by the hashes that it was sealed with."""
    from tmr_jax.index.copy import HASH, content
    from tmr_jax.index.exact import ExactEngine

    if isinstance(store, ExactEngine):
        return {f"shard {name}": wrong for name, wrong in store.verify().items()}
    if store.account is None or content(store) == store.account[HASH]:
        return {}
    return {"items": "are not what was written"}


if __name__ == "__main__":
    sys.exit(main())
