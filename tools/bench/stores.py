"""Engines compared on one index: python -m tools.bench.stores --rows 1000000 --width 300

Builds an index of that many rows (those of --library first, then generated ones between them),
copies it into each engine with `tmr index copy`, and prints one table: seconds and peak memory of
the copy, size, seconds to open, p50 and p95 of single queries, and recall@10 against `exact`,
without a filter and with filters that 10 % and 1 % of the rows meet. Encoding the text of a query
is not included.

Each figure is written to results.json at once; run the same command to resume. Use an idle machine.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from tmr_jax.data.files import write_text
from tmr_jax.index.exact import MANIFEST, ExactEngine, is_accelerated
from tmr_jax.index.index import open_engine
from tmr_jax.index.schema import COLUMNS, TEXTS, Batch, Condition, Filter
from tmr_jax.models.encode import l2_normalize
from tools.bench.common import recall, seconds, table_row, watched, workplace

BLOCK = 16_384  # rows of a shard
WARM = 5  # queries before the clock runs
K = 10
SHARES = {"none": 1.0, "10 %": 0.1, "1 %": 0.01}
PLACES = {"exact": "exact:{}", "lance": "lance:{}", "milvus": "milvus:{}.db"}
Engine = Literal["exact", "lance", "milvus"]


@dataclass(frozen=True)
class Arguments:
    rows: int = 20_000
    width: int = 300
    """Of generated rows; rows of --library have their own."""
    engines: tuple[Engine, ...] = ("exact", "lance", "milvus")
    """exact is always measured, for recall."""
    library: Path | None = None
    """A folder built by tmr index: its rows come first; generated rows lie between them and have
    the SMILES of one of them. The run that built it can search the result."""
    queries: Path | None = None
    """A .npy file of vectors, e.g. from retriever.encode_text; without it, generated rows."""
    asked: int = 200
    """Number of queries."""
    folder: Path | None = None
    """Working folder; without it a temporary one that is removed."""
    seed: int = 0


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__)
    with workplace(args.folder, "stores") as folder:
        bench(args, folder)


def bench(args: Arguments, folder: Path) -> None:
    results = Results(folder / "results.json", args)
    origin, queries = folder / "origin", folder / "queries.npy"
    if not (origin / MANIFEST).is_file():
        shutil.rmtree(origin, ignore_errors=True)
        make(args, origin, queries)
    for engine in dict.fromkeys(("exact", *args.engines)):
        place = PLACES[engine].format(folder / engine)
        if "build" not in results.of(engine):
            remove(place)
            build, memory, printed = watched(
                "tmr_jax.index", "copy", str(origin), place, kind="Pss_Anon"
            )
            sha256 = printed.split("SHA-256 ")[1].strip(" )\n")
            results.add(
                engine, build=build, memory=max(memory), sha256=sha256, disk=disk_gib(place)
            )
        if "open" not in results.of(engine):
            results.add(engine, **measured(place, queries, origin))
        print(results.table(), flush=True)


class Results:
    """Figures of this and earlier runs, on disk after each of them."""

    def __init__(self, path: Path, args: Arguments) -> None:
        self._path = path
        settings = {k: str(v) for k, v in asdict(args).items() if k not in ("engines", "folder")}
        self._all: dict[str, Any] = {"settings": settings, "engines": {}}
        if path.is_file():
            earlier = json.loads(path.read_text())
            if earlier["settings"] != settings:
                raise ValueError(
                    f"expected results of {settings} in {path}; got {earlier['settings']}; choose "
                    "another --folder"
                )
            self._all = earlier

    def of(self, engine: str) -> dict[str, Any]:
        return self._all["engines"].get(engine, {})

    def add(self, engine: str, **figures: Any) -> None:
        self._all["engines"].setdefault(engine, {}).update(figures)
        write_text(self._path, json.dumps(self._all, indent=1))

    def table(self) -> str:
        """Markdown; the number in brackets is the ratio to exact."""
        filters = [f"{name}: p50, p95 ms, recall@{K}" for name in SHARES]
        heads = ["engine", "copy s", "peak GiB", "disk GiB", "open s", *filters]
        command = shlex.join(["python", *sys.argv])
        lines = [f"`{command}`", "", table_row(heads), table_row(["---"] * len(heads))]
        truth = self.of("exact")
        for engine, figures in self._all["engines"].items():
            cells = [engine, against(figures["build"], truth["build"])]
            cells += [f"{figures['memory']:.2f}", f"{figures['disk']:.2f}"]
            cells.append(f"{figures['open']:.2f}" if "open" in figures else "")
            for name in SHARES if "open" in figures else ():
                p50_95 = (np.percentile(f["ms"][name], [50, 95]) for f in (figures, truth))
                shown = ", ".join(against(a, b) for a, b in zip(*p50_95, strict=True))
                share = recall(figures["scores"][name], truth["scores"][name])
                cells.append(f"{shown}, {share:.3f}")
            lines.append(table_row(cells + [""] * (len(heads) - len(cells))))
        return "\n".join(lines) + "\n"


def against(value: float, exact: float) -> str:
    return f"{value:.1f} ({value / exact:.2f})"


# The index


def make(args: Arguments, origin: Path, queries: Path) -> None:
    """Writes the index and the queries."""
    rng = np.random.default_rng(args.seed)
    real = seeds(args, rng)
    width = real.vectors.shape[1]
    about = {} if args.library is None else ExactEngine(args.library).about
    # Beyond `real` rows no model made the vectors.
    about |= {"of": "tools/bench/stores.py", "real": 0 if args.library is None else len(real.ids)}
    store = ExactEngine.create(origin, width, about)
    for low in range(0, args.rows, BLOCK):
        high = min(args.rows, low + BLOCK)
        store.upsert(block(real, low, high, rng))
    store.finalize({"rows": args.rows, "kept": args.rows, "refused": {}})
    if args.queries is not None:
        queried = np.load(args.queries, allow_pickle=False)[: args.asked]
    else:
        queried = between(real.vectors, rng.integers(0, len(real.ids), args.asked), rng)
    np.save(queries, queried.astype(np.float32))


def seeds(args: Arguments, rng: np.random.Generator) -> Batch:
    """Rows that the others are generated from: real ones, or random ones."""
    if args.library is None:
        return drawn(min(args.rows, BLOCK), args.width, rng)
    store = ExactEngine(args.library)
    count = min(store.count(), args.rows)
    # Filled in parts, so that no row is in memory twice.
    ids, vectors = np.zeros(count, np.int64), np.zeros((count, store.width), np.float32)
    columns: dict[str, Any] = {name: np.zeros(count, kind) for name, kind in COLUMNS.items()}
    columns |= {name: [] for name in TEXTS}
    for low, part in zip(range(0, count, BLOCK), store.batches(BLOCK), strict=False):
        rows = slice(low, min(low + BLOCK, count))
        size = rows.stop - low
        ids[rows], vectors[rows] = part.ids[:size], part.vectors[:size]
        for name in COLUMNS:
            columns[name][rows] = part.columns[name][:size]
        for name in TEXTS:
            columns[name] += part.columns[name][:size]
    return Batch(ids, vectors, columns)


def drawn(count: int, width: int, rng: np.random.Generator) -> Batch:
    """Clusters of different sizes in few directions, as encoders produce; weights follow them."""
    inner = min(32, width)
    centres, scale = rng.normal(size=(200, inner)), np.linspace(1.5, 0.3, inner)
    which = rng.choice(200, count, p=rng.dirichlet(np.full(200, 0.5)))
    low = (centres[which] + 0.5 * rng.normal(size=(count, inner))) * scale
    vectors = low @ rng.normal(size=(inner, width)) + 0.1 * rng.normal(size=(count, width))
    columns: dict[str, Any] = {name: np.zeros(count, kind) for name, kind in COLUMNS.items()}
    columns["mw"] = (300 + 80 * centres[which, 0] + 40 * rng.normal(size=count)).astype(np.float32)
    columns["name"] = [f"drawn-{i}" for i in range(count)]
    columns["smiles"] = ["C" * int(length) for length in rng.integers(10, 80, count)]
    return Batch(np.arange(count), l2_normalize(vectors), columns)


def block(real: Batch, low: int, high: int, rng: np.random.Generator) -> Batch:
    """Rows low to high of the index: real ones, then generated ones."""
    numbers = np.arange(low, high)
    base = np.where(numbers < len(real.ids), numbers, rng.integers(0, len(real.ids), len(numbers)))
    vectors = between(real.vectors, base, rng)
    is_real = numbers < len(real.ids)
    vectors[is_real] = real.vectors[base[is_real]]
    columns: dict[str, Any] = {name: real.columns[name][base] for name in COLUMNS}
    columns |= {name: [real.columns[name][i] for i in base.tolist()] for name in TEXTS}
    return Batch(numbers, vectors, columns)


def between(rows: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each base row, moved along the difference of two others: this keeps the spectrum."""
    b = rng.integers(0, len(rows), len(base))
    c = (b + rng.integers(1, len(rows), len(base))) % len(rows)  # another one
    part = rng.uniform(0.05, 0.5, (len(base), 1)).astype(np.float32)
    return l2_normalize(rows[base] + part * (rows[b] - rows[c]))


# Measurements


def measured(place: str, queries: Path, origin: Path) -> dict[str, Any]:
    """Figures of `ask` from a separate process."""
    weights = np.concatenate([b.columns["mw"] for b in ExactEngine(origin).batches(BLOCK)])
    limits = [None if share == 1 else np.quantile(weights, share) for share in SHARES.values()]
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(ask, place, queries, limits).result()


def ask(place: str, queries: Path, limits: Sequence[float | None]) -> dict[str, Any]:
    """Opens an index and times each query on its own, for each limit of the weight."""
    rows = np.load(queries, allow_pickle=False)
    import_module(f"tmr_jax.index.{place.split(':')[0]}")  # imports are not part of opening
    is_accelerated()
    start = time.perf_counter()
    store = open_engine(place)
    store.search(rows[:1], K)
    opened = time.perf_counter() - start
    times: dict[str, list[float]] = {}
    scores: dict[str, list[list[float]]] = {}
    for name, limit in zip(SHARES, limits, strict=True):
        where = None if limit is None else Filter((Condition("mw", "<", float(limit)),))
        found: list[list[float]] = []

        def search(row: np.ndarray, where=where, found=found) -> None:
            found.append(store.search(row[None], K, where).scores[0].tolist())

        for row in rows[:WARM]:
            search(row)
        found.clear()
        times[name] = [1000 * seconds(lambda row=row: search(row)) for row in rows]
        scores[name] = found
    store.close()
    return {"open": opened, "ms": times, "scores": scores}


def disk_gib(place: str) -> float:
    path = Path(place.split(":", 1)[1])
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**30


def remove(place: str) -> None:
    path = Path(place.split(":", 1)[1])
    shutil.rmtree(path, ignore_errors=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
