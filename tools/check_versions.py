"""Both ends of the range of versions: install, import, train two steps, evaluate, lower for TPU.

python tools/check_versions.py [--oldest-python PYTHON] [--newest-python PYTHON] [--keep FOLDER]

The oldest end is what Colab preinstalls (JAX 0.7.2 and what came with it); the newest is whatever
the package index has today. Needs a network for the installation, minutes, and 3 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = ("jax==0.7.2", "jaxlib==0.7.2", "flax==0.11.2", "orbax-checkpoint==0.12.4", "numpy==2.1.*")
TINY = ("--exp", "tests/experiments/tiny.py", "--train.epochs", "1", "--train.batch-size", "32")
SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy", "rdkit", "tyro")


def main() -> int:
    """Exit status: 0 where both ends pass, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--oldest-python", default=sys.executable)
    parser.add_argument("--newest-python", default=sys.executable)
    parser.add_argument("--keep", type=Path, help="folder for the environments; else temporary")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        ends = {
            "oldest": check(folder / "oldest", chosen.oldest_python, OLDEST),
            "newest": check(folder / "newest", chosen.newest_python, ()),
        }
    rows = list(dict.fromkeys(key for end in ends.values() for key in end))
    for row in ("", *rows):
        cells = [end.get(row, "-") if row else name for name, end in ends.items()]
        print(f"{row:<18}" + "".join(f"{cell:<34}" for cell in cells))
    return 0 if all(end["result"] == "passed" for end in ends.values()) else 1


def check(folder: Path, python: str, pins: tuple[str, ...]) -> dict[str, str]:
    """What was installed, and how long each stage took or which one failed."""
    inside = str(folder / "bin" / "python")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    run = str(folder / "run")
    stages = {
        "environment": [python, "-m", "venv", "--clear", str(folder)],
        "install": [inside, "-m", "pip", "install", "-q", *wanted, *pins],
        "import": [inside, "-W", "error", "-c", "import tmr_jax; tmr_jax.load"],
        "train": [inside, "-m", "tmr_jax.train", *TINY, "--run", run],
        "evaluate": [inside, "-m", "tmr_jax.eval", "--run", run],
        "lower for TPU": [inside, "-m", "tools.check_lowering"],
    }
    found = {"result": "passed"}
    cache = {"TMR_JAX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    for stage, command in stages.items():
        began = time.monotonic()
        print(f"{folder.name}: {stage} ...", flush=True)
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
            return found | {"result": f"{stage} failed"}
        found[stage] = f"{time.monotonic() - began:.0f} s"
        if stage == "install":
            found |= versions(inside)
    return found


def versions(python: str) -> dict[str, str]:
    code = (
        "import platform, importlib.metadata as m; print('python', platform.python_version());"
        f"[print(n, m.version(n)) for n in {SHOWN}]"
    )
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in out.splitlines())


if __name__ == "__main__":
    sys.exit(main())
