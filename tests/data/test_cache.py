"""The cache: a value is computed once, and no file of it can do harm."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.data.cache import ARRAYS, JSON, cache_folder, cache_key, cached, read_arrays


def npy(array_header: dict, content: bytes, version=(1, 0)) -> bytes:
    """A .npy whose header says whatever it is told to."""
    buffer = io.BytesIO()
    writer = np.lib.format.write_array_header_1_0
    if version == (2, 0):
        writer = np.lib.format.write_array_header_2_0
    writer(buffer, array_header)
    return buffer.getvalue() + content


def npz(path: Path, compression=zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


FORGED = {
    "a gigabyte in a header": npy(
        {"descr": "<f8", "fortran_order": False, "shape": (1 << 27,)}, b""
    ),
    "a shape that overflows": npy(
        {"descr": "<f8", "fortran_order": False, "shape": (1 << 62, 4)}, b""
    ),
    "objects": npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"\x80\x04N."),
    "hidden objects": npy(
        {"descr": [("a", "|O")], "fortran_order": False, "shape": (1,)}, b"\0" * 8
    ),
    "bytes too many": npy({"descr": "<i8", "fortran_order": False, "shape": (1,)}, b"\0" * 9),
    "bytes too few, version 2": npy(
        {"descr": "<i8", "fortran_order": False, "shape": (2,)}, b"\0" * 8, (2, 0)
    ),
    "no magic": b"\0" * 64,
    "nothing": b"",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED.keys())
def test_a_forged_member_is_refused_before_it_is_allocated(content, tmp_path, monkeypatch):
    path = npz(tmp_path / "forged.npz", nodes=content)
    # Nothing may be read into an array: the header alone decides.
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(ValueError, match="expected an uncompressed"):
        read_arrays(path)


def test_a_compressed_member_is_refused(tmp_path):
    zeros = npy({"descr": "<i8", "fortran_order": False, "shape": (1 << 20,)}, bytes(1 << 23))
    path = npz(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, nodes=zeros)
    assert path.stat().st_size < 1 << 15
    with pytest.raises(ValueError, match="claim more bytes"):
        read_arrays(path)


def test_a_true_npz_is_read_whole(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.zeros((0, 4), np.uint8), "c": np.array(7.5)}
    np.savez(tmp_path / "true.npz", **arrays)
    back = read_arrays(tmp_path / "true.npz")
    assert set(back) == set(arrays) and all(np.array_equal(back[k], arrays[k]) for k in arrays)


def numbers(tmp_path, compute=lambda: {"n": np.arange(3)}):
    return cached("numbers-1", compute, lambda arrays: "n" in arrays, ARRAYS, tmp_path)["n"]


def test_a_value_is_computed_once(tmp_path):
    assert numbers(tmp_path).tolist() == [0, 1, 2]
    assert numbers(tmp_path, compute=None).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["numbers-1.npz"]


def test_a_forged_cache_file_is_computed_again(tmp_path, capsys):
    npz(tmp_path / "numbers-1.npz", n=FORGED["a gigabyte in a header"])
    assert numbers(tmp_path).tolist() == [0, 1, 2]
    assert "claims shape (134217728,)" in capsys.readouterr().err
    numbers(tmp_path, compute=None)
    assert capsys.readouterr().err == ""


def test_another_value_in_the_file_is_computed_again(tmp_path, capsys):
    np.savez(tmp_path / "numbers-1.npz", m=np.arange(3))
    assert numbers(tmp_path).tolist() == [0, 1, 2]
    assert "expected numbers" in capsys.readouterr().err


def test_a_failed_computation_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached("numbers-1", lambda: 1 / 0, lambda value: True, JSON, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_key_depends_on_kind_settings_and_each_row():
    keys = [
        cache_key("a", [1], ["x", "yz"]),
        cache_key("b", [1], ["x", "yz"]),
        cache_key("a", [2], ["x", "yz"]),
        cache_key("a", [1], ["xy", "z"]),
        cache_key("a", [1], [np.array([1, 2])]),
        cache_key("a", [1], [np.array([1, 2], np.int32)]),
        cache_key("a", [1], [np.array([[1, 2]])]),
    ]
    assert len(set(keys)) == len(keys)


def test_the_default_folder_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TMR_JAX_CACHE")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert str(os.getuid()) in cache_folder().name
