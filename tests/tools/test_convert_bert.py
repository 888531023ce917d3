"""The converter, with a stand-in for torch: what it refuses, and that its result is verified.

The stand-in is a module named torch in a folder that a small interpreter script puts first on the
path; converting a .bin that the real torch wrote needs torch and is done by hand.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np

from tmr_jax.data.files import sha256_of
from tmr_jax.models.pretrained import layout, load_bert, read_config

ROOT = Path(__file__).resolve().parents[2]
RECIPE = runpy.run_path(str(ROOT / "tests" / "golden" / "bert_recipe.py"))

TORCH = """
import pathlib, numpy
__version__ = {version!r}

class Tensor:
    def __init__(self, array): self.array = array
    def detach(self): return self
    def float(self): return Tensor(self.array.astype("float32"))
    def numpy(self): return self.array
    def is_floating_point(self): return self.array.dtype.kind == "f"

def load(path, map_location, weights_only):
    assert map_location == "cpu" and weights_only is True
    pathlib.Path(path).with_name("opened").touch()
    with numpy.load(path, allow_pickle=False) as file:
        return {{name: Tensor(file[name]) for name in file.files}}
"""


def interpreter(folder: Path, version: str) -> Path:
    """A program that takes `-I -c CODE ARGS` as Python does, and finds the stand-in."""
    (folder / "torch.py").write_text(TORCH.format(version=version))
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[1:3] == ['-I', '-c']\n"
        f"sys.path.insert(0, {str(folder)!r})\ncode = sys.argv[3]\nsys.argv = sys.argv[3:]\n"
        "exec(compile(code, 'child', 'exec'))\n"
    )
    program.chmod(0o755)
    return program


def model(folder: Path, **changes: np.ndarray) -> Path:
    """config.json, vocab.txt and a .bin that the stand-in opens."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RECIPE["config_of"]("small")))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    shapes = {n: s.shape for n, s in layout(read_config(folder / "config.json")).items()}
    tensors = {f"bert.{n}": a for n, a in RECIPE["weights"](shapes).items()}
    tensors["bert.embeddings.position_ids"] = np.arange(40)[None]
    tensors["cls.predictions.bias"] = np.zeros(211, np.float32)
    with (folder / "pytorch_model.bin").open("wb") as file:
        np.savez(file, **{**tensors, **changes})
    return folder / "pytorch_model.bin"


def convert(path: Path, python: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/convert_bert.py", str(path), "--python", str(python)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_bin_becomes_safetensors_that_load_and_its_hash_is_printed(tmp_path):
    path = model(tmp_path / "model")
    done = convert(path, interpreter(tmp_path, "2.10.0+cpu"))
    assert done.returncode == 0, done.stderr
    target = path.with_name("model.safetensors")
    assert sha256_of(target) in done.stdout
    _, params, record = load_bert(str(path.parent))
    assert record["sha256"] == sha256_of(target)
    with np.load(path) as file:
        wanted = file["bert.encoder.layer.1.attention.self.key.weight"].T
    assert np.array_equal(params["layer_1"]["key"]["kernel"], wanted)


def test_an_old_torch_is_refused_before_it_opens_anything(tmp_path):
    path = model(tmp_path / "model")
    done = convert(path, interpreter(tmp_path, "2.9.1+cu126"))
    assert done.returncode == 1 and "expected torch >= 2.10" in done.stderr
    assert "2.9.1+cu126" in done.stderr and "Traceback" not in done.stderr
    assert not path.with_name("opened").exists()
    assert not path.with_name("model.safetensors").exists()


def test_an_interpreter_without_torch_is_named(tmp_path):
    done = convert(model(tmp_path / "model"), sys.executable)
    assert done.returncode == 1 and "expected an interpreter with torch" in done.stderr


def test_weights_of_another_shape_leave_no_file(tmp_path):
    changes = {"bert.pooler.dense.bias": np.zeros(3, np.float32)}
    path = model(tmp_path / "model", **changes)
    done = convert(path, interpreter(tmp_path, "2.13.0"))
    assert done.returncode == 1 and "pooler.dense.bias (3,) instead of (64,)" in done.stderr
    assert not list(path.parent.glob("*.safetensors"))
