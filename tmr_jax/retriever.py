"""The Python API: a trained run that encodes texts and molecules and searches a library.

retriever = tmr_jax.load("runs/quickstart").with_library("library.smi")
for hit in retriever.search("an aromatic amine", k=5):
    print(hit.rank, hit.score, hit.content, hit.name)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from tmr_jax.assembly import Assembly, Encoder, assemble_from_run, refines
from tmr_jax.compile_cache import use_compile_cache
from tmr_jax.config import Experiment
from tmr_jax.data.cache import cache_folder
from tmr_jax.index_build import Model
from tmr_jax.library import Account, Library, Listed, listed, open_library
from tmr_jax.refinement import Refiner, read_alpha, settings_of
from tmr_jax.retrieval.refine import Direction, levels
from tmr_jax.store import Filter
from tmr_jax.training.state import parameters_sha256


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # cosine, -1 to 1; higher is better
    content: str  # the SMILES, or the text of a library of texts
    name: str
    refined: float | None = None  # score of the second stage, where the model has one
    id: int = -1  # row of the file, from 0; -1 of an item of a list
    columns: Mapping[str, Any] = {}  # of a library on disk: properties, groups and flags


class Checkpoint(NamedTuple):
    which: str
    step: int
    sha256: str  # of the parameters


def load(run: str | Path, which: Literal["best", "newest"] = "best") -> Retriever:
    """The model of a run directory, ready to encode.

    Raises ValueError where the directory is no run or has no checkpoint that is whole.
    """
    from tmr_jax.training.checkpoint import restore_params

    check_path(run)
    use_compile_cache(cache_folder())
    assembly = assemble_from_run(run)
    params, step = restore_params(run, which)
    checkpoint = Checkpoint(which, step, parameters_sha256(params))
    alpha = read_alpha(Path(run), checkpoint.sha256)
    return Retriever(assembly, params, checkpoint, alpha=alpha, run=str(run))


def check_path(run: str | Path) -> None:
    """ValueError where the locale's encoding cannot write the path, for neither can orbax."""
    path = str(Path(run).absolute())
    if any("\udc80" <= c <= "\udcff" for c in path):
        raise ValueError(
            f"expected a path in the encoding of this locale ({sys.getfilesystemencoding()}), got "
            f"{path.encode('ascii', 'backslashreplace').decode()}; set PYTHONUTF8=1 or move it"
        )


class Retriever:
    """Texts and molecules in one space, where near means that one describes the other."""

    def __init__(
        self,
        assembly: Assembly,
        params: Any,
        checkpoint: Checkpoint,
        encoder: Encoder | None = None,
        library: Library | None = None,
        alpha: float | None = None,
        run: str = "",
    ) -> None:
        self.checkpoint, self.run = checkpoint, run
        self._assembly, self._params, self.alpha = assembly, params, alpha
        self._encoder = encoder or Encoder(assembly, params)
        self._library = library
        self._refiner = None
        if refines(assembly.model):
            self._refiner = Refiner(assembly, params, settings_of(assembly.config))
            self._reader = Encoder(assembly, params, parts=True)

    @property
    def lacks_alpha(self) -> bool:
        """Whether the run was never evaluated, so that the denoiser has no say in its order."""
        return self._refiner is not None and self.alpha is None

    @property
    def config(self) -> Experiment:
        """What the run was trained with."""
        return self._assembly.config

    @property
    def library(self) -> Account | None:
        """What became of the rows of the library; None without one."""
        return None if self._library is None else self._library.account

    @property
    def is_partial(self) -> bool:
        """Whether a part of the library on disk cannot be read, so that hits may be missing."""
        return self._library is not None and self._library.partial

    @property
    def model(self) -> Model:
        """What makes a library's vectors, and what it is called (tmr_jax.index_build)."""
        a = self._assembly
        return Model(self._encoder, a.config, a.vocabulary, self.checkpoint.sha256, self.run)

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Rows of length one; equal bit for bit for equal texts.

        Texts beyond the experiment's max_tokens are cut: see `is_cut`. Raises ValueError, with the
        row, for a text without a visible character.
        """
        return self._encoder.texts(_listed(texts)).rows

    def encode_molecules(self, smiles: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Rows of length one; equal bit for bit for molecules that are one input of the model.

        Raises ValueError, with row and reason, where a SMILES is refused.
        """
        encoded, _, refused = self._encoder.molecules(_listed(smiles))
        if refused:
            shown = "; ".join(f"row {r.index}: {r.reason} ({r.value!r})" for r in refused[:5])
            raise ValueError(
                f"expected every string to be the SMILES of a molecule, got {len(refused):,} of "
                f"{len(smiles):,} that are not: {shown}; mend or remove them"
            )
        return encoded.rows

    def is_cut(self, text: str) -> bool:
        """Whether the model sees only the beginning of a text."""
        tokens = self.config.features.max_tokens
        return bool(self._assembly.tokenizer.encode([text], tokens)[1][0])

    def with_library(
        self, source: str | Path | Sequence[str], smiles_column: str = "", name_column: str = ""
    ) -> Retriever:
        """The same model with molecules to search: a library's folder, a file, or a list of SMILES.

        Files: .smi (SMILES, then a name), CSV, TSV, Parquet, SDF, gzipped or not. What is no
        molecule is left out and counted in `library`. Raises ValueError where none is left, and
        where a folder is of another model.
        """
        if isinstance(source, (str, Path)):
            return self._with(open_library(Path(source), self.model, smiles_column, name_column))
        return self._with(listed(_listed(source), self.model))

    def with_texts(self, texts: Sequence[str]) -> Retriever:
        """The same model with descriptions to search, for the way from a molecule to its text."""
        rows = self.encode_text(texts)
        entries = [(text, f"row {i + 1}") for i, text in enumerate(texts)]
        account = Account("the texts given", len(rows), len(rows), {})
        return self._with(Listed(rows, entries, account, of_texts=True))

    def search(self, text: str, k: int = 10, where: Filter | None = None) -> list[Hit]:
        """The k items of the library that fit a description best, best first.

        A model with a second stage orders its shortlist anew (`Hit.refined`); what follows the
        shortlist is in the order of the cosine. Of a library on disk `where` lets only those
        compete that meet it (tmr_jax.filters.parse_filter).
        """
        query = self.encode_text([text])
        if self._refiner is None or self._holds_texts:
            return self._nearest(query, k, where)
        return self._two_stages(self._refiner, "t2m", text, query, k, where)

    def search_molecule(self, smiles: str, k: int = 10, where: Filter | None = None) -> list[Hit]:
        """The k items of the library nearest to a molecule: its like, or texts that describe it.

        Texts are put in a second order as in `search`.
        """
        query = self.encode_molecules([smiles])
        if self._refiner is None or not self._holds_texts:
            return self._nearest(query, k, where)
        return self._two_stages(self._refiner, "m2t", smiles, query, k, where)

    @property
    def _holds_texts(self) -> bool:
        return self._library is not None and self._library.of_texts

    def _nearest(self, query: np.ndarray, k: int, where: Filter | None) -> list[Hit]:
        if self._library is None:
            raise ValueError(
                "expected a library to search, got a retriever without one; "
                'say load(run).with_library("library.smi") or give it a list of SMILES'
            )
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}; ask for 10")
        return [
            Hit(rank, item.score, item.content, item.name, None, item.id, item.columns)
            for rank, item in enumerate(self._library.find(query, k, where), 1)
        ]

    def _two_stages(
        self,
        refiner: Refiner,
        direction: Direction,
        asked: str,
        query: np.ndarray,
        k: int,
        where: Filter | None,
    ) -> list[Hit]:
        """The k best hits; those of the shortlist in the order of the second stage."""
        length = refiner.settings.shortlist
        hits = self._nearest(query, max(k, length), where)
        if not hits:  # none meets the filter
            return []
        short, rest = hits[:length], hits[length:]
        answers = [hit.content for hit in short]
        if direction == "t2m":
            text, mol = self._reader.texts([asked]), self._reader.molecules(answers)[0]
            group = mol.group
        else:
            text, mol = self._reader.texts(answers), self._reader.molecules([asked])[0]
            group = text.group
        refined = refiner.lists(text, mol, direction, np.zeros(1, np.int64)).refined
        alpha = self.alpha or 0.0  # see lacks_alpha
        level = levels(refined, "fused", alpha)[0]
        score = refined.perturbed[0].copy()
        score[: refined.clean.shape[1]] += alpha * refined.clean[0]
        place = np.argsort(refined.item[0])  # the inputs 0, 1, ... of the shortlist
        order = np.argsort(-level[place][group], kind="stable")  # equals as the cosine has them
        ordered = [short[i]._replace(refined=float(score[place][group[i]])) for i in order]
        return [hit._replace(rank=i) for i, hit in enumerate([*ordered, *rest][:k], 1)]

    def _with(self, library: Library) -> Retriever:
        kept = (self._assembly, self._params, self.checkpoint, self._encoder)
        return Retriever(*kept, library, self.alpha, self.run)


def _listed(strings: Sequence[str]) -> list[str]:
    if isinstance(strings, str):
        raise ValueError(f"expected a list of strings, got one string; write [{strings[:40]!r}]")
    if not len(strings):
        raise ValueError("expected at least one string, got an empty list; give one or more")
    return list(strings)
