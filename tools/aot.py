"""Compile the project's programs for TPUs and GPUs that you do not have.

    make aot                                                # the headline set, listed first
    make aot ARGS="--programs 'difftmr*' --targets v5e --batches 512 --top 30"
    make aot ARGS="--programs difftmr-scibert-512 --set model.hdan.objective=random_step"
    make aot ARGS=--all                                     # everything; resumes an interrupted run
    make aot-check                                          # three small programs and their budgets
    make aot VENV=.venv-aot-gpu EXTRAS=aot-gpu ARGS="--targets h100"

XLA compiles each program ahead of time from shapes alone. The report: whether it fits, memory,
operations, the compiler's estimate of cycles, a surcharge for operations without an estimate
(tools/aot_hlo.py), loops, copies, sorts, collectives, size of the code. Estimate and surcharge
compare two forms of a program; they are not measured speed, because nothing runs. For GPUs there is
no estimate, only memory and the number of launches.

Numbers go to experiments/curves/aot.json and are compared with those stored before, unless --set
changes the experiment. Cycles are comparable within one version of libtpu only.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

# What jax must find before it is imported; a test that has imported it already changes nothing.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # for the few real arrays; targets need no platform
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask Google's metadata server what this machine is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process would fail on a lock file
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # this and the next only silence warnings
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # else the text of a kernel has line numbers in it
}
if "jax" not in sys.modules:
    os.environ.update(ENVIRONMENT)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402

from tmr_jax.config import Experiment  # noqa: E402
from tmr_jax.data.files import write_text  # noqa: E402
from tmr_jax.models.runtime import describe_code  # noqa: E402
from tools import aot_hlo, aot_jaxpr, aot_work  # noqa: E402
from tools.aot_work import GIB, Spec  # noqa: E402
from tools.bench.common import altered  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "experiments" / "curves" / "aot.json"
PINS = {"jax": "0.12.0.1", "libtpu": "0.0.50.1"}  # of the extra `aot`
GROWTH = 1.05  # of estimate and surcharge, at most, of a checked program
ABOVE = 64  # MB of a copy that is reported
AT_ONCE = 2  # compilers; each takes 2 to 3 GB and more than one core
MISSING = {
    "tpu": "libtpu is not installed: make setup VENV=.venv-aot EXTRAS=aot",
    "cuda": "the GPU wheels are not installed: make setup VENV=.venv-aot-gpu EXTRAS=aot-gpu",
}


@dataclass(frozen=True)
class Arguments:
    programs: tuple[str, ...] = ()
    """Names, or patterns of them, such as 'difftmr*'; without: the headline set."""
    targets: tuple[str, ...] = ()
    """v5e, v6e, v5p, v4, tpu7x, h100."""
    devices: tuple[int, ...] = ()
    """How many share a step, such as 1 4 8."""
    batches: tuple[int, ...] = ()
    layers: int = 0
    """Of BERT; 0: all. Fewer compile faster."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A setting of the experiment, such as train.backward=autodiff; nothing is stored then."""
    all: bool = False
    """All programs, except those stored with the same versions and code, or the same text: what a
    program is before it is compiled."""
    check: bool = False
    """The small programs and their budgets; exit status 1 if one is exceeded."""
    accept: bool = False
    """With --check: stores the results as the new budgets."""
    top: int = 12
    """Number of operations listed."""
    keep: Path | None = None
    """Folder for the text of compiled programs."""
    out: Path = STORED


class Job(NamedTuple):
    spec: Spec
    target: str
    devices: int = 1
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join([self.spec.name, f"{self.devices}x{self.target}", *self.settings])


# What is compiled

STEP = Spec("difftmr", batch=512)
HEADLINE = (
    *(Job(STEP, target) for target in ("v5e", "v6e", "h100")),
    *(Job(STEP._replace(kind="difftmr_random"), target) for target in ("v5e", "v6e")),
    *(Job(STEP._replace(batch=32), target) for target in ("v5e", "h100")),
    Job(STEP._replace(kind="difftmr_random", batch=32), "v5e"),
    Job(STEP._replace(batch=4096, chunk=aot_work.CHUNK), "v5e"),
    *(Job(STEP._replace(kind="mbank"), target) for target in ("v5e", "v6e")),
    Job(STEP._replace(kind="dual"), "v5e"),
    Job(STEP._replace(size="minilm"), "v5e"),
    Job(STEP, "v5e", 8),
    *(Job(Spec(kind), "v5e") for kind in aot_work.OTHERS),
    *(Job(Spec(kind), "v6e") for kind in ("encode_text", "encode_mol")),
)
CHECKED = tuple(  # both models and three targets in three programs: CI has three minutes for them
    Job(Spec(kind, batch=64, layers=2), target)
    for kind, target in (("difftmr", "v5e"), ("mbank", "v6e"), ("difftmr", "v4"))
)


def jobs_of(a: Arguments) -> list[Job]:
    """What the options select, or ValueError."""
    unknown = sorted({*a.targets} - {*aot_work.TARGETS})
    if unknown:
        raise ValueError(f"unknown target {unknown[0]}; known: {', '.join(aot_work.TARGETS)}")
    if a.check:
        found = [*CHECKED]
    elif a.all:
        found = everything()
    elif a.programs or a.layers or a.set or a.batches or a.devices:
        targets, counts = a.targets or ("v5e", "v6e"), a.devices or (1,)
        specs = [s for s in aot_work.product() if _named(s, a)]
        found = [Job(s, t, n) for s in specs for t in targets for n in counts if _divides(s, n)]
    else:
        found = [*HEADLINE]
    found = [
        Job(job.spec._replace(layers=a.layers or job.spec.layers), *job[1:3], a.set)
        for job in found
        if not a.targets or job.target in a.targets
    ]
    if not found:
        raise ValueError(f"no such program; known: {', '.join(s.name for s in aot_work.product())}")
    return found


def _named(spec: Spec, a: Arguments) -> bool:
    named = not a.programs or any(fnmatch.fnmatch(spec.name, p) for p in a.programs)
    return named and (not a.batches or spec.batch in a.batches)


def _divides(spec: Spec, devices: int) -> bool:
    return devices == 1 or spec.trains or spec.kind == "rank"


def everything() -> list[Job]:
    """Each program for each target, and the large steps shared by 4 and 8 devices. The objective
    of one random step is a setting of DiffTMR, in the headline set alone."""
    kinds = [kind for kind in aot_work.TRAINED if kind != "difftmr_random"]
    specs = [s for s in aot_work.product() if s.kind in (*kinds, *aot_work.OTHERS)]
    single = [Job(spec, target) for target in aot_work.TARGETS for spec in specs]
    large = [Spec(kind, batch=512) for kind in kinds]
    tpus = [t for t in aot_work.TARGETS if t != "h100"]
    return single + [Job(spec, t, n) for t in tpus for spec in large for n in (4, 8)]


def changed(settings: tuple[str, ...]) -> Callable[[Experiment], Experiment]:
    """The experiment with dotted settings, each read as what its default is; ValueError for one
    that it does not have."""

    def change(config: Experiment) -> Experiment:
        for setting in settings:
            path, equals, value = setting.partition("=")
            try:
                now = functools.reduce(getattr, path.split("."), config)
                config = altered(config, {path: _read(value, now)} if equals else {"": ""})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"expected --set section.name=value of the experiment; got {setting} ({error})"
                ) from error
        return config

    return change


def _read(value: str, now: Any) -> Any:
    if isinstance(now, bool):
        return {"true": True, "false": False}[value.lower()]
    if isinstance(now, tuple):
        return [_read(part, now[0] if now else "") for part in value.split(",") if part]
    return type(now)(value) if isinstance(now, (int, float)) else value


# One program


PREPARING = threading.Lock()  # tracing has global state: only compilers run in parallel


class Lowered(NamedTuple):
    piece: aot_work.Piece
    lowered: Any
    tflop: float
    kernels: list[aot_jaxpr.Kernel]


def compiled(job: Job, a: Arguments, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that is stored of a program; with --all `before` where its text is the same."""
    with PREPARING:
        start = time.perf_counter()
        program = aot_work.built(job.spec, job.target, job.devices, changed(job.settings))
        lowered = [_lowered(piece) for piece in program.pieces]
        prepared = time.perf_counter() - start
    text = text_hash(lowered)
    if a.all and before is not None and same(before, versions() | {"text": text}):
        return dict(before)
    print(f"compiling {job.key} ({program.shape}), lowered in {prepared:.0f} s", flush=True)
    name = job.key.replace(" ", "_")
    pieces = [_piece(one, job.target, a, f"{name}-{n}") for n, one in enumerate(lowered)]
    found = together(pieces) | {"items": program.items, "shape": program.shape}
    if program.useful and found.get("sum_ms"):
        least = program.useful / aot_work.TARGETS[job.target].peak / job.devices * 1e3
        found["of_peak"] = [least / found[name] for name in ("estimate_ms", "sum_ms")]
    return found | {"text": text, "prepared_s": prepared}


def _lowered(piece: aot_work.Piece) -> Lowered:
    traced = piece.jitted.trace(*piece.arguments)
    tflop = aot_jaxpr.counted(traced.jaxpr).matrix / 1e12 * piece.share
    return Lowered(piece, traced.lower(), tflop, aot_jaxpr.kernels_of(traced.jaxpr))


def _piece(one: Lowered, target: str, a: Arguments, name: str) -> dict[str, Any]:
    start = time.perf_counter()
    found: dict[str, Any] = {"piece": one.piece.name, "tflop": one.tflop}
    try:
        program = one.piece.compiled(one.lowered, aot_work.backend_of(target))
    except jax.errors.JaxRuntimeError as error:
        return found | refused(str(error)) | {"compile_s": time.perf_counter() - start}
    found |= _memory(program) | {"compile_s": time.perf_counter() - start, "fits": True}
    text = program.as_text()
    if a.keep is not None:
        a.keep.mkdir(parents=True, exist_ok=True)
        (a.keep / f"{name}-{one.piece.name}.hlo").write_text(text)
    unknown: set[str] = set()
    kernels = aot_jaxpr.lookup(one.kernels, unknown)
    speeds, share = aot_work.TARGETS[target].speeds, one.piece.share
    found |= aot_hlo.summary(aot_hlo.parse(text), speeds, kernels, ABOVE, a.top, share)
    return found | ({"unknown_kernels": sorted(unknown)} if unknown else {})


def _memory(program: Any) -> dict[str, float]:
    m = program.memory_analysis()
    held = m.argument_size_in_bytes + m.temp_size_in_bytes
    peak = getattr(m, "peak_memory_in_bytes", 0) or held
    return {
        "hbm_gib": peak / GIB,
        "arguments_gib": m.argument_size_in_bytes / GIB,
        "temporaries_gib": m.temp_size_in_bytes / GIB,
        "code_mib": m.generated_code_size_in_bytes / 2**20,
    }


def refused(error: str) -> dict[str, Any]:
    """A program that does not fit, with the numbers the compiler gives; or that is no program."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])", error)
    said = " ".join(error.replace(f"{ROOT}/", "").split())[:300]
    found: dict[str, Any] = {"fits": False, "error": said}
    if used:
        unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}
        found["hbm_gib"] = float(used[1]) * unit[used[2]]
        found["hbm_of_gib"] = float(used[3]) * unit[used[4]]
    elif "RESOURCE_EXHAUSTED" not in error and "out of memory" not in error.lower():
        found["fits"] = None
    return found


def together(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a program as one: times added, of memory the most."""
    found = next((p for p in pieces if not p["fits"]), None)
    if found is None:
        found = functools.reduce(_both, pieces)
    if len(pieces) > 1 and found["fits"]:
        times = ("estimate_ms", "surcharge_ms")
        found["pieces"] = [[p["piece"], *(p[n] for n in times if n in p)] for p in pieces]
        found["copies"] = _once(found["copies"], "mb", "times")
    if "estimate_ms" in found:
        found["sum_ms"] = found["estimate_ms"] + found["surcharge_ms"]
        found["operations_top"] = _once(found["operations_top"], "ms", "runs")
    return {name: value for name, value in found.items() if name != "piece"}


def _once(rows: list[dict[str, Any]], *numbers: str) -> list[dict[str, Any]]:
    """Rows that differ in `numbers` alone as one, the largest first by the first number."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = tuple(value for name, value in row.items() if name not in numbers)
        before = found.get(key)
        sums = {name: _both(before[name], row[name], name) for name in numbers} if before else {}
        found[key] = row | sums
    size = numbers[0]
    return sorted(found.values(), key=lambda row: -np.sum(row[size]))


def _both(one: Any, other: Any, name: str = "") -> Any:
    """Of two pieces: the sum, of memory the most, the first of anything but numbers."""
    if isinstance(one, dict):
        both = {k: _both(one[k], other[k], k) for k in one if k in other}
        return {**one, **other, **both}
    if isinstance(one, (str, bool)):
        return one
    if name.endswith(("_gib", "code_mib")):
        return max(one, other)
    if isinstance(one, list) and one and isinstance(one[0], float):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other


# What is stored


def versions() -> dict[str, str]:
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    return {name: installed.get(name, "") for name in PINS}


def code_hash() -> str:
    """Of everything that decides what is compiled, and what is said of it."""
    files = [*sorted((ROOT / "tmr_jax").rglob("*.py")), *sorted((ROOT / "tools").glob("aot*.py"))]
    files += [ROOT / f"tools/bench/{name}.py" for name in ("common", "gpu")]
    files += sorted((ROOT / "experiments").glob("*_chebi.py"))
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:16]


def text_hash(lowered: list[Lowered]) -> str:
    whole = hashlib.sha256()
    for one in lowered:
        whole.update(one.lowered.as_text().encode())
    return whole.hexdigest()[:16]


def commit() -> str:
    code = describe_code().split("\n")
    return code[0][:7] + (" with changes" if any(code[1:]) else "")


def load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"programs": {}, "check": {"allowed_copies": [], "programs": {}}}
    return json.loads(path.read_text(encoding="utf-8"))


def save(path: Path, stored: dict[str, Any]) -> None:
    """One line for each program; never half a file."""
    parts = (f' "{name}": {_lines(stored[name], "  ")}' for name in ("programs", "check"))
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _lines(values: dict[str, Any], indent: str) -> str:
    rows = []
    for key, value in sorted(values.items()):
        nested = key == "programs"
        text = _lines(value, indent + " ") if nested else json.dumps(rounded(value))
        rows.append(f"{indent}{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(rows) + "\n" + indent[:-1] + "}"


def rounded(value: Any) -> Any:
    """Four digits: more say nothing, and make files long."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


# What is said


def details(found: dict[str, Any], a: Arguments) -> None:
    """One program, in lines."""
    if not found["fits"]:
        print(f"    {memory_line(found)}")
        return
    if "sum_ms" in found:
        _print_times(found)
    for name, *times in found.get("pieces", []):
        print(f"    piece {name}: " + " + ".join(f"{ms:.3g}" for ms in times) + " ms")
    print(f"    {memory_line(found)}")
    print(f"    loops: {_counts(found['loops'])}; {found['launches']:,.0f} launches")
    print(
        f"    sorts: {_counts(found['sorts'])}; {found['scatters']} scatters, "
        f"{found['gathers']} gathers, {found['kernels']} kernels (Pallas)"
    )
    for name in found.get("unknown_kernels", []):
        print(f"    kernel {name} is not in the traced function: only its bytes count")
    for name, row in found["collectives"].items():
        print(f"    {name}: {row['runs']:,} times, {row['mb']:.1f} MB")
    for copy in found["copies"]:
        print(f"    copy {copy['mb']:,.0f} MB x{copy['times']} {copy['kind']} {copy['type']}")
        print(f"      {copy['source'][-90:]}")
    for row in found.get("operations_top", [])[: a.top]:
        ms, more = row["ms"]
        print(f"    {ms:9.3f} + {more:7.3f} ms x{row['runs']:<5} {row['kind']:16} {row['type']}")
        print(f"      {row['source'][-110:]}")


def _print_times(found: dict[str, Any]) -> None:
    print(
        f"    compiler's estimate {found['estimate_ms']:.4g} ms + surcharge "
        f"{found['surcharge_ms']:.4g} = {found['sum_ms']:.4g} ms (of the surcharge "
        f"{found['beside_ms']:.3g} ms are copies that overlap other work)"
    )
    if "of_peak" in found:
        print(
            "    BERT's products on real tokens would be {:.1%} of peak by the estimate, {:.1%} "
            "with the surcharge".format(*found["of_peak"])
        )
    print("    by part: " + _sums(found["parts"]))
    print("    without an estimate: " + _sums(found["unestimated"], 8))
    f32 = found["float32"]
    asked = ", ".join(f"{n} {how}" for how, n in f32["asked"].items())
    print(f"    products that read float32: {f32['products']} ({asked}), {f32['ms']:.3g} ms")


def _sums(sums: dict[str, list[float]], count: int = 99) -> str:
    rows = [x for x in sums.items() if sum(x[1]) > 1e-3][:count]
    return ", ".join(f"{k} {a:.3g} + {b:.3g}" for k, (a, b) in rows)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} x{n}" for name, n in counts.items()) or "none"


def memory_line(found: dict[str, Any]) -> str:
    if found["fits"] is None:
        return f"does not compile: {found['error']}"
    if not found["fits"]:
        return f"does not fit: {found['error']}"
    return (
        f"HBM peak {found['hbm_gib']:.2f} GiB, arguments {found['arguments_gib']:.2f}, temporaries "
        f"{found['temporaries_gib']:.2f}; code {found['code_mib']:.0f} MiB; {found['tflop']:.3f} "
        f"TFLOP in products; compiled in {found['compile_s']:.0f} s"
    )


COLUMNS = (
    *("program", "target", "fits", "HBM GiB", "TFLOP", "estimate", "surcharge", "sum ms"),
    *("copies MB", "sorts", "scatter", "coll. MB", "launches", "code MiB", "compile s", "before"),
)
Rows = list[tuple[Job, dict[str, Any], dict[str, Any] | None]]


def table(rows: Rows) -> str:
    """One line for each program. `before`: sum and memory by those that were stored."""
    cells = [COLUMNS, *(_cells(*row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["The compiler's estimate, in ms, and a surcharge for what has none; no speed."]
    for row in cells:
        aligned = [f"{c:{'<' if n < 3 else '>'}{widths[n]}}" for n, c in enumerate(row)]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _cells(job: Job, found: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, ...]:
    def total(name: str) -> float:
        rows = found[name]
        return sum(row["mb"] for row in (rows.values() if isinstance(rows, dict) else rows))

    name = " ".join([job.spec.name, *job.settings])
    target = job.target if job.devices == 1 else f"{job.devices} x {job.target}"
    fits = {True: "yes", False: "NO", None: "error"}[found["fits"]]
    numbers = {"hbm_gib": ".2f", "tflop": ".4g"}
    numbers |= dict.fromkeys(("estimate_ms", "surcharge_ms", "sum_ms"), ".4g")
    figures = [format(found[n], form) if n in found else "-" for n, form in numbers.items()]
    if found["fits"]:
        figures += [f"{total('copies'):,.0f}", str(sum(found["sorts"].values()))]
        figures += [str(found["scatters"]), f"{total('collectives'):,.0f}"]
        figures += [f"{found[n]:,.0f}" for n in ("launches", "code_mib", "compile_s")]
    else:
        figures += ["-"] * 7
    return (name, target, fits, *figures, ratio(found, before))


def ratio(found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Of sum and memory to what was stored; the cycles of another libtpu do not compare."""
    if before is None:
        return "new"
    said = []
    if found.get("sum_ms") and before.get("sum_ms"):
        same = found.get("libtpu") == before.get("libtpu")
        said.append(f"{found['sum_ms'] / before['sum_ms']:.2f}" if same else "other libtpu")
    if found.get("hbm_gib") and before.get("hbm_gib"):
        said.append(f"{found['hbm_gib'] / before['hbm_gib']:.2f}")
    return " / ".join(said) or "-"


# Budgets


def broken(job: Job, found: dict[str, Any], check: dict[str, Any], comparable: bool) -> list[str]:
    """Which budgets a checked program breaks, in words."""
    if not found["fits"]:
        return [f"{job.key} {memory_line(found)}"]
    wrong = []
    for copy in found["copies"]:
        if not any(_allows(row, job, copy) for row in check["allowed_copies"]):
            wrong.append(
                f"{job.key}: a copy of {copy['mb']:,.0f} MB that is not listed: {copy['kind']} "
                f"{copy['type']} x{copy['times']} ({copy['source']})"
            )
    before = check["programs"].get(job.key)
    if before is None:
        wrong.append(f"{job.key}: nothing is kept of it; make aot-check ARGS=--accept keeps it")
    elif comparable and found["sum_ms"] > GROWTH * before["sum_ms"]:
        wrong.append(
            f"{job.key}: estimate and surcharge {found['sum_ms']:.4g} ms, "
            f"{found['sum_ms'] / before['sum_ms'] - 1:+.1%} on the kept {before['sum_ms']:.4g}; at "
            f"most {GROWTH - 1:+.0%}"
        )
    return wrong


def _allows(row: dict[str, Any], job: Job, copy: dict[str, Any]) -> bool:
    same = row["type"] == copy["type"] and row["kind"] == copy["kind"]
    return same and fnmatch.fnmatch(job.key, row["program"]) and copy["times"] <= row["times"]


# Running


def missing(platform: str) -> str:
    """What is not installed for a platform, and how to; empty: nothing."""
    names = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}[platform]
    there = any(importlib.util.find_spec(name) for name in names)
    return "" if there else MISSING[platform]


def possible(jobs: list[Job]) -> list[Job]:
    """Those whose compiler is installed; what is missing is said."""
    platforms = {job.target: aot_work.TARGETS[job.target].platform for job in jobs}
    lacking = {p: said for p in dict.fromkeys(platforms.values()) if (said := missing(p))}
    for said in lacking.values():
        print(said)
    return [job for job in jobs if platforms[job.target] not in lacking]


def run_all(jobs: list[Job], a: Arguments, rows: Rows) -> None:
    """Compiles the jobs and keeps each as soon as it is there; `rows` grow with them."""
    stored, known = load(a.out)["programs"], versions() | {"code": code_hash()}
    writes = not a.check and (not a.set or a.out != STORED)
    stamp = known | {"commit": commit()}
    before = {}
    for job in jobs:  # a variant is compared with what it is one of
        before[job] = stored.get(job.key) or stored.get(job._replace(settings=()).key)
    waiting = [job for job in jobs if not (a.all and same(before[job], known))]
    rows += [(job, before[job], before[job]) for job in jobs if job not in waiting]
    for number, (job, found) in enumerate(_each(waiting, a, before), 1):
        unchanged = "commit" in found
        print(f"[{number}/{len(waiting)}] {job.key}{': as it was' * unchanged}", flush=True)
        found |= known if unchanged else stamp
        if not unchanged:
            details(found, a)
        rows.append((job, found, before[job]))
        if writes:
            again = load(a.out)  # another process may have stored something
            again["programs"][job.key] = lean(found)
            save(a.out, again)


def lean(found: dict[str, Any], rows: int = 8) -> dict[str, Any]:
    """Only the first rows of long lists are stored."""
    return {k: v[:rows] if isinstance(v, list) else v for k, v in found.items()}


def same(found: dict[str, Any] | None, known: dict[str, str]) -> bool:
    """Whether it was found with these versions of everything."""
    return found is not None and all(found.get(name) == value for name, value in known.items())


def _each(
    jobs: list[Job], a: Arguments, before: dict[Job, dict[str, Any] | None]
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with what was found, as they come. The compiler hears no Ctrl-C, so it runs in
    threads."""
    pool = ThreadPoolExecutor(AT_ONCE)
    running = {pool.submit(compiled, job, a, before[job]): job for job in jobs}
    try:
        while running:
            done, _ = wait(running, 0.5, FIRST_COMPLETED)
            for one in sorted(done, key=lambda one: jobs.index(running[one])):
                yield running.pop(one), one.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def check(jobs: list[Job], a: Arguments, rows: Rows) -> int:
    """Holds the programs in `rows` to their budgets; the exit status."""
    stored, now = load(a.out), versions()
    comparable = now == PINS
    if not comparable:
        print(f"cycles cannot be compared: they are kept for {PINS}, and this is {now}")
    if a.accept:
        for job, found, _ in rows:
            chosen = ("fits", "hbm_gib", "estimate_ms", "surcharge_ms", "sum_ms", "error")
            own = {name: found[name] for name in chosen if name in found}
            stored["check"]["programs"][job.key] = own | now
        save(a.out, stored)
    wrong = [x for job, found, _ in rows for x in broken(job, found, stored["check"], comparable)]
    for line in wrong:
        print(f"BROKEN  {line}")
    if not wrong:
        print(f"all {len(jobs)} programs are within their budgets")
    return 1 if wrong else 0


def main(a: Arguments) -> int:
    try:
        jobs = jobs_of(a)
        changed(a.set)(aot_work.bench.experiment("packed", 32, 256))
    except (ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wanted = possible(jobs)
    if not wanted:
        return 2
    print(f"{len(wanted)} programs: " + ", ".join(job.key for job in wanted), flush=True)
    rows: Rows = []
    try:
        run_all(wanted, a, rows)
    except KeyboardInterrupt:
        print(table(rows) + "\nstopped; what is above is kept", flush=True)
        os._exit(130)  # the compiler's threads cannot be ended otherwise
    rows.sort(key=lambda row: wanted.index(row[0]))
    print("\n" + table(rows), flush=True)
    if a.check:
        return check(wanted, a, rows)
    return 1 if any(found["fits"] is None for _, found, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
