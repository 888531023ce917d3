"""Freed blocks stay with the process; compiled programs are trusted code, in a private folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import pytest

from tmr_jax.models.runtime import (
    WIDE,
    describe_code,
    move_aside,
    open_directory,
    record_software,
    settle_config,
    software,
    use_compile_cache,
)


@pytest.fixture(autouse=True)
def unset():
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_the_folder_is_made_private_and_an_open_one_is_closed(tmp_path):
    assert use_compile_cache(tmp_path / "a")
    place = tmp_path / "a" / "compiled"
    assert place.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(place)
    jax.config.update("jax_compilation_cache_dir", None)
    place.chmod(0o777)
    assert use_compile_cache(tmp_path / "a")
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_link_or_a_place_that_cannot_be_made_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "compiled").symlink_to(tmp_path / "elsewhere")
    assert not use_compile_cache(tmp_path / "b")
    (tmp_path / "file").write_text("")
    assert not use_compile_cache(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_the_user_set_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", "/somewhere")
    assert use_compile_cache(tmp_path)
    assert jax.config.jax_compilation_cache_dir == "/somewhere"


def test_programs_are_for_vectors_of_the_whole_width_unless_the_user_says_otherwise(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    use_compile_cache(tmp_path)
    use_compile_cache(tmp_path)
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {WIDE}"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    use_compile_cache(tmp_path)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=256"


# Memory

PROGRAM = """
import resource
import numpy as np
from tmr_jax.models.runtime import keep_freed_memory

kept = {use} and keep_freed_memory()
for i in range(6):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MB, touched and freed
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(use: bool) -> tuple[bool, int]:
    command = [sys.executable, "-c", PROGRAM.format(use=use)]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return words[0] == "1", int(words[1])


def test_the_next_large_block_is_the_last_one():
    kept, few = faults(True)
    if kept:  # a C library without mallopt changes nothing
        assert few < faults(False)[1] / 10


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"that can be written; got .*Not a directory"):
        open_directory(tmp_path / "file" / "run")
    open_directory(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_another_configuration_is_refused_and_its_fields_are_shown(tmp_path):
    first = {"optim": {"clip": 1.0, "warmup": 5}, "seed": 0}
    assert settle_config(tmp_path, json.dumps(first)) is False
    assert settle_config(tmp_path, json.dumps(first)) is True
    other = {"optim": {"clip": 2.0, "warmup": 5}, "name": "x"}
    with pytest.raises(ValueError, match="--fresh") as error:
        settle_config(tmp_path, json.dumps(other))
    told = str(error.value)
    assert "optim.clip: 1.0 there, 2.0 now" in told
    assert "seed: 0 there, 'absent' now" in told
    assert "warmup" not in told
    assert json.loads((tmp_path / "config.json").read_text()) == first


def test_a_folder_that_is_no_run_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        settle_config(tmp_path, "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_moving_aside_takes_the_first_free_name(tmp_path):
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "content").write_text(str(number))
        assert move_aside(tmp_path / "run") == tmp_path / f"run.old-{number}"
    assert (tmp_path / "run.old-1" / "content").read_text() == "1"


def test_the_code_is_described_even_where_there_is_no_git(monkeypatch):
    assert describe_code().strip()
    monkeypatch.setenv("PATH", "")
    assert describe_code() == "no git repository: an installed package\n"


def test_a_sitting_with_another_version_is_recorded_and_named(tmp_path, monkeypatch):
    assert record_software(tmp_path) == "" == record_software(tmp_path)
    assert json.loads((tmp_path / "software.json").read_text()) == [software()]
    assert software()["jax"] == jax.__version__
    old = software()
    monkeypatch.setattr(
        "tmr_jax.models.runtime.version", lambda name: old[name] + "x"[: name == "jax"]
    )
    assert record_software(tmp_path) == f"jax {jax.__version__}x (before: {jax.__version__})"
    assert json.loads((tmp_path / "software.json").read_text()) == [old, software()]
    assert record_software(tmp_path) == ""
