"""What holds for every notebook; the search notebook, cell after cell, on the shipped weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rdkit import Chem

from tests.tools.notebook import ROOT, code_cells, shown
from tmr_jax.search.hits import Hits

SEARCH, COLAB = ROOT / "examples" / "search.ipynb", ROOT / "tools" / "colab_tpu.ipynb"


@pytest.mark.slow
def test_every_search_shows_drawings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All but the installation runs; the file to upload holds three molecules and a row of none."""
    names: dict = {}
    python = [cell for cell in code_cells(SEARCH) if not cell.startswith("!")]

    def outputs(**own: object) -> list[object]:
        found = []
        for cell in python:
            found.append(shown(cell, names))
            names.update({k: v for k, v in own.items() if k in names})
        return found

    summary, *searches = [value for value in outputs(SOURCE=str(ROOT)) if value is not None]
    assert summary.kept == 1000
    assert [len(hits) for hits in searches] == [8, 8, 4, 8]
    for hits in searches:
        assert isinstance(hits, Hits) and hits._repr_html_().count("<svg") == len(hits)
    plain, small, held, near = searches
    assert plain != small and all(hit.columns["mw"] < 200 for hit in small)
    aniline = Chem.MolFromSmarts("c1ccccc1N")
    assert all(Chem.MolFromSmiles(hit.content).HasSubstructMatch(aniline) for hit in held)
    assert names["MOLECULE"] not in {hit.content for hit in plain} and near[0].score > 0.5

    mine = tmp_path / "mine.smi"
    mine.write_text("Nc1ccc(Cl)cc1 4-chloroaniline\nCCO ethanol\nC1CC broken\nNc1ccccc1 aniline\n")
    uploads = SimpleNamespace(upload=lambda: {str(mine): b""})
    colab = SimpleNamespace(files=uploads)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    summary, plain, *_ = [v for v in outputs(SOURCE=str(ROOT), UPLOAD=True) if v is not None]
    assert (summary.kept, summary.rows) == (3, 4)
    assert plain[0].name == "4-chloroaniline"


def test_both_install_in_the_same_way() -> None:
    installs = [
        [cell for cell in code_cells(path) if cell.startswith(("!test -d", "!pip"))]
        for path in (SEARCH, COLAB)
    ]
    assert installs[0] == installs[1] and len(installs[0]) == 2
    assert len([cell for cell in code_cells(SEARCH) if cell.startswith("!")]) == 2


@pytest.mark.parametrize("path", [SEARCH, COLAB], ids=lambda path: path.name)
def test_cells_are_short_and_carry_no_output(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert all(len(cell.splitlines()) <= 8 for cell in code_cells(path))
    assert not any(cell.get("outputs") for cell in content["cells"])


@pytest.mark.parametrize("path", [SEARCH, COLAB], ids=lambda path: path.name)
def test_the_readme_links_it_and_opens_it_in_colab(path: Path) -> None:
    readme, place = (ROOT / "README.md").read_text(encoding="utf-8"), path.relative_to(ROOT)
    assert f"({place})" in readme and f"/blob/main/{place})" in readme
