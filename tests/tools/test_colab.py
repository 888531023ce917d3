"""The notebook, cell after cell, on a run of seconds; only its installation is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "tools" / "colab_tpu.ipynb"
TINY = ROOT / "tests" / "experiments" / "tiny.py"


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def shell(line: str, names: dict) -> str:
    """A line after `!`, as a notebook runs it: {NAME} is what the name holds."""
    command = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), line[1:])
    command = command.replace("python ", f"{sys.executable} ", 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_cell_runs_and_again_goes_on(tmp_path, capsys):
    own = {
        "RUN": str(tmp_path / "run"),
        "EXPERIMENT": str(TINY),
        "OPTIONS": "--train.epochs 1",
        "LIBRARY": str(tmp_path / "library.smi"),
    }
    names: dict = {}
    said = ""
    installs = 0
    for cell in cells():
        if cell.startswith("!pip"):
            installs += 1
        elif cell.startswith("!"):
            said += shell(cell, names)
        else:
            exec(cell, names)
            names.update({k: v for k, v in own.items() if k in names})
    assert installs == 1 and "trained: 8 steps" in said and "table/test, t2m" in said
    hits = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in hits] == ["1", "2", "3", "4"]
    train = next(cell for cell in cells() if "tmr_jax.train" in cell)
    assert "goes on after step 8" in shell(train, names)


def test_cells_are_short_and_carry_no_output():
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(len(cell.splitlines()) <= 8 for cell in cells())
    assert not any(c.get("outputs") for c in content["cells"])
