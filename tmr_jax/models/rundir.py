"""The directory of a run: one experiment in it, and whoever starts it again goes on with it.

No JAX here: what is wrong with the directory is said before anything slow begins.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tmr_jax.data.files import write_text
from tmr_jax.types import UserError

CONFIG, GIT, LOCK = "config.json", "git.txt", "lock"
MAX_DIFF = 1 << 20  # characters of uncommitted changes kept in git.txt


def open_directory(run: Path) -> None:
    """Makes the directory if need be; ValueError where nothing can be written into it."""
    probe = run / f".probe.{os.getpid()}"
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"expected a run directory that can be written; got {run}: {error.strerror}; choose "
            "another with --run, or mend its permissions"
        ) from error


def settle_config(run: Path, text: str, completed: Callable[[str], str] = str) -> bool:
    """Leaves the configuration in the directory; True where it already was there.

    `completed` gives what an older one lacks its default.

    Raises ValueError where another experiment, or something that is no run, lives there.
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
            f"expected the configuration that {run} was begun with; got others of\n"
            + "\n".join(lines)
            + "\nname another directory with --run, or move the old run aside with --fresh"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def move_aside(run: Path) -> Path:
    """Renames a run to the first free RUN.old-N and returns that name."""
    number = 1
    while (aside := run.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    os.rename(run, aside)
    return aside


def describe_code() -> str:
    """Commit of the code, the files that differ from it, and how: what git.txt says."""
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return "no git repository: an installed package\n"
    status, diff = _git("status", "--short", "--untracked-files=no"), _git("diff", "HEAD")
    return f"{commit}\n{status}\n{diff[:MAX_DIFF]}"


def _git(*words: str) -> str:
    """What git prints about the folder of this code, or "" where it cannot say."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, timeout=20, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout if found.returncode == 0 else ""
