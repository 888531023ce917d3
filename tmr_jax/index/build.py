"""A file of molecules or texts to an index on disk: rows in, shards out.

Shard i is a function of rows i * SHARD to (i + 1) * SHARD of the file and of the model, nothing
else, and is moved into place complete. Run the same command to resume an interrupted build: it
starts at the first missing shard and ends with the bytes of an uninterrupted one. Worker processes
parse ahead of the encoder by a bounded number of molecules, so memory does not grow with the file.
Texts need no parsing: a shard of them is read and encoded. A molecule that an earlier index of the
file has, with the same model, is not encoded again: see `known`. Several machines build a part
each, every N-th shard, into a folder of its own: see `parts`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data import readers
from tmr_jax.data.columns import Column, kept, read_columns
from tmr_jax.data.features.properties import RULES
from tmr_jax.data.files import BEGINNING, cache_folder, cache_key, hold, open_binary, sha256_of
from tmr_jax.data.readers import Row, holds_texts, read_rows, read_texts
from tmr_jax.data.tables import apply_vocabulary, joined_table
from tmr_jax.data.workers import Arrays, Died, Worker, in_workers, progress
from tmr_jax.index import exact, schema
from tmr_jax.index.entries import PATIENCE, digest
from tmr_jax.index.index import RDKIT, DiskIndex, Model, difference, open_index
from tmr_jax.index.known import Known
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_to_search
from tmr_jax.models.runtime import run_folder, use_compile_cache
from tmr_jax.types import UserError

SHARD = 16_384  # rows of the file
CHUNK = 256  # rows per request to a process
AHEAD = 16  # chunks for each process: while one shard is encoded the next is parsed
# Seconds per molecule that a chunk may take, on top of PATIENCE with one of them, before its
# process counts as hanging: fifty times what most need.
EACH = 0.05
REFUSED = "refused.tsv"
DESCRIBE = "tmr_jax.index.entries:describe_chunk"
# A build of a part knows the repeats within it alone; `parts.join` finds the others.
REPEATS = {"duplicate": "identity", "variant": "parent"}  # flag: the column whose repeats have it


class Source(NamedTuple):
    """The file to index."""

    path: Path
    smiles_column: str = ""
    name_column: str = ""
    text_column: str = ""

    @property
    def of(self) -> str:
        """MOLECULES or DESCRIPTIONS; UserError where columns of both are named."""
        return schema.DESCRIPTIONS if holds_texts(*self) else schema.MOLECULES

    def read(self, columns: Sequence[Column] = ()) -> Iterator[Row]:
        """Its rows, with columns of its own; UserError where it is missing, or lacks a column."""
        own = [column.source for column in columns if column.kind]
        if self.of == schema.DESCRIPTIONS:
            return read_texts(self.path, self.text_column, self.name_column, own)
        return read_rows(self.path, self.smiles_column, self.name_column, own)

    def columns(self) -> list[Column]:
        """Its own columns: all but those of the contents and the names."""
        next(self.read(), None)  # names a mistake before the whole file is read
        if self.text_column:
            used = (self.text_column, self.name_column)
        elif self.of == schema.DESCRIPTIONS:
            return []
        else:
            used = readers.molecule_columns(self.path, self.smiles_column, self.name_column)
        return read_columns(self.path, [*filter(None, used)], schema.is_taken) if used else []

    def shards(self, columns: Sequence[Column]) -> Iterator[tuple[int, list[Row]]]:
        """Its rows, SHARD at a time, with their numbers."""
        rows = self.read(columns)
        return enumerate(iter(lambda: list(islice(rows, SHARD)), []))

    @property
    def sha256(self) -> str:
        if not self.path.is_file():
            next(self.read(), None)  # raises the error that names what is wrong
        return sha256_of(self.path)


class Part(NamedTuple):
    """The share of one of several builds: every `of`-th shard, from `number` - 1 on."""

    number: int
    of: int

    def has(self, shard: int) -> bool:
        return shard % self.of == self.number - 1

    def rows(self, total: int | None) -> int | None:
        """How many of `total` rows of the file it has."""
        if total is None:
            return None
        rounds, rest = divmod(total, SHARD * self.of)
        return rounds * SHARD + min(max(rest - (self.number - 1) * SHARD, 0), SHARD)

    def folder(self, out: Path) -> Path:
        return out / exact.PARTS / f"{self.number}-of-{self.of}"


class BuildReport(NamedTuple):
    """What a build did with the rows: rows = kept + all refused."""

    rows: int
    kept: int
    salts: int
    duplicates: int
    variants: int
    cut: int  # texts of which the model reads only the beginning
    refused: dict[str, int]  # skipped rows by reason
    shards: int
    made: int  # shards that this run of the build wrote
    known: int = 0  # molecules that it took from an earlier index


def model_of_run(run: str | Path | None) -> Model:
    """The best parameters of a run, to encode with; see `tmr_jax.load`."""
    run = run_folder(run)
    use_compile_cache(cache_folder())
    assembly, params, checkpoint = load_to_search(run)
    encoder = Encoder(assembly, params)
    return Model(encoder, assembly.config, assembly.vocabulary, checkpoint.sha256, str(run))


def build(
    source: Source,
    out: Path,
    model: Model,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    earlier: Iterable[Path] = (),
    part: Part | None = None,
) -> BuildReport:
    """Writes the index of a file to the folder `out`, or what is still missing of it.

    `on_progress(rows, total)` is called after every shard, and for texts while one is encoded; the
    total is None where only reading the file would tell. `earlier` are folders of indexes: what
    the first one of this model and an earlier content of the file has is taken from it. A `part` is
    written to its own folder in `out`, where `parts.join` finds it.

    Raises UserError where the file cannot be read or has no valid row, where `out` holds another
    index (the message names both), and where the disk is full; `Locked` while another build runs.
    """
    columns = source.columns()
    about = _about(source, model, columns)
    if part is not None:
        about["part"] = [*part]
        check_parts(out, about)
        out = part.folder(out)
    check_out(out, about)
    with room(out):
        (out / exact.SHARDS).mkdir(parents=True, exist_ok=True)
        with hold(out / schema.LOCK):
            if not (out / exact.HEAD).exists():
                exact.ExactEngine.create(out, model.encoder.width, about)
            sweep(out)
            first = next((folder for folder in earlier if _is_earlier(folder, about)), None)
            known = Known(first if source.of == schema.MOLECULES else None, model.encoder.width)
            share = part or Part(1, 1)
            counts = _write_shards(source, columns, out, model, known, on_progress, share)
            return finish(out, *counts)


def update(
    source: Source,
    out: Path,
    model: Model,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> BuildReport:
    """As `build`, but where `out` holds an index of this model of an earlier content of the file.

    The new one is built next to it, as OUT.new, and replaces it when it is complete.
    """
    new, old = out.with_name(f"{out.name}.new"), out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():  # it was ended between the two renames below
        os.rename(old, out)
    if not _is_earlier(out, _about(source, model, [])):
        return build(source, out, model, on_progress)
    report = build(source, new, model, on_progress, [out])
    shutil.rmtree(old, ignore_errors=True)
    os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old)
    return report


def _write_shards(
    source: Source,
    columns: list[Column],
    out: Path,
    model: Model,
    known: Known,
    on_progress: Callable[[int, int | None], None],
    part: Part,
) -> tuple[int, int, int]:
    """Writes the missing shards of a part.

    How many rows it has, how many shards were written, and how many molecules were known.
    """
    total, done, made, width = part.rows(count_rows(source)), 0, 0, model.encoder.width
    seen = {flag: Seen() for flag in REPEATS}
    existing = {int(place.name) for place in exact.shard_places(out)}
    read = ((number, rows) for number, rows in source.shards(columns) if part.has(number))
    if source.of == schema.DESCRIPTIONS:
        shards = _texts(read, existing, model, lambda count: on_progress(done + count, total))
    else:
        shards = _molecules(read, existing, model, known)
    taken = 0
    for number, size, rows, encoded in shards:
        if encoded is not None:
            _write(out, number, rows, encoded, width, seen, columns)
            made, taken = made + 1, taken + encoded.known
        else:
            shard = exact.map_shard(out / exact.SHARDS / f"{number:06}", width)
            for flag, column in REPEATS.items():
                seen[flag].add(shard.columns[column])
        done += size
        on_progress(done, total)
    return done, made, taken


def build_shown(
    source: Source,
    out: Path,
    model: Model,
    start: Callable[..., BuildReport] = build,
    **more: Any,
) -> BuildReport:
    """`build`, or `update`, with a progress bar on standard error."""
    with progress() as bar:
        task = bar.add_task("encoding the index", total=None)

        def on_progress(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        return start(source, out, model, on_progress, **more)


def open_file(source: Source, model: Model) -> DiskIndex:
    """The index of a file: the first search builds it in the cache folder, the next ones open it.

    Raises UserError where the file cannot be read or has no valid row, and where the embeddings do
    not fit on the disk.
    """
    # What a build compares with an index that exists: the place of another one is never taken.
    path, sha256 = source.path, source.sha256
    columns = [source.text_column, source.name_column, source.of, readers.VERSION]
    if source.of == schema.MOLECULES:
        columns = [source.smiles_column, source.name_column, RDKIT, readers.VERSION, RULES]
    key = [sha256, path.suffixes, model.identity, exact.FORMAT, *columns]
    place = cache_folder() / cache_key("library", key)
    if not _is_complete(place):
        heads = [*cache_folder().glob(f"library-*/{exact.HEAD}")]
        newest = sorted(heads, key=lambda head: head.stat().st_mtime, reverse=True)
        build_shown(source, place, model, earlier=[head.parent for head in newest])
    return open_index(place, model, str(path))


def _is_complete(folder: Path) -> bool:
    if not (folder / exact.HEAD).exists():
        return False
    try:
        engine = exact.ExactEngine(folder)
    except schema.IndexUnavailable:  # its shards are gone, so it is built again
        return False
    return engine.account is not None and not engine.broken


def _about(source: Source, model: Model, columns: list[Column]) -> dict[str, Any]:
    """What identifies an index: another build resumes it only if this is equal."""
    kind = {"rdkit": RDKIT, "rules": RULES}
    if source.of == schema.DESCRIPTIONS:
        kind = {"of": schema.DESCRIPTIONS}
    return {
        "model": model.identity | {"run": model.run},
        **kind,
        "shard": SHARD,
        "source": {
            "file": source.path.name,
            "sha256": source.sha256,
            "columns": [source.text_column or source.smiles_column, source.name_column],
            "reader": readers.VERSION,
        },
        "columns": [list(column) for column in columns],
    }


def check_out(out: Path, about: dict[str, Any]) -> None:
    """UserError unless `out` is new, empty, or holds this index."""
    if not (out / exact.HEAD).exists():
        schema.check_free(out, {exact.SHARDS, schema.LOCK}, "another --out")
        return
    _, there = exact.read_head(out)
    if _without_run(there) != _without_run(about):
        replace = "--update replaces it; or " if _is_earlier(out, about) else ""
        raise UserError(
            f"expected the index in {out} to be of the same file and model, got another one "
            f"({difference(there, about)}); {replace}choose another --out, or remove the old index"
        )


def check_parts(out: Path, about: dict[str, Any]) -> None:
    """UserError unless `out` is new, or has parts of the index and of the division of `about`."""
    if not (out / exact.PARTS).is_dir():
        schema.check_free(out, {exact.PARTS, schema.LOCK}, "another --out")
    now = _of_every_part(about)
    for place, there in read_parts(out):
        if _without_run(_of_every_part(there)) != _without_run(now):
            raise UserError(
                f"expected parts of one index in {out / exact.PARTS}, got another in {place.name} "
                f"({difference(_of_every_part(there), now)}); build all parts of the same file "
                "with the same model, versions and N, or remove the folders of the others"
            )


def read_parts(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folders of parts that have a head, and what identifies each."""
    heads = sorted((out / exact.PARTS).glob(f"*/{exact.HEAD}"))
    parts = [(head.parent, exact.read_head(head.parent)[1]) for head in heads]
    return [(place, about) for place, about in parts if "part" in about]


def _of_every_part(about: dict[str, Any]) -> dict[str, Any]:
    return about | {"part": f"I/{about['part'][1]}"}


def _is_earlier(folder: Path, about: dict[str, Any]) -> bool:
    """Whether an index differs from this one, and by the content of the file alone."""
    try:
        there = exact.read_head(folder)[1]
        is_same = there["source"]["file"] == about["source"]["file"]
    except (UserError, KeyError, TypeError):
        return False
    same = dict.fromkeys(("source", "columns"))
    is_same = is_same and _without_run(there) | same == _without_run(about) | same
    return is_same and there["source"] != about["source"]


def _without_run(about: dict[str, Any]) -> dict[str, Any]:
    """A run that moved is the same run."""
    return about | {"model": about["model"] | {"run": None}}


def sweep(out: Path) -> None:
    """Removes the partial shard of a killed build, and damaged shards."""
    width, _ = exact.read_head(out)
    for place in (out / exact.SHARDS).iterdir():
        if not place.name.isdigit():
            shutil.rmtree(place, ignore_errors=True)
    for place in exact.shard_places(out):
        if exact.damage(place, width, deep=True):
            shutil.rmtree(place)


def count_rows(source: Source) -> int | None:
    """About how many rows a file has, for a progress bar; None where only reading would tell."""
    kind = readers.kind_of(source.path)
    if kind in ("parquet", "sdf"):
        return None
    lines = 0
    with open_binary(source.path) as raw:
        while block := raw.read(1 << 20):
            lines += max(block.count(b"\n"), block.count(b"\r"))
    bare = kind in readers.LISTS or (source.of == schema.DESCRIPTIONS and not source.text_column)
    return max(lines - (not bare), 0)


# Parsing and encoding


class EncodedShard(NamedTuple):
    """The rows of a shard; vectors and columns are those of the valid rows."""

    reasons: list[str]  # why each row is skipped, "" where it is valid
    vectors: np.ndarray  # float32 [n, D]
    columns: dict[str, np.ndarray]  # of COLUMNS, each [n], without the flags of repeats
    more: dict[str, Any]  # for shard.json
    known: int = 0  # rows of an earlier index


# Number, size, rows and what they encode to; None for a shard that exists.
Shards = Iterator[tuple[int, int, list[Row], EncodedShard | None]]
Read = Iterator[tuple[int, list[Row]]]  # what `Source.shards` gives


def _texts(
    read: Read, existing: set[int], model: Model, on_progress: Callable[[int], None]
) -> Shards:
    """Every shard in order; `on_progress` counts the encoded texts of one."""
    for number, rows in read:
        encoded = None if number in existing else _encoded_texts(rows, model, on_progress)
        yield number, len(rows), rows, encoded


def _encoded_texts(
    rows: list[Row], model: Model, on_progress: Callable[[int], None]
) -> EncodedShard:
    reasons = [row.refused for row in rows]
    texts = [row.content for row in rows if not row.refused]
    columns = {name: np.zeros(len(texts), kind) for name, kind in schema.COLUMNS.items()}
    hashes = np.array([digest(" ".join(text.split())) for text in texts], np.int64)
    columns |= dict.fromkeys(REPEATS.values(), hashes)
    if not texts:
        nothing = np.zeros((0, model.encoder.width), np.float32)
        return EncodedShard(reasons, nothing, columns, {"cut": 0})
    encoded, cut = model.encoder.corpus(texts, on_progress)
    columns[schema.NORM] = encoded.norm
    return EncodedShard(reasons, encoded.rows, columns, {"cut": int(cut.sum())})


def _molecules(read: Read, existing: set[int], model: Model, known: Known) -> Shards:
    """Every shard in order.

    Rows are read as far ahead as the processes parse; rows of existing shards are not kept.
    """
    features = model.config.features
    ahead: deque[tuple[int, int, list[Row], np.ndarray, int]] = deque()

    def jobs() -> Iterator[list]:
        for number, shard in read:
            rows = [] if number in existing else shard
            places = known.find([row.content.strip() for row in rows])
            chunks = range(0, len(rows), CHUNK)
            ahead.append((number, len(shard), rows, places, len(chunks)))
            for low in chunks:  # empty ones, too: they bound how far known molecules are read ahead
                both = zip(rows[low : low + CHUNK], places[low : low + CHUNK], strict=True)
                new = [row.content for row, place in both if _is_new(row, place)]
                yield [new, features.molecule, features.motif]

    with closing(in_workers(jobs(), described, AHEAD)) as results:
        part = next(results, None)
        while ahead:
            number, size, rows, places, count = ahead.popleft()
            parts = []
            for _ in range(count):
                assert part is not None
                parts.append(part)
                part = next(results, None)
            yield number, size, rows, _shard(rows, places, parts, model, known) if rows else None


def _is_new(row: Row, place: int) -> bool:
    """Whether a row is to be parsed."""
    return not row.refused and place == schema.NONE


def _shard(
    rows: list[Row], places: np.ndarray, parts: list[Arrays], model: Model, known: Known
) -> EncodedShard:
    """The rows of a shard: parsed ones and, at their places, known ones."""
    parsed = iter(_reasons(parts))
    reasons = [
        row.refused or (next(parsed) if _is_new(row, at) else "")
        for row, at in zip(rows, places, strict=True)
    ]
    vectors, columns = _encoded(parts, model)
    valid = places[[not reason for reason in reasons]]
    old = valid != schema.NONE
    if old.any():
        order = np.argsort(np.concatenate([np.flatnonzero(~old), np.flatnonzero(old)]))
        taken = known.take(valid[old])
        vectors = np.concatenate([vectors, taken[0]])[order]
        columns = {n: np.concatenate([columns[n], taken[1][n]])[order] for n in columns}
    return EncodedShard(reasons, vectors, columns, {}, int(old.sum()))


def _encoded(parts: list[Arrays], model: Model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vectors and COLUMNS of the molecules that were parsed, without the flags of repeats."""
    if all(_reasons(parts)):
        columns = {name: np.zeros(0, kind) for name, kind in schema.COLUMNS.items()}
        return np.zeros((0, model.encoder.width), np.float32), columns
    molecules = joined_table(parts)
    if model.vocabulary is not None:
        molecules, _ = apply_vocabulary(molecules, model.vocabulary)
    computed = [name for name in schema.COLUMNS if name not in (*REPEATS, schema.NORM)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in computed}
    encoded = model.encoder.mol_rows(molecules)
    return encoded.rows, columns | {schema.NORM: encoded.norm}


def _reasons(parts: list[Arrays]) -> list[str]:
    return [r for part in parts for r in json.loads(part["reasons"].tobytes())]


def described(worker: Worker, job: list) -> Arrays:
    """`describe_chunk` in a process; a molecule that crashes or hangs the process is skipped."""
    smiles, *settings = job
    worker.be_ready(DESCRIBE)
    with suppress(Died):
        return worker.ask(DESCRIBE, job, PATIENCE + EACH * len(smiles))
    if len(smiles) < 2:
        reasons = _packed(["crashed"] * len(smiles))
        return worker.ask(DESCRIBE, [[""], *settings]) | {"reasons": reasons}
    half = len(smiles) // 2
    parts = [described(worker, [part, *settings]) for part in (smiles[:half], smiles[half:])]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined | {"reasons": _packed(_reasons(parts))}


def _packed(reasons: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(reasons).encode(), np.uint8)


# Writing


class Seen:
    """The numbers so far: sorted arrays that are merged as they grow, 8 bytes per number."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Adds numbers; True where one was added before, in an earlier call or in this one."""
        repeated = np.ones(len(numbers), bool)
        repeated[np.unique(numbers, return_index=True)[1]] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, numbers), len(run) - 1)
            repeated |= run[place] == numbers
        if not repeated.all():
            self._runs.append(np.unique(numbers[~repeated]))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last])))
        return repeated


def _write(
    out: Path,
    number: int,
    rows: list[Row],
    encoded: EncodedShard,
    width: int,
    seen: dict[str, Seen],
    own: list[Column],
) -> None:
    """Writes one shard; skipped rows go into shard.json with their reasons."""
    first = number * SHARD
    valid = [i for i, reason in enumerate(encoded.reasons) if not reason]
    columns: dict[str, Any] = dict(encoded.columns)
    columns |= {flag: seen[flag].add(columns[column]) for flag, column in REPEATS.items()}
    columns |= {"name": [rows[i].name for i in valid]}
    columns |= {schema.CONTENT: [rows[i].content.strip() for i in valid]}
    own = [column for column in own if column.kind]
    columns |= {c.name: c.values(rows[i].own[at] for i in valid) for at, c in enumerate(own)}
    refused = [
        [rows[i].line, reason, rows[i].content[:BEGINNING]]
        for i, reason in enumerate(encoded.reasons)
        if reason
    ]
    batch = schema.Batch(first + np.array(valid, np.int64), encoded.vectors, columns)
    more = {"rows": len(rows), "refused": refused, **encoded.more}
    exact.write_shard(out, number, batch, width, more, kept(own))


def finish(out: Path, rows: int, made: int, known: int) -> BuildReport:
    """Writes refused.tsv, then the manifest, which completes the index."""
    engine = exact.ExactEngine(out)
    seals = [exact.read_seal(place) for place in exact.shard_places(out)]
    refused = [row for seal in seals for row in seal["refused"]]
    count, reasons = engine.count(), dict(Counter(reason for _, reason, _ in refused))
    if rows != count + len(refused):  # the folder is the user's, who may have cleaned up
        raise UserError(
            f"expected {rows:,} rows in the shards of {out}, got {count + len(refused):,}; some "
            "were removed during the build; run the same command again, which replaces them"
        )
    if not count and "part" not in engine.about:  # other parts may have some
        of = schema.contents(engine.about)
        one, column = ("text", "texts") if of == schema.DESCRIPTIONS else ("molecule", "SMILES")
        line, reason, value = refused[0] if refused else (1, "none", "")
        raise UserError(
            f"expected at least one {one}, got none of {rows:,} rows (skipped: {reasons}; the "
            f"first: line {line}, {reason}: {value!r}); check the file, or which column holds the "
            f"{column}"
        )
    salts, duplicates, variants = (
        count - engine.count(schema.parse_filter([switch])) for switch in schema.SWITCHES
    )
    cut = sum(seal.get("cut", 0) for seal in seals)
    shards = (len(seals), made, known)
    report = BuildReport(rows, count, salts, duplicates, variants, cut, reasons, *shards)
    lines = [f"{line}\t{reason}\t{' '.join(value.split())}" for line, reason, value in refused]
    exact.keep_text(out / REFUSED, "\n".join(["line\treason\tbeginning", *lines]) + "\n")
    account = report._asdict()
    del account["made"], account["known"]  # how the build went does not change the index
    engine.finalize(account)
    return report


@contextmanager
def room(out: Path, do: str = "make room or choose another --out") -> Iterator[None]:
    """UserError, with what to `do`, where the block cannot write to `out`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"expected to write an index to {out}, got {error} ({_free(out)} bytes are free); "
            f"{do}; complete shards are kept"
        ) from error


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder if folder.exists() else folder.parent).free:,}"
    except OSError:
        return "no"
