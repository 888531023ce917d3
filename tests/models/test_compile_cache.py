"""Compiled programs are trusted code: the folder is this user's alone (STACK.md 1.1)."""

import os

import jax
import pytest

from tmr_jax.models.compile_cache import WIDE, use_compile_cache


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
