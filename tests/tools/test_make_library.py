"""The library of examples is what its tool writes, and every line of it is a molecule."""

import importlib
from pathlib import Path

from tmr_jax.data.readers import read_rows

FILE = Path(__file__).parents[2] / "examples" / "library.smi"


def test_the_file_is_what_the_tool_writes() -> None:
    lines = importlib.import_module("tools.make.library").lines()
    assert FILE.read_text("utf-8").splitlines() == lines and len(lines) == 1000


def test_every_line_is_a_molecule_with_a_name() -> None:
    rows = [*read_rows(FILE)]
    assert len(rows) == 1000 and not any(row.refused for row in rows)
    assert len({row.content for row in rows}) == 1000 and all(row.name for row in rows)
