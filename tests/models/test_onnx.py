"""Programs without calls and loops, and both encoders as ONNX where jax2onnx is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmr_jax
from tmr_jax.data.batching import mol_batch
from tmr_jax.eval.__main__ import main as evaluate
from tmr_jax.eval.export import TEXTS, main
from tmr_jax.models.encode import Encoder
from tmr_jax.models.onnx import flattened
from tmr_jax.models.run import load_to_search

INSTALLED = importlib.util.find_spec("jax2onnx") is not None


def program(x: jax.Array, rows: jax.Array) -> jax.Array:
    """A scan of a constant, a carry and rows; functions in functions; a choice by platform."""

    def body(carry, row):
        total, count = carry
        return (total * x.sum() + jax.nn.relu(row), count + 1), None

    (total, count), _ = jax.lax.scan(body, (jnp.zeros(3), 0), rows, reverse=True)
    total = jax.lax.platform_dependent(total, cpu=lambda t: t + 1, default=lambda t: t + 2)
    return jax.jit(lambda t: jax.nn.gelu(t) * count)(total)


def test_a_flattened_program_has_plain_operations_and_the_default_of_platforms() -> None:
    args = np.array([0.5, -0.2], np.float32), np.arange(-6, 6, dtype=np.float32).reshape(4, 3)
    traced = jax.make_jaxpr(program)(*args)
    flat = jax.make_jaxpr(lambda *args: flattened(traced, *args)[0])(*args)
    names = {equation.primitive.name for equation in flat.jaxpr.eqns}
    assert {"add", "mul", "max"} <= names
    assert not names & {"scan", "jit", "pjit", "cond", "platform_index", "custom_jvp_call"}
    total = np.zeros(3, np.float32)
    for row in args[1][::-1]:
        total = total * np.float32(0.3) + np.maximum(row, 0)
    wanted = 4 * np.asarray(jax.nn.gelu(total + 2))
    np.testing.assert_allclose(flattened(traced, *args)[0], wanted, rtol=1e-5)


def test_a_scan_with_other_outputs_is_refused() -> None:
    rows = np.ones((2, 3), np.float32)
    traced = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, r: (c + r, c), x[0], x))(rows)
    with pytest.raises(ValueError, match="zip"):
        flattened(traced, rows)


@pytest.mark.skipif(INSTALLED, reason="jax2onnx is installed")
def test_without_jax2onnx_the_command_says_so_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "run"), str(tmp_path / "out"), "--onnx"]) == 2
    assert "install 'tmr-jax[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not INSTALLED, reason="needs the extra onnx")
def test_onnx_runtime_gives_the_embeddings_of_the_run(tiny_run: Path, tmp_path: Path) -> None:
    import onnxruntime

    run, out = shutil.copytree(tiny_run, tmp_path / "tiny"), tmp_path / "out"
    assert evaluate(["--run", str(run)]) == 0
    # In a process of its own: checks of annotations know no sizes that are free.
    command = [sys.executable, "-m", "tmr_jax", "export", str(run), str(out), "--onnx"]
    done = subprocess.run(command, cwd=Path(tmr_jax.__file__).parents[1], env=os.environ)
    assert done.returncode == 0 and "onnx/text.onnx" in (out / "README.md").read_text("utf-8")
    model, params, _ = load_to_search(run)
    encoder = Encoder(model, params)
    text, molecule = (
        onnxruntime.InferenceSession(out / "onnx" / f"{name}.onnx") for name in ("text", "molecule")
    )
    for one, row in zip(TEXTS, encoder.texts(TEXTS).rows, strict=True):  # each of its own length
        tokens = model.tokenizer.encode([one], 96)[0][0][None]
        (found,) = text.run(None, {"tokens": tokens, "mask": tokens > -1})
        np.testing.assert_allclose(found[0], row, rtol=0, atol=1e-4)
    smiles = ["C", "CCO", "CC(=O)Oc1ccccc1C(=O)O"]
    table, _, _ = encoder.molecule_table(smiles)
    sizes = (int(table.node_offsets[-1]) + 1,), (int(table.edge_offsets[-1]),)
    batch = mol_batch(np.arange(3), table, *sizes)
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    (found,) = molecule.run(None, {place[-1].name: np.asarray(x) for place, x in leaves})
    np.testing.assert_allclose(found, encoder.molecules(smiles)[0].rows, rtol=0, atol=1e-4)
