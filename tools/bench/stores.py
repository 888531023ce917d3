"""Engines of libraries beside one another: python -m tools.bench.stores --rows 1000000 --width 300

Makes a library of so many rows (the real ones of --library first, then what lies between them),
takes it into each engine by `tmr index copy` as a user would, and prints as one table: seconds and
peak memory of the copy with its index, size, seconds to open, p50 and p95 of single queries and
recall@10 against `exact`, without a filter and with those that 10 % and 1 % of the rows meet. Then
each copy is made once more, killed (SIGKILL) on the way and gone on with, and must hold the same.
Encoding the text of a query is not in these times.

Every figure is written to results.json as it is found, and a run that was stopped goes on by the
same words. Take a quiet machine.
"""

from __future__ import annotations

import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from tmr_jax.index import scan
from tmr_jax.index.exact import MANIFEST, ExactEngine
from tmr_jax.index.open import open_engine
from tmr_jax.index.schema import COLUMNS, TEXTS, Batch, Condition, Filter

LOOK = 0.2  # seconds between looks at the memory
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
    """Of generated rows; --library has its own."""
    engines: tuple[Engine, ...] = ("exact", "lance", "milvus")
    """exact is measured in any case: recall is against it."""
    library: Path | None = None
    """A folder that tmr index made: its rows come first, the others lie between them and have the
    SMILES of one of them. The run that made it searches what is made of it, too."""
    queries: Path | None = None
    """A .npy file of vectors, e.g. by retriever.encode_text; without it, rows like these."""
    asked: int = 200
    """How many queries."""
    kill: bool = True
    folder: Path | None = None
    """Where it is all made; without it a temporary folder that is removed."""
    seed: int = 0


@dataclass(frozen=True)
class Ask:
    """What a process of its own measures of one engine."""

    place: str
    queries: Path
    limits: tuple[float, ...]
    out: Path


def main() -> None:
    if sys.argv[1:2] == ["ask"]:
        ask(tyro.cli(Ask, args=sys.argv[2:]))
        return
    told = tyro.cli(Arguments)
    folder = told.folder or Path(tempfile.mkdtemp(prefix="bench_stores-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bench(told, folder)
    finally:
        if told.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def bench(told: Arguments, folder: Path) -> None:
    results = Results(folder / "results.json", told)
    origin, queries = folder / "origin", folder / "queries.npy"
    if not (origin / MANIFEST).is_file():
        shutil.rmtree(origin, ignore_errors=True)
        make(told, origin, queries)
    for engine in dict.fromkeys(("exact", *told.engines)):
        place = PLACES[engine].format(folder / engine)
        if "build" not in results.of(engine):
            remove(place)
            seconds, memory, sha256 = copied(origin, place)
            results.add(engine, build=seconds, memory=memory, sha256=sha256, disk=size(place))
        if "open" not in results.of(engine):
            results.add(engine, **measured(place, queries, origin, folder / "asked.json"))
        if told.kill and "again" not in results.of(engine):
            place = PLACES[engine].format(folder / f"{engine}-killed")
            results.add(engine, **killed(told, origin, place, results.of(engine)))
            remove(place)
        print(results.table(), flush=True)


class Results:
    """What was found so far, on disk after every figure."""

    def __init__(self, path: Path, told: Arguments) -> None:
        self._path = path
        words = {k: str(v) for k, v in asdict(told).items() if k not in ("engines", "folder")}
        self._all: dict[str, Any] = {"settings": words, "engines": {}}
        if path.is_file():
            there = json.loads(path.read_text())
            if there["settings"] != words:
                raise ValueError(
                    f"expected results of {words} in {path}, got {there['settings']}; choose "
                    "another --folder"
                )
            self._all = there

    def of(self, engine: str) -> dict[str, Any]:
        return self._all["engines"].get(engine, {})

    def add(self, engine: str, **found: Any) -> None:
        self._all["engines"].setdefault(engine, {}).update(found)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._all, indent=1))
        part.replace(self._path)

    def table(self) -> str:
        """Markdown; behind a time, in brackets, what it is to that of exact."""
        filters = [f"{name}: p50, p95 ms, recall@{K}" for name in SHARES]
        heads = ["engine", "copy s", "peak GiB", "disk GiB", "open s", *filters, "after a kill"]
        lines = [
            f"`{shlex.join(['python', *sys.argv])}`",
            "",
            row(heads),
            row(["---"] * len(heads)),
        ]
        truth = self.of("exact")
        for engine, found in self._all["engines"].items():
            cells = [engine, against(found["build"], truth["build"], 1)]
            cells += [f"{found['memory']:.2f}", f"{found['disk']:.2f}"]
            cells.append(f"{found['open']:.2f}" if "open" in found else "")
            for name in SHARES if "open" in found else ():
                times, exact = (np.array(f["ms"][name]) for f in (found, truth))
                p50, p95 = np.percentile(times, [50, 95]), np.percentile(exact, [50, 95])
                shown = ", ".join(against(a, b, 1) for a, b in zip(p50, p95, strict=True))
                cells.append(f"{shown}, {recall(found['scores'][name], truth['scores'][name]):.3f}")
            cells += [""] * (len(heads) - 1 - len(cells)) + [found.get("again", "")]
            lines.append(row(cells))
        return "\n".join(lines) + "\n"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def against(value: float, exact: float, digits: int) -> str:
    return f"{value:.{digits}f} ({value / exact:.2f})"


def recall(found: list[list[float]], right: list[list[float]]) -> float:
    """Which share of the places are as good as they can be: equals are as good as one another."""
    mine, theirs = np.array(found), np.array(right)
    return float((mine >= theirs.min(axis=1, keepdims=True) - 1e-6).mean())


# The library


def make(told: Arguments, origin: Path, queries: Path) -> None:
    """Writes the library, and the queries."""
    rng = np.random.default_rng(told.seed)
    real = seeds(told, rng)
    width = real.vectors.shape[1]
    about = {} if told.library is None else ExactEngine(told.library).about
    # A library of molecules says so itself; beyond `real` the vectors are nobody's.
    about |= {"of": "tools/bench/stores.py", "real": 0 if told.library is None else len(real.ids)}
    store = ExactEngine.create(origin, width, about)
    for low in range(0, told.rows, BLOCK):
        high = min(told.rows, low + BLOCK)
        store.upsert(block(real, low, high, rng))
    store.finalize({"rows": told.rows, "kept": told.rows, "refused": {}})
    if told.queries is not None:
        asked = np.load(told.queries, allow_pickle=False)[: told.asked]
    else:
        asked = between(real.vectors, rng.integers(0, len(real.ids), told.asked), rng)
    np.save(queries, asked.astype(np.float32))


def seeds(told: Arguments, rng: np.random.Generator) -> Batch:
    """The rows that all others lie between: real ones, or drawn."""
    if told.library is None:
        return drawn(min(told.rows, BLOCK), told.width, rng)
    store = ExactEngine(told.library)
    count = min(store.count(), told.rows)
    # Filled part by part: no row is in memory twice.
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
    """Clusters of unlike sizes in few directions, as encoders leave them; weights go with them."""
    inner = min(32, width)
    centres, scale = rng.normal(size=(200, inner)), np.linspace(1.5, 0.3, inner)
    which = rng.choice(200, count, p=rng.dirichlet(np.full(200, 0.5)))
    low = (centres[which] + 0.5 * rng.normal(size=(count, inner))) * scale
    vectors = low @ rng.normal(size=(inner, width)) + 0.1 * rng.normal(size=(count, width))
    columns: dict[str, Any] = {name: np.zeros(count, kind) for name, kind in COLUMNS.items()}
    columns["mw"] = (300 + 80 * centres[which, 0] + 40 * rng.normal(size=count)).astype(np.float32)
    columns["name"] = [f"drawn-{i}" for i in range(count)]
    columns["smiles"] = ["C" * int(length) for length in rng.integers(10, 80, count)]
    return Batch(np.arange(count), unit(vectors), columns)


def block(real: Batch, low: int, high: int, rng: np.random.Generator) -> Batch:
    """Rows low to high of the library: those that are real, then ones like them."""
    numbers = np.arange(low, high)
    base = np.where(numbers < len(real.ids), numbers, rng.integers(0, len(real.ids), len(numbers)))
    vectors = between(real.vectors, base, rng)
    is_real = numbers < len(real.ids)
    vectors[is_real] = real.vectors[base[is_real]]
    columns: dict[str, Any] = {name: real.columns[name][base] for name in COLUMNS}
    columns |= {name: [real.columns[name][i] for i in base.tolist()] for name in TEXTS}
    return Batch(numbers, vectors, columns)


def between(rows: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each base row moved by a part of the way between two others: the same spectrum as theirs."""
    b = rng.integers(0, len(rows), len(base))
    c = (b + rng.integers(1, len(rows), len(base))) % len(rows)  # another one
    part = rng.uniform(0.05, 0.5, (len(base), 1)).astype(np.float32)
    return unit(rows[base] + part * (rows[b] - rows[c]))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# What is measured


def start(origin: Path, place: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tmr_jax.index", "copy", str(origin), place]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def copied(origin: Path, place: str) -> tuple[float, float, str]:
    """Seconds, peak memory in GiB and the hash of the content."""
    before = time.perf_counter()
    process, memory = start(origin, place), 0.0
    while process.poll() is None:
        memory = max(memory, resident(process.pid))
        time.sleep(LOOK)
    said, _ = process.communicate()
    assert process.returncode == 0, f"tmr index copy ended with {process.returncode}: {said}"
    return time.perf_counter() - before, memory, said.split("SHA-256 ")[1].strip(" )\n")


def resident(pid: int) -> float:
    """GiB that a process holds by itself: pages of mapped files can be dropped at any time."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 2**20


def measured(place: str, queries: Path, origin: Path, out: Path) -> dict[str, Any]:
    """What `ask` finds in a process of its own."""
    weights = np.concatenate([b.columns["mw"] for b in ExactEngine(origin).batches(BLOCK)])
    limits = [
        np.inf if share == 1 else float(np.quantile(weights, share)) for share in SHARES.values()
    ]
    words = ["--place", place, "--queries", str(queries), "--out", str(out)]
    words += ["--limits", *map(str, limits)]
    subprocess.run([sys.executable, "-m", "tools.bench.stores", "ask", *words], check=True)
    return json.loads(out.read_text())


def ask(told: Ask) -> None:
    """Opens a library, times each query by itself, and writes what was found."""
    queries = np.load(told.queries, allow_pickle=False)
    # What imports take is no opening.
    import_module(f"tmr_jax.index.{told.place.split(':')[0]}")
    scan.pays()
    before = time.perf_counter()
    store = open_engine(told.place)
    store.search(queries[:1], K)
    opened = time.perf_counter() - before
    times: dict[str, list[float]] = {}
    scores: dict[str, list[list[float]]] = {}
    for name, limit in zip(SHARES, told.limits, strict=True):
        where = None if np.isinf(limit) else Filter((Condition("mw", "<", limit),))
        for query in queries[:WARM]:
            store.search(query[None], K, where)
        times[name], scores[name] = [], []
        for query in queries:
            before = time.perf_counter()
            found = store.search(query[None], K, where)
            times[name].append(1000 * (time.perf_counter() - before))
            scores[name].append(found.scores[0].tolist())
    store.close()
    told.out.write_text(json.dumps({"open": opened, "ms": times, "scores": scores}))


def killed(told: Arguments, origin: Path, place: str, whole: dict[str, Any]) -> dict[str, Any]:
    """A copy that is killed at a random moment and begun again holds the same."""
    remove(place)
    after = whole["build"] * random.Random(told.seed).uniform(0.2, 0.9)
    process = start(origin, place)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seconds, _, sha256 = copied(origin, place)
    assert sha256 == whole["sha256"], f"{sha256} is not {whole['sha256']}"
    return {"again": f"the same, {seconds:.1f} s more after {after:.1f} s"}


def files(place: str) -> Iterator[Path]:
    path = Path(place.split(":", 1)[1])
    yield from path.rglob("*") if path.is_dir() else [path]


def size(place: str) -> float:
    """GiB on disk."""
    return sum(p.stat().st_size for p in files(place) if p.is_file()) / 2**30


def remove(place: str) -> None:
    path = Path(place.split(":", 1)[1])
    shutil.rmtree(path, ignore_errors=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
