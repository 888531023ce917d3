"""Files: written whole or not at all, locked, cached, and never harmful (tmr_jax/data/files.py)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tmr_jax.data.files import (
    ARRAYS,
    JSON,
    Locked,
    cache_folder,
    cache_key,
    cached,
    hold,
    new_folder,
    read_arrays,
    replaced,
    write_json,
    write_text,
)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError), new_folder(path) as partial:
        (partial / "a").write_text("half")
        raise ZeroDivisionError
    assert not list(path.parent.iterdir())
    with new_folder(path) as partial:
        (partial / "a").write_text("whole")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    with pytest.raises(OSError), new_folder(path) as partial:
        (partial / "a").write_text("another")
    assert (path / "a").read_text() == "whole"


def test_the_old_file_stays_until_the_end_and_where_writing_fails(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with replaced(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), replaced(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_utf8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a", "ışık")
    assert (tmp_path / "a").read_bytes() == "ışık".encode()


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"mrr": 0.5}, indent=1)
    assert (tmp_path / "a.json").read_text() == '{\n "mrr": 0.5\n}\n'
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"mrr": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mrr": 0.5}


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


def test_a_second_one_is_told_who_holds_the_lock(tmp_path):
    with hold(tmp_path / "lock") as stale:
        assert stale == ""
        with pytest.raises(Locked, match=f"process {os.getpid()} on "), hold(tmp_path / "lock"):
            pass
    with hold(tmp_path / "lock"):  # free again
        pass


def test_a_lock_left_behind_is_recovered_and_its_owner_named(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import pathlib, time; from tmr_jax.data.files import hold\n"
        f"with hold(pathlib.Path({str(path)!r})): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Locked, match=f"process {other.pid} "), hold(path):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with hold(path) as stale:
        assert f"process {other.pid} on " in stale
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_a_lock_file_with_rubbish_in_it_is_recovered(tmp_path):
    (tmp_path / "lock").write_bytes(b"\xff[1]")
    with hold(tmp_path / "lock") as stale:
        assert stale == "a process that left no name"


def test_the_second_trainer_leaves_in_two_seconds(tmp_path):
    command = [sys.executable, "-m", "tmr_jax.train", "--exp", "quickstart", "--run", str(tmp_path)]
    with hold(tmp_path / "lock"):
        start = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        seconds = time.monotonic() - start
    assert ended.returncode == 3, ended.stderr
    assert f"process {os.getpid()} on " in ended.stderr
    assert seconds < 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock"]
