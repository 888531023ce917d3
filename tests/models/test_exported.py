"""Exported weights: how far rounding moves a parameter, and files that are not what was written."""

from __future__ import annotations

import shutil
import tarfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from tmr_jax.models.checkpoint import layerwise
from tmr_jax.models.encode import Encoder
from tmr_jax.models.exported import (
    MOST,
    SCALE,
    dequantised,
    quantised,
    read_weights,
    verify,
    write_sums,
    write_weights,
)
from tmr_jax.models.run import load_run
from tmr_jax.models.runtime import EXPORTED, SUMS, run_folder
from tmr_jax.types import UserError

ABOUT = {"which": "best", "step": "1", "sha256": "0"}
ARCHIVE = Path(__file__).parents[1] / "golden" / "run_a2772e9.tar.gz"
FILES = ("config.json", "features.json", "tokenizer.json", "vocab.npz")


def folder_of(run: Path, out: Path) -> Path:
    """The weights of a run, exported without card and golden numbers."""
    out.mkdir()
    for name in FILES:
        if (run / name).is_file():
            shutil.copy(run / name, out / name)
    write_weights(out / EXPORTED, load_run(run)[1], ABOUT)
    write_sums(out)
    return out


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    return folder_of(tiny_run, tmp_path / "exported")


# Rounding


def test_a_channel_is_rounded_to_127_steps() -> None:
    kernel = np.zeros((16, 2), np.float32)
    kernel[:3, 0], kernel[:2, 1] = (1.27, -0.5, 0.0061), (-254, 3)
    stored = quantised("layer/kernel", kernel)
    np.testing.assert_allclose(stored["layer/kernel.scale"], [[0.01, 2]])
    assert stored["layer/kernel"][:3, 0].tolist() == [127, -50, 1]
    assert stored["layer/kernel"][:2, 1].tolist() == [-127, 2]  # 1.5 steps go to the even one
    table = quantised("words/embedding", np.ascontiguousarray(kernel.T))
    np.testing.assert_allclose(table["words/embedding.scale"], [[0.01], [2]])


@pytest.mark.parametrize("name, shape", [("kernel", (64, 5, 24)), ("embedding", (9, 80))])
def test_no_number_moves_by_more_than_half_a_step(name: str, shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    weights[..., 0] = 0  # a channel of zeros, or one number of each row
    stored = quantised(name, weights)
    change = np.abs(dequantised(stored)[name] - weights)
    assert stored[name].dtype == np.int8
    assert (change <= stored[name + SCALE] / 2 * (1 + 1e-5)).all()
    assert 0 < np.linalg.norm(change) < MOST * np.linalg.norm(weights)
    again = quantised(name, dequantised(stored)[name])
    np.testing.assert_array_equal(again[name], stored[name])


def test_an_outlier_in_each_channel_takes_scales_of_both_axes() -> None:
    weights = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    weights[0] = 60
    stored = quantised("kernel", weights)
    assert {*stored} == {"kernel", "kernel.scale", "kernel.across"}
    assert stored["kernel"].dtype == np.int8 and stored["kernel.across"].shape == (400, 1)
    change = np.linalg.norm(dequantised(stored)["kernel"] - weights)
    assert change <= MOST * np.linalg.norm(weights)
    with pytest.raises(ValueError, match="scales of one axis only of lost"):
        dequantised({"lost.across": stored["kernel.across"]})


def test_what_eight_bits_would_change_too_much_stays_in_bfloat16() -> None:
    weights = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    weights[np.arange(512), np.arange(512) % 64] = 40  # an outlier in each row and channel
    stored = quantised("kernel", weights)
    assert list(stored) == ["kernel"] and stored["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(dequantised(stored)["kernel"], weights, rtol=2**-8)


def test_vectors_and_short_channels_stay_as_they_are() -> None:
    for shape in ((), (300,), (1, 64), (15, 4)):
        weights = np.full(shape, 0.1, np.float32)
        stored = quantised("bias", weights)
        assert stored["bias"].dtype == np.float32 and list(stored) == ["bias"]
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match=r"expected finite parameters; got .* in bias; train"):
            quantised("bias", np.array([value], np.float32))


# Files


def test_an_exported_run_is_the_rounded_run(tiny_run: Path, folder: Path) -> None:
    _, params, checkpoint = load_run(tiny_run)
    _, rounded, of = load_run(folder, "newest")
    assert (of.which, of.step) == (checkpoint.which, checkpoint.step)
    assert of.sha256 != checkpoint.sha256 and of == load_run(folder)[2]
    before, after = (flatten_dict(layerwise(tree), sep="/") for tree in (params, rounded))
    stored = load_file(folder / EXPORTED)
    assert before.keys() == after.keys() == {n for n in stored if not n.endswith(SCALE)}
    kinds = set()
    for name, weights in before.items():
        assert isinstance(after[name], jax.Array) and after[name].dtype == jnp.float32
        bound = stored[name + SCALE] / 2 if name + SCALE in stored else 0
        assert (np.abs(after[name] - weights) <= bound * (1 + 1e-5)).all(), name
        kinds.add(stored[name].dtype.name)
    assert kinds == {"int8", "float32"}
    about = read_weights(folder / EXPORTED)[1]
    assert about.items() > ABOUT.items() and " in int8" in about["parameters"]


@pytest.mark.costly
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["difftmr", "mbank"])
def test_every_model_can_be_exported(name: str, tmp_path: Path, monkeypatch) -> None:
    """A denoiser; a memory bank with running statistics and a vocabulary of atoms."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    model, params, _ = load_run(tmp_path / name)
    encoder, rows = Encoder(model, params), []
    for of in (params, load_run(folder_of(tmp_path / name, tmp_path / "out"))[1]):
        encoder.params = of
        texts, molecules = encoder.texts(["an acid", "a salt"]), encoder.molecules(["CCO", "CN"])
        rows.append(np.concatenate([texts.rows, molecules[0].rows]))
    assert ((rows[0] * rows[1]).sum(1) > 0.999).all() and (rows[0] != rows[1]).any()


@pytest.mark.parametrize("name", ["config.json", "features.json", "tokenizer.json", EXPORTED])
def test_a_file_with_a_flipped_bit_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"expected .*{name} with the SHA-256 .*; got .*; copy"):
        load_run(folder)


def test_a_file_that_is_missing_or_not_listed_is_refused(folder: Path) -> None:
    sums = (folder / SUMS).read_text("utf-8")
    (folder / SUMS).write_text(sums.replace("features.json", "other.json"), encoding="utf-8")
    with pytest.raises(UserError, match=r"features\.json with .*, which lists none; got"):
        load_run(folder)
    (folder / SUMS).unlink()
    with pytest.raises(UserError, match="or pass a run"):
        load_run(folder)
    (folder / SUMS).write_text(sums, encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="got no file"):
        verify(folder, ["tokenizer.json"])


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_that_is_cut_off_is_refused(folder: Path, size: int) -> None:
    content = (folder / EXPORTED).read_bytes()
    (folder / EXPORTED).write_bytes(content[:size])
    write_sums(folder)
    with pytest.raises(UserError, match=r"expected exported weights in .*; got .*; copy the"):
        load_run(folder)


def resaved(folder: Path, change) -> None:
    tensors = load_file(folder / EXPORTED)
    change(tensors)
    save_file(tensors, folder / EXPORTED, ABOUT)
    write_sums(folder)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.update(log_scale=t["log_scale"].astype(np.float16)), "log_scale in F16"),
        (lambda t: t.pop("text_projection/kernel.scale"), "scales .* text_projection/kernel"),
        (lambda t: t.pop("text_projection/kernel"), "scales .* text_projection/kernel"),
        (lambda t: t.update({"text_projection/kernel.scale": np.ones((3, 5), np.float32)}), "shap"),
        (lambda t: t.update(more=np.ones(3, np.float32)), "more .* instead of absent"),
        (lambda t: t.pop("log_scale"), "log_scale absent instead of"),
        (lambda t: t.update(log_scale=np.ones(2, np.float32)), r"log_scale \[\[2\], 'float32'\]"),
    ],
)
def test_other_tensors_than_the_model_s_are_refused(folder: Path, change, reason: str) -> None:
    resaved(folder, change)
    with pytest.raises(UserError, match=f"expected .*; got .*{reason}.*; "):
        load_run(folder)


def test_a_file_of_another_program_is_refused(folder: Path) -> None:
    save_file(load_file(folder / EXPORTED), folder / EXPORTED)
    write_sums(folder)
    with pytest.raises(UserError, match="got a file of another program, which names no"):
        load_run(folder)


@pytest.mark.costly
def test_weights_of_minilm_s_size_are_small_and_read_at_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).standard_normal
    shapes = {"query": (384, 384), "key": (384, 384), "value": (384, 384), "out": (384, 384)}
    shapes |= {"inner": (384, 1536), "outer": (1536, 384)}
    params = {
        "text_encoder": {
            "words": {"embedding": draw((30_522, 384), np.float32)},
            **{
                f"layer_{i}": {n: {"kernel": draw(s, np.float32)} for n, s in shapes.items()}
                for i in range(6)
            },
        }
    }
    write_weights(tmp_path / EXPORTED, params, ABOUT)
    write_sums(tmp_path)
    assert 22.3e6 < (tmp_path / EXPORTED).stat().st_size < 23e6
    begin = time.process_time()
    verify(tmp_path, [EXPORTED])
    read, about = read_weights(tmp_path / EXPORTED)
    assert time.process_time() - begin < 2
    assert about["parameters"] == "22,337,280 in int8"
    assert read["text_encoder"]["layers"]["inner"]["kernel"].shape == (6, 384, 1536)


def test_a_name_is_taken_and_none_is_the_shipped_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tmr_jax.models.runtime.SHIPPED", tmp_path)
    assert run_folder("runs/mine") == Path("runs/mine")
    with pytest.raises(UserError, match=r"expected a trained model; got no run, .*; train one"):
        run_folder(None)
    (tmp_path / EXPORTED).touch()
    assert run_folder(None) == tmp_path
