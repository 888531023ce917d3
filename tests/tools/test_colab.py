"""The notebook, cell after cell, on a run of seconds; only its installation is left out."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.tools.notebook import code_cells, shell
from tmr_jax.config import load_experiment
from tmr_jax.data.__main__ import parts_to_fetch

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "tools" / "colab_tpu.ipynb"
TINY = ROOT / "tests" / "experiments" / "tiny.py"


def repository(folder: Path) -> Path:
    """One commit with a file, on the branch `main`."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    return folder


@pytest.mark.slow
def test_every_cell_runs_and_again_goes_on(tmp_path):
    own = {
        "REPOSITORY": repository(tmp_path / "origin").as_uri(),
        "SOURCE": str(tmp_path / "source"),
        "RUN": str(tmp_path / "run"),
        "EXPERIMENT": str(TINY),
        "OPTIONS": "--train.epochs 1",
        "LIBRARY": str(tmp_path / "library.smi"),
    }
    names: dict = {}
    said = hits = ""
    installs = 0
    for cell in code_cells(NOTEBOOK):
        if cell.startswith("!pip"):
            installs += 1
        elif cell.startswith("!"):
            hits = shell(cell, names)
            said += hits
        else:
            exec(cell, names)
            names.update({k: v for k, v in own.items() if k in names})
    assert installs == 1 and (tmp_path / "source" / "pyproject.toml").is_file()
    assert "trained: 8 steps" in said and "table/test, t2m" in said
    found = [line.split() for line in hits.splitlines()]
    assert [words[0] for words in found if words and words[0].isdigit()] == ["1", "2", "3", "4"]
    assert "4-chloroaniline" in hits
    train = next(cell for cell in code_cells(NOTEBOOK) if "tmr_jax.train" in cell)
    assert "resumes after step 8" in shell(train, names)
    clone = next(cell for cell in code_cells(NOTEBOOK) if "git clone" in cell)
    assert shell(clone, names) == ""  # it is there


@pytest.mark.parametrize("keep", [False, True])
def test_every_choice_is_an_experiment_with_its_data(keep):
    form, chosen = code_cells(NOTEBOOK)[:2]
    (choices,) = re.findall(r"^CHOICE = .*# @param (\[.*\])$", form, re.M)
    models = {}
    for choice in json.loads(choices):
        names: dict = {}
        exec(form, names)
        names |= {"CHOICE": choice, "KEEP_ON_DRIVE": keep}
        exec(chosen, names)
        config = load_experiment(names["EXPERIMENT"])
        models[choice] = config.model.name
        assert (names["DATA"] or "chebi") == config.data.name
        assert not names["DATA"] or parts_to_fetch(names["DATA"], "") == parts_to_fetch(
            "chebi20", "text2mol"
        )
        assert ("/drive/" in names["RUN"]) == keep and "/drive/" not in names["SOURCE"]
    assert models == {"quickstart": "dual", "DiffTMR": "difftmr", "Memory Bank": "mbank"}


def test_the_kernel_never_holds_the_accelerator():
    """What jax is needed for runs after `!`, in a process of its own."""
    imported = set()
    for cell in code_cells(NOTEBOOK):
        if not cell.startswith("!"):
            for node in ast.walk(ast.parse(cell)):
                if isinstance(node, ast.Import):
                    imported |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module)
    assert imported == {"sys", "google.colab", "pathlib"}
    assert any("!python -m tmr_jax.search" in cell for cell in code_cells(NOTEBOOK))
