"""A run as a process and as a directory: devices, other processes, memory, compiled programs; the
configuration, the code that made it, its metrics.

JAX is imported by the functions that need it: a wrong argument and a directory that cannot be used
are reported before anything slow starts.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tmr_jax.data.files import write_json, write_text
from tmr_jax.types import UserError

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
# LLVM's default for processors with AVX-512 is half of their width, because older ones lowered
# their clocks. A BERT layer, forward and backward, takes 1.13 times as long that way.
WIDE = "--xla_cpu_prefer_vector_width=512"


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step; False, and no change, without glibc.

    XLA allocates each step's temporary buffers, some gigabytes, and frees them after it. By default
    glibc returns blocks of that size to the system, and the next step pays for fresh pages:
    gradients of a MiniLM-sized encoder take 1.37 times as long (experiments/LOG.md). The price
    of one heap that never shrinks is that the process stays as large as its largest step.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    return all(mallopt(number, value) == 1 for number, value in settings)


def use_compile_cache(folder: Path) -> bool:
    """Lets JAX keep compiled programs in `folder`/compiled; False where that is not safe.

    Who can write to that folder can run code as this user, so it is created with mode 0700; a link
    or a folder of another user is not used. Where nothing can be written, each start compiles again
    and nothing else is lost. A folder that you set (JAX_COMPILATION_CACHE_DIR) stays. On CPU
    programs are compiled for the full vector width unless XLA_FLAGS set another.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if WIDE.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WIDE}".strip()

    import jax

    if jax.config.jax_compilation_cache_dir:
        return True
    place = folder.absolute() / "compiled"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(place)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        if stat.S_IMODE(status.st_mode) != 0o700:
            place.chmod(0o700)
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return True


def training_devices() -> list[Any]:
    """All devices; on the CPU of a single process one, because simulated ones share its cores."""
    import jax

    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        return jax.devices()[:1]
    return jax.devices()


def local_devices() -> list[Any]:
    """The devices of this process, for work that is not shared; on CPU one."""
    import jax

    return jax.local_devices()[: 1 if jax.default_backend() == "cpu" else None]


def local(tree: Any) -> Any:
    """Arrays that every device has whole, as arrays on this process's first device."""
    import jax

    def first(x: Any) -> Any:
        several = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if several else x

    return jax.tree.map(first, tree)


ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CLUSTER = "TMR_JAX_CLUSTER"


def several_processes() -> bool:
    """Whether the environment makes this program one of several processes."""
    return any(os.environ.get(name) for name in (ADDRESS, CLUSTER))


def join_processes() -> bool:
    """Joins the other processes, if there are any; returns whether this one leads.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID name the others.
    TMR_JAX_CLUSTER=1 leaves it to JAX, which knows Slurm, Open MPI, Kubernetes and TPU pods.
    Raises UserError where only some of the three are set, or one is not a number.
    """
    address, count, number = (os.environ.get(name) or None for name in (ADDRESS, COUNT, NUMBER))
    if address is None and os.environ.get(CLUSTER) != "1":
        return True
    import jax

    if address is None:
        jax.distributed.initialize()
    elif not (count and number and count.isdecimal() and number.isdecimal()):
        raise UserError(
            f"expected {COUNT} and {NUMBER} with {ADDRESS}; got {count} and {number}; set all "
            "three, with another number for each process"
        )
    else:
        jax.distributed.initialize(address, int(count), int(number))
    return jax.process_index() == 0


def leads() -> bool:
    """Whether this process prints and saves: the only one, or the first of several."""
    if not several_processes():
        return True
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when all processes have arrived."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def broadcast_from_leader(tree: Any) -> Any:
    """The leading process's arrays, on all processes."""
    import jax
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree) if jax.process_count() > 1 else tree


def any_process(value: bool) -> bool:
    """Whether `value` is true in one of the processes; all call it together."""
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(value)).any())


CONFIG, GIT, LOCK, METRICS = "config.json", "git.txt", "lock", "metrics.jsonl"
SOFTWARE = "software.json"  # what each sitting of a training ran with, where it changed
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "rdkit")  # on which numbers depend
VALIDATION = "validation.json"  # which rows became training pairs
FACTS_FILE = "facts.json"  # reranking by facts (tmr_jax/eval/facts.py)
CODE = "model.py"  # a model of the user's own (tmr_jax/models/own.py)
LEXICAL = "lexical.safetensors"  # the linear branch (tmr_jax/models/lexical.py)
FITTED = "fitted.json"  # says that training has tried those two; one that gains nothing is not kept
EXPORTED = "model.safetensors"  # in place of checkpoints, where a folder holds exported weights
SUMS = "SHA256SUMS"  # in such a folder, as the program sha256sum writes and checks it
SHIPPED = Path(__file__).parent / "weights"  # the exported weights that come with the package
MAX_DIFF = 1 << 20  # characters of uncommitted changes kept in git.txt


def run_folder(run: str | Path | None) -> Path:
    """The run, or the exported weights, that a user names; the shipped weights for None.

    Raises UserError for None where no weights come with this package.
    """
    if run is None and not (SHIPPED / EXPORTED).is_file():
        raise UserError(
            "expected a trained model; got no run, and no weights come with this tmr_jax; train "
            "one (tmr train --exp quickstart) and name it: --run runs/quickstart, or in Python "
            'tmr_jax.load("runs/quickstart")'
        )
    return SHIPPED if run is None else Path(run)


def open_directory(run: Path) -> None:
    """Creates the directory if it does not exist; UserError where it cannot be written."""
    probe = run / f".probe.{os.getpid()}"
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"expected a run directory that can be written; got {run}: {error.strerror}; choose "
            "another with --run, or change its permissions"
        ) from error


def settle_config(run: Path, text: str, completed: Callable[[str], str] = str) -> bool:
    """Writes the configuration into the directory; True where it was already there.

    `completed` fills in the defaults of fields that an older one lacks. Raises UserError where the
    directory holds another experiment, or files but no run.
    """
    path = run / CONFIG
    if path.is_file():
        old = completed(path.read_text(encoding="utf-8"))
        _same(run, json.loads(old), json.loads(text))
        return True
    others = sorted(p.name for p in run.iterdir() if p.name != LOCK)
    if others:
        raise UserError(
            f"expected an empty directory or a run in {run}; got {', '.join(others[:5])}; choose "
            "another with --run"
        )
    write_text(path, text)
    return False


def _same(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    before, now = _flat(old), _flat(new)
    fields = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if fields:
        values = ((k, before.get(k, "absent"), now.get(k, "absent")) for k in fields)
        lines = "\n".join(f"  {k}: {there!r} there, {here!r} now" for k, there, here in values)
        raise UserError(
            f"expected the configuration that {run} was started with; got other values of\n{lines}"
            "\nchoose another directory with --run, or move the old run aside with --fresh"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def move_aside(run: Path) -> Path:
    """Renames a run to the first free RUN.old-N and returns that name."""
    number = 1
    while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    os.rename(run, aside)
    return aside


def describe_code() -> str:
    """The content of git.txt: the commit of the code, and its uncommitted changes."""
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return "no git repository: an installed package\n"
    status, diff = _git("status", "--short", "--untracked-files=no"), _git("diff", "HEAD")
    return f"{commit}\n{status}\n{diff[:MAX_DIFF]}"


def software() -> dict[str, str]:
    """Versions of Python and of the packages on which numbers depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def record_software(run: Path) -> str:
    """Writes what a sitting of a training runs with; how it differs from the last one, or ""."""
    path, now = run / SOFTWARE, software()
    sittings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    last = sittings[-1] if sittings else now
    if not sittings or last != now:
        write_json(path, [*sittings, now], indent=2)
    changed = [name for name in now if now[name] != last.get(name)]
    return ", ".join(f"{name} {now[name]} (before: {last.get(name)})" for name in changed)


def _git(*arguments: str) -> str:
    """The output of git in the folder of this code, or "" where there is none."""
    here = Path(__file__).parent
    try:
        process = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, timeout=20, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout if process.returncode == 0 else ""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is skipped."""
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def series(
    rows: list[dict[str, Any]], keep: Callable[[str], bool]
) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) of every finite number of metrics.jsonl whose name passes `keep`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and keep(name) and is_number and math.isfinite(value):
                curves.setdefault(name, []).append((float(row["step"]), float(value)))
    return curves
