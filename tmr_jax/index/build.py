"""A file of molecules or texts to a library on disk: rows in, shards out (FAULTS.md F22).

Shard i is a function of rows i * SHARD to (i + 1) * SHARD of the file and of the model, nothing
else, and is moved into place whole. A build that was killed goes on at the first shard that is not
there, and ends with the bytes that an undisturbed one would have written. Processes parse ahead of
the encoder by a bounded number of molecules, so memory does not grow with the file. Texts need no
parsing: a shard of them is read and encoded.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.cache import cache_folder, cache_key
from tmr_jax.data.files import hold, open_binary, sha256_of
from tmr_jax.data.progress import progress
from tmr_jax.data.readers import SMI, Row, holds_texts, read_rows, read_texts
from tmr_jax.data.tables import apply_vocabulary, joined_table
from tmr_jax.data.workers import Arrays, Died, Worker, in_workers
from tmr_jax.index.entries import PATIENCE, digest
from tmr_jax.index.exact import (
    FORMAT,
    HEAD,
    SHARDS,
    ExactEngine,
    damage,
    keep_text,
    map_shard,
    read_head,
    read_seal,
    shard_places,
    write_shard,
)
from tmr_jax.index.index import RDKIT, DiskIndex, Model, difference, open_index
from tmr_jax.index.schema import (
    COLUMNS,
    CONTENT,
    DESCRIPTIONS,
    MOLECULES,
    NORM,
    Batch,
    IndexUnavailable,
    contents,
)
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import use_compile_cache
from tmr_jax.types import UserError

SHARD = 16_384  # rows of the file
CHUNK = 256  # rows that a process is given at once
AHEAD = 16  # chunks for each process: while one shard is encoded the next is parsed
# What a chunk has beside the patience with one molecule, in seconds for each, before its process is
# taken to hang: fifty times what most take.
EACH = 0.05
REFUSED = "refused.tsv"
DESCRIBE = "tmr_jax.index.entries:describe_chunk"
FOUND_BY = {"duplicate": "identity", "variant": "parent"}  # flags, by what came before


class Source(NamedTuple):
    """The file that a library is of."""

    path: Path
    smiles_column: str = ""
    name_column: str = ""
    text_column: str = ""

    @property
    def of(self) -> str:
        """MOLECULES or DESCRIPTIONS; ValueError where columns of both are named."""
        return DESCRIPTIONS if holds_texts(*self) else MOLECULES

    def read(self) -> Iterator[Row]:
        """Its rows; ValueError where it is missing, or has no such column."""
        if self.of == DESCRIPTIONS:
            return read_texts(self.path, self.text_column, self.name_column)
        return read_rows(self.path, self.smiles_column, self.name_column)


@dataclasses.dataclass
class BuildReport:
    """What became of the rows: rows = kept + all refused."""

    rows: int = 0
    kept: int = 0
    salts: int = 0
    duplicates: int = 0
    variants: int = 0
    cut: int = 0  # texts of which the model reads the beginning
    refused: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: int = 0
    made: int = 0  # shards of this build, the others were there


def model_of_run(run: str | Path) -> Model:
    """The best parameters of a run, to make vectors with.

    Raises ValueError where the directory is no run or has no checkpoint that is whole.
    """
    use_compile_cache(cache_folder())
    assembly, params, checkpoint = load_run(run)
    encoder = Encoder(assembly, params)
    return Model(encoder, assembly.config, assembly.vocabulary, checkpoint.sha256, str(run))


def build(
    source: Source,
    out: Path,
    model: Model,
    watch: Callable[[int, int | None], None] = lambda done, total: None,
) -> BuildReport:
    """The library of a file in the folder `out`, whatever of it is not there yet.

    `watch(rows, total)` is called after every shard, and of texts while one is encoded; the total
    is None where it is not known.

    Raises ValueError where the file cannot be read or holds no molecule or text, where `out` holds
    another library (both are named), and where there is no room; `Locked` where another build is at
    work.
    """
    if not source.path.is_file():
        next(source.read(), None)  # says what is wrong
    about = _about(source, model)
    _same_or_new(out, about)
    try:
        (out / SHARDS).mkdir(parents=True, exist_ok=True)
        with hold(out / "lock"):
            if not (out / HEAD).exists():
                ExactEngine.create(out, model.config.model.dim, about)
            _sweep(out)
            total, done, made = count_rows(source), 0, 0
            seen = {flag: Seen() for flag in FOUND_BY}
            if source.of == DESCRIPTIONS:
                shards = _texts(source, out, model, lambda some: watch(done + some, total))
            else:
                shards = _molecules(source, out, model)
            for number, size, rows, made_of in shards:
                if made_of is not None:
                    _write(out, number, rows, made_of, model.config.model.dim, seen)
                    made += 1
                else:
                    there = map_shard(out / SHARDS / f"{number:06}", model.config.model.dim)
                    for flag, by in FOUND_BY.items():
                        seen[flag].add(there.columns[by])
                done += size
                watch(done, total)
            return _finish(out, done, made)
    except OSError as error:
        raise UserError(
            f"expected to write a library to {out}, got {error} ({_free(out)} bytes are free); "
            "make room or choose another --out; the shards that are there stay"
        ) from error


def build_shown(source: Source, out: Path, model: Model) -> BuildReport:
    """`build` with a progress bar on standard error."""
    with progress() as bar:
        task = bar.add_task("encoding the index", total=None)
        return build(
            source, out, model, lambda done, total: bar.update(task, completed=done, total=total)
        )


def open_file(source: Source, model: Model) -> DiskIndex:
    """The index of a file: the first search builds it in the cache folder, the next ones open it.

    Raises ValueError where the file cannot be read or has no valid row, and where the embeddings do
    not fit on the disk.
    """
    path = source.path
    if not path.is_file():
        next(source.read(), None)  # raises the error that names what is wrong
    # What a build compares with an index that exists: the place of another one is never taken.
    columns = [source.text_column, source.name_column, source.of]
    if source.of == MOLECULES:
        columns = [source.smiles_column, source.name_column, RDKIT]
    key = [sha256_of(path), path.suffixes, model.identity, FORMAT, *columns]
    place = cache_folder() / cache_key("library", key)
    if not _is_complete(place):
        build_shown(source, place, model)
    return open_index(place, model, str(path))


def _is_complete(folder: Path) -> bool:
    if not (folder / HEAD).exists():
        return False
    try:
        engine = ExactEngine(folder)
    except IndexUnavailable:  # its shards are gone, so it is built again
        return False
    return engine.account is not None and not engine.broken


def _about(source: Source, model: Model) -> dict[str, Any]:
    of = source.of
    told = {"of": of} if of == DESCRIPTIONS else {"rdkit": RDKIT}
    return {
        "model": model.identity | {"run": model.run},
        **told,
        "shard": SHARD,
        "source": {
            "file": source.path.name,
            "sha256": sha256_of(source.path),
            "columns": [source.text_column or source.smiles_column, source.name_column],
        },
    }


def _same_or_new(out: Path, about: dict[str, Any]) -> None:
    if not (out / HEAD).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            others = out.is_dir() and {p.name for p in out.iterdir()} <= {SHARDS, "lock"}
            if not others:
                raise UserError(
                    f"expected a new or empty folder for the library, got {out}, which holds "
                    "something else; choose another --out"
                )
        return
    there = read_head(out)["about"]
    told = {"run": None}  # a run that moved is the same run
    if there | {"model": there["model"] | told} != about | {"model": about["model"] | told}:
        raise UserError(
            f"expected the library in {out} to be of the same file and model, got another one "
            f"({difference(there, about)}); choose another --out, or remove the old library"
        )


def _sweep(out: Path) -> None:
    """Removes what a killed build was writing, and shards whose content did not hold."""
    width = int(read_head(out)["width"])
    for place in (out / SHARDS).iterdir():
        if not place.name.isdigit():
            shutil.rmtree(place, ignore_errors=True)
    for place in shard_places(out):
        if damage(place, width, deep=True):
            shutil.rmtree(place)


def count_rows(source: Source) -> int | None:
    """About how many rows a file has, for a progress bar; None where only reading would tell."""
    name = source.path.name.lower().removesuffix(".gz")
    if name.endswith((".parquet", ".sdf")):
        return None
    lines = 0
    with open_binary(source.path) as raw:
        while block := raw.read(1 << 20):
            lines += block.count(b"\n")
    bare = name.endswith(SMI) or (source.of == DESCRIPTIONS and not source.text_column)
    return max(lines - (0 if bare else 1), 0)


# Parsing and encoding


class Made(NamedTuple):
    """What became of the rows of a shard."""

    reasons: list[str]  # of every row; "" of those that are kept, of which the rest is
    vectors: np.ndarray  # float32 [n, D]
    columns: dict[str, np.ndarray]  # of COLUMNS, each [n], but for flags that earlier rows decide
    more: dict[str, Any]  # for shard.json

    @property
    def kept(self) -> list[int]:
        return [i for i, reason in enumerate(self.reasons) if not reason]


# Number, size, rows and what was made of them; None of a shard that is there.
Shards = Iterator[tuple[int, int, list[Row], Made | None]]


def _texts(source: Source, out: Path, model: Model, watch: Callable[[int], None]) -> Shards:
    """Every shard in order; `watch` is told how many texts of one are encoded."""
    known = {int(place.name) for place in shard_places(out)}
    rows = source.read()
    for number in count():
        shard = list(islice(rows, SHARD))
        if not shard:
            return
        made = None if number in known else _made_of_texts(shard, model, watch)
        yield number, len(shard), shard, made


def _made_of_texts(rows: list[Row], model: Model, watch: Callable[[int], None]) -> Made:
    reasons = [row.refused for row in rows]
    texts = [row.content for row in rows if not row.refused]
    columns = {name: np.zeros(len(texts), kind) for name, kind in COLUMNS.items()}
    same = np.array([digest(" ".join(text.split())) for text in texts], np.int64)
    columns |= dict.fromkeys(FOUND_BY.values(), same)
    if not texts:
        return Made(reasons, np.zeros((0, model.config.model.dim), np.float32), columns, {"cut": 0})
    encoded, cut = model.encoder.corpus(texts, watch)
    columns[NORM] = encoded.norm
    return Made(reasons, encoded.rows, columns, {"cut": int(cut.sum())})


def _molecules(source: Source, out: Path, model: Model) -> Shards:
    """Every shard in order.

    Rows are read as far ahead as the processes parse, and rows of shards that are there are not
    held at all.
    """
    features = model.config.features
    known = {int(place.name) for place in shard_places(out)}
    ahead: deque[tuple[int, int, list[Row]]] = deque()

    def jobs() -> Iterator[list]:
        rows = source.read()
        for number in count():
            shard = list(islice(rows, SHARD))
            if not shard:
                return
            ahead.append((number, len(shard), [] if number in known else shard))
            if number in known:
                continue
            for low in range(0, len(shard), CHUNK):
                if sound := [r.content for r in shard[low : low + CHUNK] if not r.refused]:
                    yield [sound, features.molecule, features.motif]

    with closing(in_workers(jobs(), described, AHEAD)) as results:
        part = next(results, None)
        while ahead:
            number, size, rows = ahead.popleft()
            parts, missing = [], sum(not row.refused for row in rows)
            while missing:
                assert part is not None
                parts.append(part)
                missing -= len(_reasons([part]))
                part = next(results, None)
            yield number, size, rows, _made_of_molecules(rows, parts, model) if rows else None


def _made_of_molecules(rows: list[Row], parts: list[Arrays], model: Model) -> Made:
    said = iter(_reasons(parts))
    reasons = [row.refused or next(said) for row in rows]
    if all(reasons):
        columns = {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
        return Made(reasons, np.zeros((0, model.config.model.dim), np.float32), columns, {})
    molecules = joined_table(parts)
    if model.vocabulary is not None:
        molecules, _ = apply_vocabulary(molecules, model.vocabulary)
    computed = [name for name in COLUMNS if name not in (*FOUND_BY, NORM)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in computed}
    encoded = model.encoder.mol_rows(molecules)
    return Made(reasons, encoded.rows, columns | {NORM: encoded.norm}, {})


def _reasons(parts: list[Arrays]) -> list[str]:
    return [r for part in parts for r in json.loads(part["reasons"].tobytes())]


def described(worker: Worker, job: list) -> Arrays:
    """`describe_chunk` in a process; a molecule that ends the process, or hangs it, is refused."""
    smiles, *settings = job
    worker.be_ready(DESCRIBE)
    with suppress(Died):
        return worker.ask(DESCRIBE, job, PATIENCE + EACH * len(smiles))
    if len(smiles) == 1:
        return worker.ask(DESCRIBE, [[""], *settings]) | {"reasons": _packed(["crashed"])}
    half = len(smiles) // 2
    parts = [described(worker, [part, *settings]) for part in (smiles[:half], smiles[half:])]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined | {"reasons": _packed(_reasons(parts))}


def _packed(reasons: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(reasons).encode(), np.uint8)


# Writing


class Seen:
    """Which numbers came before: sorted arrays that are merged as they grow, 8 bytes a number."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Adds them; True where a number came before, in an earlier call or in this one."""
        repeated = np.ones(len(numbers), bool)
        repeated[np.unique(numbers, return_index=True)[1]] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, numbers), len(run) - 1)
            repeated |= run[place] == numbers
        if new := np.unique(numbers[~repeated]).tolist():
            self._runs.append(np.array(new, np.int64))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last])))
        return repeated


def _write(
    out: Path,
    number: int,
    rows: list[Row],
    made: Made,
    width: int,
    seen: dict[str, Seen],
) -> None:
    """Writes one shard; what is refused goes into shard.json with its reason."""
    kept, first = made.kept, number * SHARD
    columns: dict[str, Any] = dict(made.columns)
    columns |= {flag: seen[flag].add(columns[by]) for flag, by in FOUND_BY.items()}
    columns |= {"name": [rows[i].name for i in kept]}
    columns |= {CONTENT: [rows[i].content.strip() for i in kept]}
    refused = [[first + i + 1, r, rows[i].content[:80]] for i, r in enumerate(made.reasons) if r]
    batch = Batch(first + np.array(kept, np.int64), made.vectors, columns)
    told = {"rows": len(rows), "refused": refused, **made.more}
    write_shard(out, number, batch, width, told)


def _finish(out: Path, rows: int, made: int) -> BuildReport:
    """Writes refused.tsv, then the seal of the whole."""
    width = int(read_head(out)["width"])
    account = BuildReport(rows=rows, made=made)
    lines = ["row\treason\tbeginning"]
    for place in shard_places(out):
        seal, shard = read_seal(place), map_shard(place, width)
        account.kept += seal["count"]
        account.salts += int(shard.columns["salt"].sum())
        account.duplicates += int(shard.columns["duplicate"].sum())
        account.variants += int(shard.columns["variant"].sum())
        account.cut += seal.get("cut", 0)
        for row, reason, value in seal["refused"]:
            account.refused[reason] = account.refused.get(reason, 0) + 1
            lines.append(f"{row}\t{reason}\t{' '.join(value.split())}")
        account.shards += 1
    if not account.kept:
        of = contents(read_head(out)["about"])
        one, column = ("text", "texts") if of == DESCRIPTIONS else ("molecule", "SMILES")
        raise UserError(
            f"expected at least one {one}, got none of {account.rows:,} rows "
            f"(refused: {account.refused}); check which column holds the {column}"
        )
    keep_text(out / REFUSED, "\n".join(lines) + "\n")
    whole = dataclasses.asdict(account)
    del whole["made"]  # how often the build was stopped is no part of what it made
    ExactEngine(out).finalize(whole)
    return account


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder if folder.exists() else folder.parent).free:,}"
    except OSError:
        return "no"
