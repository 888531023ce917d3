"""From a file to an index, a search and the service: the commands of docs/, on a small file."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.costly

ROOT = Path(__file__).resolve().parent.parent.parent


def blocks(page: str, heading: str, language: str = "sh") -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (section,) = (x for x in re.split(r"^#+ ", text, flags=re.M) if x.startswith(f"{heading}\n"))
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


@pytest.fixture
def place(tiny_run: Path, tmp_path: Path, make_environment: Callable[[Path], None]) -> Path:
    """A folder as a reader has it: the project, a run, and files of molecules."""
    for name in ("Makefile", "pyproject.toml", "tools", "tmr_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_environment(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "runs" / "quickstart")
    molecules = [(f"{'C' * i}O", f"chain{i}") for i in range(1, 30)] + [("Nc1ccccc1", "aniline")]
    lines = [f"{smiles} {name}\n" for smiles, name in molecules]
    (tmp_path / "library.smi").write_text("".join([*lines, "C1CC broken\n"]))
    with open(tmp_path / "library.csv", "w", newline="") as file:
        csv.writer(file).writerows([("smiles", "id"), *molecules])
    (tmp_path / "corpus.txt").write_text("An ester of salicylic acid.\n\nAn alcohol.\n")
    return tmp_path


def settings(folder: Path) -> dict[str, str]:
    # What a `make test ARGS=...` hands on is not meant for the commands of the documentation.
    outer = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "MARKED", "JOBS")
    plain = {name: value for name, value in os.environ.items() if name not in outer}
    return {**plain, "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{plain['PATH']}"}


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=settings(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_from_a_file_to_an_answer_over_http(place: Path) -> None:
    (search,) = blocks("search.md", "Search a file")
    (index,) = blocks("search.md", "Build an index")
    found = run(search, place)
    assert found.count("chain") >= 10 and "aniline" in found + (place / "hits.html").read_text()
    found = run(index, place)
    assert "every byte as it was written" in found and "30 molecules of 31 rows" in found
    assert (place / "index" / "refused.tsv").read_text().count("\n") == 2  # with its header
    (serve,) = blocks("serve.md", "Serve: a page and an API")
    _, line = serve.splitlines()  # the second says what the first does
    line = line.replace("--port 8080", "--port 0")  # a free one: any other may be taken
    body = re.search(r"-d '(.*?)'", *blocks("serve.md", "The API", "text"))
    assert body
    with subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        cwd=place,
        env=settings(place),
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().split()[2]
            request = urllib.request.Request(
                f"{address}/api/search", body[1].encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                hits = json.load(answer)["answers"][0]["hits"]
            assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
        finally:
            service.terminate()


def test_from_a_corpus_to_the_descriptions_of_a_structure(place: Path) -> None:
    (corpus,) = blocks("search.md", "Indexes of texts")
    found = run(corpus, place)
    assert "2 descriptions of 3 rows" in found
    assert "An ester of salicylic acid." in found and "An alcohol." in found
