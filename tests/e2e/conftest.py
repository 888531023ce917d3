"""What programs of the documentation run in: an environment and settings as a reader has them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = {
    "python": 'exec {python} "$@"',
    "tmr": 'exec {python} -c "import sys; from tmr_jax.cli import main; sys.exit(main())" "$@"',
}


def environment(folder: Path) -> None:
    """A `.venv` that `make` takes for installed, whose programs are those of this interpreter.

    Not a link to the environment itself: `make` would bring it up to date, and point it to
    `folder`. Nor an installation, which takes a minute and a network.
    """
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name, line in SCRIPTS.items():
        script = folder / ".venv" / "bin" / name
        script.write_text(f"#!/bin/sh\n{line.format(python=sys.executable)}\n")
        script.chmod(0o755)
    for stamp in (".begun", ".installed-dev"):
        (folder / ".venv" / stamp).touch()  # newer than all that it is made from


@pytest.fixture(scope="session")
def make_environment() -> Callable[[Path], None]:
    return environment


@pytest.fixture(scope="session")
def bare_settings() -> Callable[[Path], dict[str, str]]:
    """`bare_settings(home)`: the environment variables of a new user without a network."""

    def make(home: Path) -> dict[str, str]:
        closed = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        # No index but the closed door; and no installation, should `make` ask for one.
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_DRY_RUN": "1", "PIP_RETRIES": "0"}
        return {"HOME": str(home), "PATH": os.environ["PATH"], **closed, **pip}

    return make
