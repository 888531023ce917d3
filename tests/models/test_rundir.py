"""What is wrong with a run directory is said at once, and nothing in it is lost."""

import json

import pytest

from tmr_jax.models.rundir import describe_code, move_aside, open_directory, settle_config


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
