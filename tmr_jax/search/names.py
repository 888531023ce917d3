"""The structure that a query names, by ChEBI's terms or by OPSIN, or that it writes.

Only searches look names up. No evaluation does, or its scores would be those of a dictionary. OPSIN
(Lowe et al. 2011) is a Java program that the optional package py2opsin brings. It runs as a process
of its own, because Java takes a second to start and a name could make it hang.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import threading
import weakref
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tmr_jax.data.features.graph import BadMolecule, parse_smiles, smiles_of_inchi
from tmr_jax.data.features.text import normal_name

START, LIMIT = 30.0, 2.0  # seconds for Java to start, and for each name
LONGEST = 300  # characters of a name
# A small heap and the quick compiler: a name is short.
JAVA = ("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar")


# A word is taken for a SMILES if it has more than letters, or begins as a chain does.
_SMILES = re.compile(r"(?=.*[=#()\[\]@/\\.\d]|CC)[A-Za-z\d=#$:()\[\]@+\-/\\.%*]+")


class Match(NamedTuple):
    """A name and its structure."""

    name: str  # as the source writes it
    smiles: str
    source: str  # a ChEBI id, or "OPSIN"


def written_structure(text: str) -> str | None:
    """The SMILES that a query writes, as SMILES or InChI; None for any other text.

    >>> written_structure("InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3"), written_structure("a steroid")
    ('CCO', None)
    """
    text = text.strip()
    if text.startswith("InChI="):
        return smiles_of_inchi(text)
    if not _SMILES.fullmatch(text):
        return None
    try:
        parse_smiles(text)
    except BadMolecule:
        return None
    return text


def structure_of(name: str) -> Match | None:
    """The structure of a common or systematic chemical name; None for any other text.

    Case, Greek letters, hyphens and white space do not count. Without py2opsin or Java only the
    names of ChEBI's terms are known. A plural names no structure: "indoles" is a class.
    """
    if len(name) > LONGEST:
        return None
    name = " ".join(name.split())
    if match := _terms().get(name.casefold()) or _terms().get(normal_name(name)):
        return match
    smiles = OPSIN.smiles(name)
    try:
        return Match(name, smiles, "OPSIN") if smiles and parse_smiles(smiles) else None
    except BadMolecule:
        return None


@cache
def _terms() -> dict[str, Match]:
    """ChEBI's terms by name, and by `normal_name` where that is the name of one structure."""
    from tmr_jax.data.datasets import chebi

    exact: dict[str, Match] = {}
    normal: dict[str, list[Match]] = {}
    for term in chebi.terms():
        match = Match(term.name, term.smiles, term.chebi_id)
        exact.setdefault(term.name.casefold(), match)
        normal.setdefault(normal_name(term.name), []).append(match)
    alone = {key: found[0] for key, found in normal.items() if len({m.smiles for m in found}) == 1}
    return alone | exact


def jar() -> Path | None:
    """OPSIN of py2opsin, whose import would warn without Java; None where it is not installed."""
    spec = importlib.util.find_spec("py2opsin")
    folders = spec.submodule_search_locations if spec else None
    found = (path for folder in folders or () for path in Path(folder).glob("opsin-cli-*.jar"))
    return next(found, None) if shutil.which(JAVA[0]) else None


class Opsin:
    """One process, one name at a time; it starts with the first, and a name that hangs ends it."""

    def __init__(self, command: tuple[str, ...] | None = None) -> None:
        """`command` reads names and writes SMILES, line by line; by default OPSIN, or nothing."""
        path = jar() if command is None else None
        self._command = command or ((*JAVA, str(path), "-osmi") if path else ())
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen] = []  # none or one
        weakref.finalize(self, _end, self._running)

    def smiles(self, name: str) -> str:
        """The SMILES of a name; "" of one that OPSIN cannot read, and without OPSIN."""
        if not self._command or not name.isprintable() or not 0 < len(name) <= LONGEST:
            return ""
        with self._lock:
            if not self._running:
                self._start()
            return self._ask(name, LIMIT) if self._running else ""

    def _start(self) -> None:
        """Starts the process and waits for its first answer; one that does not come is the last."""
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the search
            )
            self._running.append(process)
        if not (self._running and self._ask("methane", START)):
            self._command = ()

    def _ask(self, name: str, limit: float) -> str:
        (process,) = self._running
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has ended
            line = b""
        finally:
            timer.cancel()
        if not line:
            _end(self._running)
        return line.decode().strip()


def _end(running: list[subprocess.Popen]) -> None:
    while running:
        # Closes the pipes and waits; an unsent rest trips over a closed pipe.
        with contextlib.suppress(OSError), running.pop() as process:
            process.kill()


OPSIN = Opsin()  # of this program; its process starts with the first name that ChEBI lacks
