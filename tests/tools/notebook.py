"""Runs the cells of a notebook without Jupyter: Python, or one line after `!`."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def code_cells(notebook: Path) -> list[str]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def shell(line: str, names: dict) -> str:
    """A line after `!`, as a notebook runs it: {NAME} is what the name holds."""
    command = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), line[1:])
    command = re.sub(r"\bpython ", f"{sys.executable} ", command, count=1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown(cell: str, names: dict) -> Any:
    """Runs a cell of Python; the value of its last line where that is an expression, else None."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
