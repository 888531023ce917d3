"""Stand-in files of ChEBI-20 that several tests read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tmr_jax.data.datasets import chebi20
from tmr_jax.data.download import Part

ROWS = {
    "train": [("1", "C/C=C" + 2 * chr(92) + "C", "The molecule is one."), ("2", "CC", "Two.")],
    "validation": [("3", "CO", 'The "molecule" is three.')],
    "test": [("4", "CN", "The molecule is four."), ("5", "CS", "Five.")],
}


class ToyChebi20:
    """Five molecules in both upstream forms (seven in Text2Mol's), pinned like the real ones."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = root / "chebi20", monkeypatch
        self.folder.mkdir()
        monkeypatch.setenv("TMR_JAX_DATA", str(root))
        monkeypatch.setenv("TMR_JAX_CACHE", str(root / "cache"))
        floats = " ".join(["0.5"] * 300)
        for split, triples in ROWS.items():
            lines = ["CID\tSMILES\tdescription", *("\t".join(t) for t in triples)]
            self.put(chebi20.MOLT5_PARTS, split, "\n".join(lines) + "\n")
            named = [f"{cid}\t{floats}\tCompound {cid} is it." for cid, _, _ in reversed(triples)]
            if split in chebi20.WILDCARDS:
                named.append(f"{chebi20.WILDCARDS[split]}\t{floats}\tA wildcard.")
            self.put(chebi20.TEXT2MOL_PARTS, split, "\n".join(named) + "\n")

    def put(self, parts: dict[str, Part], split: str, content: str) -> None:
        """Another content for a part, with its hash pinned."""
        self._monkeypatch.setitem(parts, split, self._write(parts[split], content))

    def remove_training_texts(self) -> None:
        """What the data folder holds where the large upstream files could not be had."""
        for parts in (chebi20.MOLT5_PARTS, chebi20.TEXT2MOL_PARTS):
            (self.folder / parts["train"].name).unlink()
        rows = [f"{cid}\t{smiles}" for cid, smiles, _ in ROWS["train"]]
        part = self._write(chebi20.TRAIN_MOLECULES, "\n".join(["CID\tSMILES", *rows]) + "\n")
        self._monkeypatch.setattr(chebi20, "TRAIN_MOLECULES", part)

    def _write(self, part: Part, content: str) -> Part:
        (self.folder / part.name).write_text(content, newline="")
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        return part._replace(sha256=sha256, git_blob="", size=0)


@pytest.fixture
def toy_chebi20(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyChebi20:
    return ToyChebi20(tmp_path, monkeypatch)
