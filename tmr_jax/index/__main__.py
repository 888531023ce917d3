"""tmr index --run runs/NAME --library FILE --out FOLDER: builds an index.

In: a run (default: the shipped weights) and a file of molecules (.smi, .csv, .tsv, .parquet, .sdf,
gzipped or not), or of descriptions (.txt, one on each line, or a column of a table). Out: a folder
with a vector of each, and properties, groups and classes of every molecule, to search with `tmr
search --library FOLDER`. Invalid rows are skipped and listed in refused.tsv with the reason. Run
the same command to resume an interrupted build. `tmr index copy FROM TO` copies an index to another
engine or place. `tmr index check INDEX` reads every byte of an index again. `tmr index join OUT`
makes one index of parts that several machines built with --part.
"""

# Heavy imports are inside the functions, so that a wrong argument is reported at once.
from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from tmr_jax import cli
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.index.build import BuildReport
    from tmr_jax.index.schema import Engine


@dataclass(frozen=True)
class Build:
    """Build an index of a file."""

    library: Path
    """Molecules: .smi, .csv, .tsv, .parquet or .sdf, gzipped or not. Or descriptions: .txt, one on
    each line, or a table with --text-column. - for standard input."""
    out: Path
    """Folder of the index; an interrupted build of the same file and model is resumed."""
    run: Path | None = None
    """Directory that training wrote, or exported weights; default: the weights that come with
    tmr_jax. The index can only be searched with this model."""
    smiles_column: str = ""
    """Column of the SMILES in a table; by default the one called so, or that holds some."""
    text_column: str = ""
    """Column of the descriptions in a table, to index those."""
    name_column: str = ""
    """Column of the names in a table; by default the titles of an SDF, or line numbers."""
    update: bool = False
    """Replace an index of an earlier content of the file; its molecules are not encoded again."""
    part: str | None = None
    """I/N: build part I (from 1) of N alone, to share the work among machines; tmr index join makes
    one index of them."""


@dataclass(frozen=True)
class Join:
    """Join the parts that tmr index --part I/N built: the bytes are those of one build.

    Needs room for the index once more; the parts are removed at the end.
    """

    out: tyro.conf.Positional[Path]
    """The --out of the parts; an interrupted join is resumed."""


@dataclass(frozen=True)
class Check:
    """Read every byte of an index and compare it with what was written."""

    library: tyro.conf.Positional[str]
    """An index that tmr index or tmr index copy wrote."""


@dataclass(frozen=True)
class Copy:
    """Copy an index to another engine or place; nothing is encoded again.

    A place is a folder, milvus:FILE.db, or http(s)://HOST:PORT/COLLECTION of a Milvus server (with
    its token in TMR_JAX_MILVUS_TOKEN). A new folder gets LanceDB, exact:FOLDER the exact engine.
    """

    origin: tyro.conf.Positional[str]
    """The index to copy."""
    to: tyro.conf.Positional[str]
    """Where to copy it; an interrupted copy is resumed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 3 while another process builds the same index; else see `cli`."""
    return cli.run("index", _start, arguments, resumable=True, expected=(OSError,))


def _start(args: list[str]) -> int:
    if args[:1] == ["check"]:
        return check(cli.parse(Check, "index check", args[1:]).library)
    if args[:1] == ["copy"]:
        return copy(cli.parse(Copy, "index copy", args[1:]))
    if args[:1] == ["join"]:
        return join(cli.parse(Join, "index join", args[1:]).out)
    return make(cli.parse(Build, "index", args, config=(tyro.conf.FlagCreatePairsOff,)))


def make(chosen: Build) -> int:
    """Builds an index, with progress, and prints what became of the rows."""
    numbers = _part(chosen)
    from tmr_jax.data.readers import or_standard_input
    from tmr_jax.index.build import Part, Source, build, build_shown, model_of_run, update
    from tmr_jax.index.exact import read_head

    columns = (chosen.smiles_column, chosen.name_column, chosen.text_column)
    source = Source(or_standard_input(chosen.library), *columns)
    start = update if chosen.update else build
    part = Part(*numbers) if numbers else None
    more = {"part": part} if part else {}
    report = build_shown(source, chosen.out, model_of_run(chosen.run), start, **more)
    out = part.folder(chosen.out) if part else chosen.out
    print(sentence(report, out, source.of))
    print("".join(f"{line}\n" for line in columns_lines(read_head(out)[1])), end="")
    if part:
        print(f"part {part.number} of {part.of}; after the last: tmr index join {chosen.out}")
    return 0


def _part(chosen: Build) -> tuple[int, int] | None:
    """The I and N of --part."""
    if chosen.part is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", chosen.part)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of:
        raise UserError(
            f"expected --part I/N with I from 1 to N, got {chosen.part!r}; for the second of four "
            "machines write --part 2/4"
        )
    if chosen.update:
        raise UserError(
            "expected --part or --update, got both; build the parts of the changed file in a new "
            "--out"
        )
    return number, of


def join(out: Path) -> int:
    """Joins parts and prints what became of the rows."""
    from tmr_jax.index.exact import read_head
    from tmr_jax.index.parts import join_shown
    from tmr_jax.index.schema import contents

    report = join_shown(out)
    about = read_head(out)[1]
    print(sentence(report, out, contents(about)))
    print("".join(f"{line}\n" for line in columns_lines(about)), end="")
    return 0


def columns_lines(about: dict[str, Any]) -> list[str]:
    """What became of the file's own columns."""
    from tmr_jax.data.columns import Column
    from tmr_jax.index.index import columns_notes

    columns = [Column(*listed) for listed in about["columns"]]
    kept = [f"{c.name} ({c.kind}{c.why and f': {c.why}'})" for c in columns if c.kind]
    listed = [f"{len(kept):,} columns of the file: {', '.join(kept)}"] if kept else []
    return [*listed, *columns_notes(about)]


def sentence(report: BuildReport, out: Path, of: str) -> str:
    """What became of the rows; `of` is what the index holds, see `schema.contents`."""
    from tmr_jax.index.schema import DESCRIPTIONS

    repeats = f"{report.duplicates:,} duplicates"
    if of == DESCRIPTIONS:
        facts = f"{repeats}, {report.cut:,} longer than the model reads"
    else:
        variants = f"{report.variants:,} duplicates but for salt and charge"
        facts = f"{report.salts:,} of several parts, {repeats}, {variants}"
    lines = [f"{report.kept:,} {of} of {report.rows:,} rows in {out}; {facts}"]
    if report.refused:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(report.refused.items()))
        lines.append(f"skipped: {reasons}; each row is in {out / 'refused.tsv'}")
    if report.made < report.shards:
        lines.append(f"{report.shards - report.made:,} of {report.shards:,} shards existed")
    if report.known:
        lines.append(f"{report.known:,} {of} were known and not encoded again")
    return "\n".join(lines)


def copy(chosen: Copy) -> int:
    """Copies an index and prints how many items it has."""
    from tmr_jax.index.copy import copy_shown

    copied = copy_shown(chosen.origin, chosen.to)
    line = f"{copied.count:,} {copied.of} of {chosen.origin} in {chosen.to}, compared and equal"
    if existing := copied.count - copied.sent:
        line += f"; {existing:,} existed"
    print(f"{line} (SHA-256 {copied.sha256})")
    return 0


def check(place: str) -> int:
    """Prints which parts of an index differ from what was written; 2 where one does."""
    from tmr_jax.index.index import open_engine
    from tmr_jax.index.schema import contents

    engine = open_engine(place)
    damaged = _damaged(engine)
    if engine.account is None:
        damaged["the index"] = "is incomplete"
    for name, problem in sorted(damaged.items()):
        print(f"{name}: {problem}")
    if damaged:
        raise UserError(
            f"expected a complete index in {place}, got {len(damaged):,} parts that differ "
            "from what was written; run the command that built it again to repair them"
        )
    print(f"{engine.count():,} {contents(engine.about)} in {place}, every byte as it was written")
    return 0


def _damaged(engine: Engine) -> dict[str, str]:
    """Parts of an index that differ from the hashes it was completed with."""
    from tmr_jax.index.copy import HASH, content
    from tmr_jax.index.exact import ExactEngine

    if isinstance(engine, ExactEngine):
        return {f"shard {name}": problem for name, problem in engine.verify().items()}
    if engine.account is None or content(engine) == engine.account[HASH]:
        return {}
    return {"items": "differ from what was written"}


if __name__ == "__main__":
    sys.exit(main())
