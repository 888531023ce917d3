"""Supported versions: install, import, train two steps, evaluate, lower for TPU, at each of them.

python tools/check_versions.py [--oldest-python PYTHON] [--newest-python PYTHON] [--only NAME ...]

The oldest end is what Colab preinstalls (JAX 0.7.2 and what came with it); the newest is whatever
the package index has today, on Python 3.14 or 3.13 if it is installed, with huggingface_hub 1 and
2. Needs a network for the installation, minutes, and 1.5 GB of disk for each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = ("jax==0.7.2", "jaxlib==0.7.2", "flax==0.11.2", "orbax-checkpoint==0.12.4", "numpy==2.1.*")
PINS = {
    "oldest": OLDEST,
    "hub-1": ("huggingface_hub==1.*",),
    "hub-2": ("huggingface_hub==2.*",),
    "newest": (),
}
TINY = ("--exp", "tests/experiments/tiny.py", "--train.epochs", "1", "--train.batch-size", "32")
SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy", "rdkit", "tyro")
SHOWN += ("huggingface_hub",)


def main() -> int:
    """Exit status: 0 if all pass, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--oldest-python", default=sys.executable)
    newest = shutil.which("python3.14") or shutil.which("python3.13") or sys.executable
    parser.add_argument("--newest-python", default=newest)
    parser.add_argument("--only", nargs="+", choices=PINS, default=list(PINS))
    parser.add_argument("--keep", type=Path, help="folder for the environments; else temporary")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        ends = {
            name: check(
                folder / name,
                args.oldest_python if name == "oldest" else args.newest_python,
                PINS[name],
            )
            for name in args.only
        }
    rows = list(dict.fromkeys(key for end in ends.values() for key in end))
    for row in ("", *rows):
        cells = [end.get(row, "-") if row else name for name, end in ends.items()]
        print(f"{row:<18}" + "".join(f"{cell:<24}" for cell in cells))
    return 0 if all(end["result"] == "passed" for end in ends.values()) else 1


def check(folder: Path, python: str, pins: tuple[str, ...]) -> dict[str, str]:
    """Installed versions, and how long each stage took or which one failed."""
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
    result = {"result": "passed"}
    cache = {"TMR_JAX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    for stage, command in stages.items():
        start = time.monotonic()
        print(f"{folder.name}: {stage} ...", flush=True)
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | cache, capture_output=True, text=True
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
            return result | {"result": f"{stage} failed"}
        result[stage] = f"{time.monotonic() - start:.0f} s"
        if stage == "install":
            result |= versions(inside)
    return result


def versions(python: str) -> dict[str, str]:
    code = (
        "import platform, importlib.metadata as m; print('python', platform.python_version());"
        f"[print(n, m.version(n)) for n in {SHOWN}]"
    )
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in out.splitlines())


if __name__ == "__main__":
    sys.exit(main())
