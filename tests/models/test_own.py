"""A model in a file of ones own: found, refused with reasons, run only where it is trusted."""

import pytest

from tmr_jax.data.files import sha256_of
from tmr_jax.models import own
from tmr_jax.models.own import TRUST, keep_code, own_class
from tmr_jax.models.run import build_model
from tmr_jax.models.runtime import CODE
from tmr_jax.types import UserError

GOOD = "class Model:\n    number = 1\n"


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(own, "_TRUSTED", set())
    monkeypatch.delenv(TRUST, raising=False)


@pytest.fixture
def mine(tmp_path):
    def write(code=GOOD):
        path = tmp_path / "mine.py"
        path.write_text(code)
        return path

    return write


def test_a_class_of_a_file(mine):
    assert own_class(f"{mine()}:Model").number == 1
    assert own_class(f"{mine('class Model: number = 2')}:Model").number == 2


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (
            GOOD,
            "Modle",
            "expected a class 'Modle' in .*mine.py; found no such class; did you mean Mo",
        ),
        ("Model = 1", "Model", "found no such class; it has none"),
        ("x = 1\nimport nowhere", "Model", "got ModuleNotFoundError in line 2: No module named"),
        ("def f(:", "Model", "got SyntaxError: invalid syntax"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(mine, code, kind, message):
    with pytest.raises(UserError, match=message):
        own_class(f"{mine(code)}:{kind}")


def test_a_file_that_is_not_there(tmp_path):
    for wrong in (lambda name: own_class(name), lambda name: keep_code(tmp_path, name)):
        with pytest.raises(
            UserError, match=r"found no such file; write --model.name FILE.py:CLASS"
        ):
            wrong(f"{tmp_path}/none.py:Model")


def test_a_class_that_is_no_model(mine, tmp_path):
    from tests.models.test_packed_text import BERT
    from tmr_jax.config import FeatureConfig, ModelConfig, TrainConfig

    model = ModelConfig(name=f"{mine()}:Model")
    with pytest.raises(
        UserError, match=r"expected a subclass of .*DualEncoder as .*; got Model, which is an"
    ):
        build_model(model, FeatureConfig(), TrainConfig(), BERT, (2,), ())


def test_code_of_a_run_waits_for_trust(mine, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (run := tmp_path / "run").mkdir()
    name = f"{mine(GOOD + f'open({str(ran)!r}, {chr(39)}w{chr(39)}).close()')}:Model"
    keep_code(run, name)
    sha256 = sha256_of(run / CODE)
    with pytest.raises(UserError, match=f"read it, then run: export {TRUST}={sha256}"):
        own_class(name, run)
    # Nor by a path in the configuration that leads to the file.
    with pytest.raises(UserError, match="read it, then run"):
        own_class(f"{run / CODE}:Model", run)
    assert not ran.exists()
    monkeypatch.setenv(TRUST, f"{'0' * 64},{sha256}")
    assert own_class(name, run).number == 1 and ran.exists()


def test_a_run_keeps_its_code(mine, tmp_path):
    keep_code(tmp_path, f"{mine()}:Model")
    keep_code(tmp_path, f"{mine()}:Model")
    with pytest.raises(UserError, match=r"as it was when the training of .* began"):
        keep_code(tmp_path, f"{mine('class Model: number = 2')}:Model")
    assert (tmp_path / CODE).read_text() == GOOD
    (run := tmp_path / "run").mkdir()
    code = b"# coding: latin-1\r\nclass Model:\r\n    name = '\xe9'\r\n"
    (tmp_path / "mine.py").write_bytes(code)
    for _ in range(2):
        keep_code(run, f"{tmp_path / 'mine.py'}:Model")
    assert (run / CODE).read_bytes() == code
    assert own_class(f"{tmp_path / 'mine.py'}:Model").name == "é"
