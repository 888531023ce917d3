"""The directory of a run: its configuration, the code that made it, its metrics.

No JAX here: a directory that cannot be used is reported before anything slow starts.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tmr_jax.data.files import write_text
from tmr_jax.types import UserError

CONFIG, GIT, LOCK, METRICS = "config.json", "git.txt", "lock", "metrics.jsonl"
VALIDATION = "validation.json"  # which rows became training pairs
MAX_DIFF = 1 << 20  # characters of uncommitted changes kept in git.txt


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
        lines = [
            f"  {k}: {before.get(k, 'absent')!r} there, {now.get(k, 'absent')!r} now"
            for k in fields
        ]
        raise UserError(
            f"expected the configuration that {run} was started with; got other values of\n"
            + "\n".join(lines)
            + "\nchoose another directory with --run, or move the old run aside with --fresh"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
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
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
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
