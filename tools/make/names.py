"""IUPAC names of molecules: python -m tools.make.names --smiles FILE --out names.tsv

FILE has a SMILES at the start of each line. The names are those of openclatura (MIT), which is not
a dependency: install it, with py2opsin and Java to check them. OPSIN reads every name back, and
`outcome` says how that went: same (the same InChIKey), other, unread, or unchecked without OPSIN;
unnamed and too-slow rows have no name. An interrupted run resumes behind its last whole line.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rdkit import Chem, rdBase

from tmr_jax.data.workers import track
from tmr_jax.search.names import Opsin

LIMIT = 5.0  # seconds of processor time for one molecule
HEADER = "SMILES\tname\toutcome\n"


class TooSlow(BaseException):
    """The time for a molecule is over; openclatura catches exceptions of other kinds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smiles", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write = importlib.import_module("openclatura").name_smiles
    lines = args.smiles.read_text("utf-8").splitlines()
    wanted = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    done = finished(args.out)
    opsin = Opsin()
    with open(args.out, "a", encoding="utf-8") as file, rdBase.BlockLogs():
        for smiles in track([s for s in wanted if s not in done], "names"):
            done[smiles] = outcome = named(smiles, write, opsin.smiles)
            file.write("\t".join((smiles, *outcome)) + "\n")
            file.flush()
    counts = Counter(done[smiles][1] for smiles in wanted)
    print(f"{len(wanted):,} molecules: " + ", ".join(f"{n:,} {o}" for o, n in counts.most_common()))
    return 0


def finished(path: Path) -> dict[str, tuple[str, str]]:
    """Name and outcome of the molecules in an earlier output, whose broken last line is cut off."""
    if not path.exists():
        path.write_text(HEADER, "utf-8")
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode()
    os.truncate(path, len(whole.encode()))
    rows = (line.split("\t") for line in whole.splitlines()[1:])
    return {smiles: (name, outcome) for smiles, name, outcome in rows}


def named(smiles: str, write: Callable[[str], str], read: Callable[[str], str]) -> tuple[str, str]:
    """The name that `write` gives a molecule, and how `read` understands it; see above."""
    try:
        with within(LIMIT):
            name = write(smiles)
    except TooSlow:
        return "", "too-slow"
    except Exception:  # of a beta's many kinds
        return "", "unnamed"
    if not name or not name.isprintable():
        return "", "unnamed"
    back = read(name)
    if not back:
        return name, "unread" if read("ethane") else "unchecked"
    return name, "same" if key(back) == key(smiles) else "other"


def key(smiles: str) -> str:
    mol = Chem.MolFromSmiles(smiles)
    return Chem.MolToInchiKey(mol) if mol is not None else ""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the block after so much processor time; in the main thread only."""

    def stop(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    sys.exit(main())
