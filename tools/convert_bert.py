"""Turn a PyTorch pytorch_model.bin into model.safetensors, so that nothing else opens a pickle.

    python tools/convert_bert.py FOLDER/pytorch_model.bin [--python INTERPRETER_THAT_HAS_TORCH]

FOLDER must hold the model's config.json. A .bin is a pickle: a separate process opens it with
weights_only=True and torch 2.10 or newer (older versions can be made to run code even so:
CVE-2025-32434, CVE-2026-24747). It returns plain arrays; this process checks them against
config.json, writes model.safetensors next to the .bin, reads it back and prints its SHA-256.
This project's environment has no torch; pass --python with one that has, for example from

    python3 -m venv torchenv && torchenv/bin/pip install 'torch>=2.10' numpy
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tmr_jax.data.files import sha256_of
from tmr_jax.models.pretrained import IGNORED, published_name, read_config, read_weights

TIMEOUT_S = 900

# Runs in the other process: argv is the .bin, then the .npz to write. Nothing of ours is imported.
CHILD = """
import re, sys
try:
    import numpy, torch
except ImportError as error:
    sys.exit(f"expected an interpreter with torch and numpy; got {error}; name one by --python")
version = tuple(int(n) for n in re.findall(r"[0-9]+", torch.__version__)[:2])
if version < (2, 10):
    sys.exit(f"expected torch >= 2.10, which opens a .bin safely; got {torch.__version__}; upgrade")
try:
    state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
except Exception as error:
    kind = type(error).__name__
    sys.exit(f"expected tensors and nothing else in it; got {kind}; look for safetensors instead")
if not isinstance(state, dict) or not all(
    isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
):
    sys.exit("expected a dictionary of tensors by name; got something else; is it a model's .bin?")
floats = {name: t.detach().float().numpy() for name, t in state.items() if t.is_floating_point()}
with open(sys.argv[2], "wb") as file:
    numpy.savez(file, names=numpy.array(list(floats)), **{
        f"t{i}": array for i, array in enumerate(floats.values())
    })
"""


def unpickle(path: Path, python: str) -> dict[str, np.ndarray]:
    """float32 arrays by tensor name, from another process; ValueError with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays.npz"
        command = [python, "-I", "-c", CHILD, str(path.absolute()), str(arrays)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=folder, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(
                f"expected {python} to open {path}; got {error}; name another by --python"
            ) from error
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise ValueError(f"{path} was not converted: {said[-1][:500]}")
        with np.load(arrays, allow_pickle=False) as file:
            return {str(name): file[f"t{i}"] for i, name in enumerate(file["names"])}


def convert(path: Path, python: str = sys.executable) -> Path:
    """Writes and verifies model.safetensors next to the .bin; returns its path."""
    from safetensors.numpy import save_file

    config_file, target = path.parent / "config.json", path.parent / "model.safetensors"
    if not path.is_file() or not config_file.is_file():
        raise ValueError(
            f"expected {path} and config.json next to it; at least one is missing; put both there"
        )
    config = read_config(config_file)
    tensors = {
        name: np.ascontiguousarray(array)
        for name, array in unpickle(path, python).items()
        if not IGNORED.fullmatch(published_name(name))
    }
    partial = target.with_name(f"partial.{os.getpid()}.safetensors")
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        read_weights(partial, config)  # the same check as in training
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bin", type=Path, help="pytorch_model.bin, with config.json next to it")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch")
    args = parser.parse_args()
    try:
        target = convert(args.bin, args.python)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{target}  {target.stat().st_size:,} bytes  SHA-256 {sha256_of(target)}")


if __name__ == "__main__":
    main()
