"""Every block of README.md runs word for word on a fresh clone, in an empty home, without network.

A block behind `<!-- needs: network -->` has to stop with the message that says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from rdkit import Chem

pytestmark = pytest.mark.costly

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK = re.compile(r"^(?:<!-- needs: (\w+) -->\n)?```(sh|python)\n(.*?)^```", re.M | re.S)
SECONDS = 3600  # the training of quickstart takes 13 minutes on two cores that do nothing else
ENDED = (-signal.SIGINT, 128 + signal.SIGINT)  # make alone, or a shell around it
SERVING = re.compile(r"Serving at (http://\S+) ")


class Block(NamedTuple):
    name: str  # heading and language
    needs: str  # "network", or nothing
    code: str


def readme_blocks() -> Iterator[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        heading = section.splitlines()[0].lower().replace(" ", "-")
        for needs, language, code in BLOCK.findall(section):
            yield Block(f"{heading}-{language}", needs, code)


FOUND = [*readme_blocks()]
BLOCKS = {block.name: block for block in FOUND}
STOPS = {
    "install-sh": r"error: expected pip to install the packages of \.venv.*without a network",
    "reproduce-a-paper-sh": r"error: expected train\.txt of chebi20; got no local .*with network",
}
PRINTS = {
    "search-your-molecules-sh": r"(?s) 10 +\d\.\d{4} .*Serving at .*page 200",
    "search-your-molecules-python": r"(?m)^5 \d\.\d+ \S+ \S",
    "quickstart-sh": r"(?s)chebi/test t2m facts .* 10 +\d\.\d{4} ",
    "use-your-own-sh": r"table/test +t2m ",
}


def fresh(folder: Path) -> Path:
    """The files of the working tree that git does not ignore, as a clone of them would have."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # or it is deleted, and that is not committed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def clone(
    tmp_path_factory: pytest.TempPathFactory, make_environment: Callable[[Path], None]
) -> Path:
    """One for all blocks that run, as a reader has."""
    folder = fresh(tmp_path_factory.mktemp("clone"))
    make_environment(folder)
    return folder


def run(block: Block, clone: Path, settings: dict[str, str], seconds: float) -> tuple[int, str]:
    """Exit status and output of a block. A service is asked for its page, then gets a Ctrl-C."""
    language = block.name.rpartition("-")[2]
    program = ["bash", "-euo", "pipefail"] if language == "sh" else [".venv/bin/python"]
    with subprocess.Popen(
        [*program, "-c", block.code],
        cwd=clone,
        env=settings | {"PYTHONPATH": str(clone)},  # whichever tree this interpreter knows
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        alarm = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        out = ""
        try:
            assert process.stdout
            for line in process.stdout:
                out += line
                if address := SERVING.search(line):
                    with urllib.request.urlopen(address[1], timeout=60) as page:
                        out += f"page {page.status}\n"
                    os.killpg(process.pid, signal.SIGINT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            alarm.cancel()
    return process.returncode, out


def test_every_block_is_run_or_says_what_it_needs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^```(?:sh|python)$", text, re.M)) == len(FOUND) == len(BLOCKS)
    assert text.count("<!-- needs: network -->") == text.count("<!--") == len(STOPS)
    assert {name for name, block in BLOCKS.items() if block.needs} == {*STOPS}
    assert {*PRINTS} == {*BLOCKS} - {*STOPS}
    assert 3 * len(STOPS) <= len(BLOCKS)


@pytest.mark.slow("quickstart", "use-your-own", "molecules-sh")
@pytest.mark.parametrize("name", PRINTS)
def test_a_block_runs_as_printed(name: str, clone: Path, home: Path, bare_settings) -> None:
    is_service = "make serve" in BLOCKS[name].code
    with socket.socket() as probe:
        if is_service and probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("another program listens at port 8000, which README.md uses")
    status, out = run(BLOCKS[name], clone, bare_settings(home), SECONDS)
    assert status in (ENDED if is_service else (0,)), out
    assert re.search(PRINTS[name], out), out
    if name.endswith("python"):
        hits = [line.split(maxsplit=3)[2] for line in out.splitlines()[-5:]]
        amine = Chem.MolFromSmarts("[NX3]c")
        assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(amine) for smiles in hits)


@pytest.mark.parametrize("name", STOPS)
def test_without_a_network_a_block_stops_and_says_so(
    name: str, tmp_path: Path, clone: Path, home: Path, bare_settings
) -> None:
    place = fresh(tmp_path) if name == "install-sh" else clone
    status, out = run(BLOCKS[name], place, bare_settings(home), SECONDS)
    assert status == 2 and re.search(STOPS[name], out, re.S), out
    assert (place / ".venv" / ".installed-dev").exists() is (place is clone)
    assert not (place / ".venv" / ".installed-dev,cuda").exists()
