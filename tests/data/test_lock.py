"""One trainer per directory."""

import json
import os
import subprocess
import sys
import time

import pytest

from tmr_jax.data.files import Locked, hold


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
