"""What is written is there whole or not at all (tmr_jax/data/files.py)."""

import json

import pytest

from tmr_jax.data.files import replaced, write_json, write_text


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
