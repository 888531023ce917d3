"""The Python API: a trained run that encodes texts and molecules and searches a library.

retriever = tmr_jax.load("runs/quickstart").with_library("library.smi")
for hit in retriever.search("an aromatic amine", k=5):
    print(hit.rank, hit.score, hit.content, hit.name)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from tmr_jax.config import Experiment
from tmr_jax.data.cache import cache_folder
from tmr_jax.data.features.fingerprint import tanimoto
from tmr_jax.eval.alpha import read_alpha
from tmr_jax.eval.ood import OodDetector, read_detector
from tmr_jax.eval.rerank import Refiner, levels, settings_of
from tmr_jax.eval.rerank_steps import Direction
from tmr_jax.index.build import Model
from tmr_jax.index.library import Account, Library, Listed, first_parents, listed, open_library
from tmr_jax.index.schema import DESCRIPTIONS, Filter
from tmr_jax.models.encode import Encoded, Encoder
from tmr_jax.models.run import Checkpoint, TrainedModel, load_run, refines
from tmr_jax.models.runtime import use_compile_cache
from tmr_jax.search.diversity import spread
from tmr_jax.search.explain import Explanation, explain
from tmr_jax.search.substructure import Matcher
from tmr_jax.types import UserError

MATCHED_FIRST = 128  # molecules looked at for a substructure at first; four times as many next
SPREAD_FROM = 10  # molecules for each that is shown, of which those that are spread out are chosen


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # cosine, -1 to 1; higher is better
    content: str  # the SMILES, or the text of a library of texts
    name: str
    refined: float | None = None  # score of the second stage, where the model has one
    id: int = -1  # row of the file, from 0; -1 of an item of a list
    columns: Mapping[str, Any] = {}  # of a library on disk: properties, groups and flags
    is_text: bool = False  # whether `content` is a text


class Containing(NamedTuple):
    """Hits that hold a substructure, best first."""

    hits: list[Hit]
    looked: int  # molecules that were looked at, from the nearest on
    is_all: bool  # whether no more than these are to be had, or were asked for


class CutShort(UserWarning):
    """There was no time to look at more molecules for a substructure."""

    def __init__(self, looked: int) -> None:
        super().__init__(f"only the {looked:,} nearest molecules were looked at for the SMARTS")


def load(run: str | Path, which: Literal["best", "newest"] = "best") -> Retriever:
    """The model of a run directory, ready to encode.

    Raises ValueError where the directory is no run or has no checkpoint that is whole.
    """
    use_compile_cache(cache_folder())
    assembly, params, checkpoint = load_run(run, which)
    alpha = read_alpha(Path(run), checkpoint.sha256)
    known = read_detector(Path(run), checkpoint.sha256)
    return Retriever(assembly, params, checkpoint, alpha=alpha, run=str(run), known=known)


class Retriever:
    """Texts and molecules in one space, where near means that one describes the other."""

    def __init__(
        self,
        assembly: TrainedModel,
        params: Any,
        checkpoint: Checkpoint,
        encoder: Encoder | None = None,
        library: Library | None = None,
        alpha: float | None = None,
        run: str = "",
        matcher: Matcher | None = None,
        known: OodDetector | None = None,
    ) -> None:
        self.checkpoint, self.run = checkpoint, run
        self._assembly, self._params, self.alpha = assembly, params, alpha
        self._encoder = encoder or Encoder(assembly, params)
        self._library, self._matcher = library, matcher or Matcher()
        self._known, self._refiner = known, None
        self._reader = Encoder(assembly, params, parts=True)
        if refines(assembly.model):
            self._refiner = Refiner(assembly, params, settings_of(assembly.config))

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

    def look(self) -> dict[str, str]:
        """Parts of the library that cannot be read now, and why: for who serves it for days."""
        return {} if self._library is None else self._library.look()

    @property
    def model(self) -> Model:
        """What makes a library's vectors, and what it is called (tmr_jax.index.build)."""
        a = self._assembly
        return Model(self._encoder, a.config, a.vocabulary, self.checkpoint.sha256, self.run)

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Rows of length one; of one call, equal bit for bit for equal texts.

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
            raise UserError(
                f"expected every string to be the SMILES of a molecule, got {len(refused):,} of "
                f"{len(smiles):,} that are not: {shown}; mend or remove them"
            )
        return encoded.rows

    def warm(self) -> None:
        """Compiles what a question needs: what comes later has the shapes of these."""
        self._encoder.warm()
        if self._refiner is not None:
            self._reader.warm()

    def is_cut(self, text: str) -> bool:
        """Whether the model sees only the beginning of a text."""
        tokens = self.config.features.max_tokens
        return bool(self._assembly.tokenizer.encode([text], tokens)[1][0])

    def with_library(
        self,
        source: str | Path | Sequence[str],
        smiles_column: str = "",
        name_column: str = "",
        text_column: str = "",
    ) -> Retriever:
        """The same model with molecules to search: a library's folder, a file, or a list of SMILES.

        Files: .smi (SMILES, then a name), CSV, TSV, Parquet, SDF, gzipped or not. A folder may be
        of descriptions, and so is a .txt with one on each line and a table with a `text_column`.
        What is no molecule or text is left out and counted in `library`. Raises ValueError where
        none is left, and where a folder is of another model.
        """
        if isinstance(source, (str, Path)):
            columns = (smiles_column, name_column, text_column)
            return self._with(open_library(Path(source), self.model, *columns))
        return self._with(listed(_listed(source), self.model))

    def with_texts(self, texts: Sequence[str]) -> Retriever:
        """The same model with a list of descriptions to search: which fit a molecule?"""
        encoded = self._encoder.texts(_listed(texts))
        entries = [(text, f"row {i + 1}") for i, text in enumerate(texts)]
        account = Account("the texts given", len(texts), len(texts), {}, DESCRIPTIONS)
        return self._with(Listed(encoded.rows, encoded.norm, entries, account))

    def search(
        self,
        text: str,
        k: int = 10,
        where: Filter | None = None,
        substructure: str = "",
        spread: float = 0.0,
    ) -> list[Hit]:
        """The k items of the library that fit a description best, best first.

        A model with a second stage orders its shortlist anew (`Hit.refined`); what follows the
        shortlist is in the order of the cosine. Of a library on disk `where` lets only those
        compete that meet it (`search.filters.parse_filter`). `substructure` is a SMARTS that every
        hit holds: see `containing`. A `spread` above 0 trades fit for unlike structures, see
        tmr_jax.search.diversity; ranks are then places in that order.
        """
        query = self.encode_text([text])
        return self._found(text, "t2m", query, k, where, substructure, spread)

    def search_molecule(
        self,
        smiles: str,
        k: int = 10,
        where: Filter | None = None,
        substructure: str = "",
        spread: float = 0.0,
    ) -> list[Hit]:
        """The k items of the library nearest to a molecule: its like, or texts that describe it.

        Texts are put in a second order as in `search`, whose other arguments are those of this.
        """
        query = self.encode_molecules([smiles])
        return self._found(smiles, "m2t", query, k, where, substructure, spread)

    def nearest(
        self,
        vectors: Float[np.ndarray, "Q D"],
        k: int,
        where: Filter | None = None,
        substructure: str = "",
    ) -> list[list[Hit]]:
        """The first stage alone, for rows that are encoded already: k hits of each, best first."""
        if substructure:
            rows = (vectors[i : i + 1] for i in range(len(vectors)))
            return [self.containing(row, k, where, substructure).hits for row in rows]
        library = self._searched(k)
        texts = library.account.of_texts
        return [
            [
                Hit(rank, i.score, i.content, i.name, None, i.id, i.columns, texts)
                for rank, i in enumerate(items, 1)
            ]
            for items in library.find(vectors, k, where)
        ]

    def containing(
        self, vector: Float[np.ndarray, "1 D"], k: int, where: Filter | None, smarts: str
    ) -> Containing:
        """The k nearest molecules that hold a substructure, as far as two seconds reach.

        Molecules are looked at from the nearest on. Raises ValueError for a pattern that is none,
        and its kind `TooSlow` where not even the first are looked at in time (F14).
        """
        if self._holds_texts:
            raise UserError("expected molecules to look into, got texts; leave the SMARTS out")
        # A salt may lack what its acid holds: one of each is chosen of those that hold it.
        each = where is not None and where.parents
        where = where._replace(parents=False) if where is not None else None
        kept: list[Hit] = []
        seen, spent, fetched, everything = 0, 0.0, max(4 * k, MATCHED_FIRST), False
        while not everything and len(kept) < k:
            hits = self.nearest(vector, fetched, where)[0]
            looked = self._matcher.look(smarts, [h.content for h in hits[seen:]], spent)
            spent += looked.seconds
            matches = looked.matches.tolist()
            kept += [h for h, holds in zip(hits[seen:], matches, strict=False) if holds]
            kept = first_parents(kept) if each else kept
            seen += len(matches)
            if not looked.all:
                break
            everything = len(hits) < fetched
            fetched *= 4
        done = len(kept) >= k or everything
        return Containing(_ranked(kept[:k]), seen, done)

    def second_stage(self, asked: str, hits: list[Hit], direction: Direction = "t2m") -> list[Hit]:
        """Hits of `nearest` with those of the shortlist in the order of the second stage.

        `asked` is what was looked for, a text or, with "m2t", a SMILES whose hits are texts. The
        same hits where the model has no second stage.
        """
        if self._refiner is None or not hits:
            return hits
        ordered = self._molecules_ordered if direction == "t2m" else self._texts_ordered
        return _ranked([*ordered(asked, hits[: self.shortlist]), *hits[self.shortlist :]])

    def _molecules_ordered(self, text: str, short: list[Hit]) -> list[Hit]:
        """The library has what s1 takes of a molecule: only those to be denoised are read anew.

        Molecules that are one compete once.
        """
        assert self._refiner is not None and self._library is not None
        asked = self._reader.texts([text])
        s1 = self._refiner.perturbed(asked, self._library.embeddings([hit.id for hit in short]))
        same = [hit.columns.get("identity", hit.content) for hit in short]
        _, first, group = np.unique(same, return_index=True, return_inverse=True)
        value, level = s1[first], np.full(len(first), -1)  # of the rest: below all of the head
        head = np.lexsort((first, -value))[: self._refiner.settings.candidates]
        mol, kept, _ = self._reader.molecules([short[i].content for i in first[head]])
        head, score = head[kept], value.copy()
        score[head], level[head] = self._denoised(asked, mol, "t2m", mol.group)
        value[head] = 0  # equals as the cosine has them
        order = np.lexsort((-value[group], -level[group]))
        return [short[i]._replace(refined=float(score[group[i]])) for i in order]

    def _texts_ordered(self, smiles: str, short: list[Hit]) -> list[Hit]:
        text = self._reader.texts([hit.content for hit in short])
        mol = self._reader.molecules([smiles])[0]
        score, level = self._denoised(text, mol, "m2t", text.group)
        order = np.argsort(-level, kind="stable")  # equals as the cosine has them
        return [short[i]._replace(refined=float(score[i])) for i in order]

    def _denoised(
        self, text: Encoded, mol: Encoded, direction: Direction, group: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and place (higher is better) of the answers to the one question, [n] each."""
        assert self._refiner is not None
        refined = self._refiner.lists(text, mol, direction, np.zeros(1, np.int64)).refined
        alpha = self.alpha or 0.0  # see lacks_alpha
        score = refined.perturbed[0].copy()
        score[: refined.clean.shape[1]] += alpha * refined.clean[0]
        place = np.argsort(refined.item[0])  # of the distinct inputs 0, 1, ...
        return score[place][group], levels(refined, "fused", alpha)[0][place][group]

    def _found(
        self,
        asked: str,
        direction: Direction,
        query: np.ndarray,
        k: int,
        where: Filter | None,
        substructure: str,
        weight: float,
    ) -> list[Hit]:
        wanted = self.wanted(k, weight, direction)
        if substructure:
            found = self.containing(query, wanted, where, substructure)
            if not found.is_all and len(found.hits) < k:
                warnings.warn(CutShort(found.looked), stacklevel=3)
            hits = found.hits
        else:
            hits = self.nearest(query, wanted, where)[0]
        return self.finished(asked, hits, k, weight, direction)

    def wanted(self, k: int, spread: float, direction: Direction) -> int:
        """How many hits of the first stage the later ones choose k from."""
        wider = SPREAD_FROM * k if spread else 0
        return max(k, wider, self.shortlist if self._is_staged(direction) else 0)

    def finished(
        self, asked: str, hits: list[Hit], k: int, spread: float, direction: Direction
    ) -> list[Hit]:
        """k of the hits of the first stage, after the second, where there is one, and the spread.

        `asked` is a text, or with "m2t" a SMILES. Raises ValueError for a spread of texts.
        """
        if spread and self._holds_texts:
            raise UserError("expected molecules to spread out, got texts; leave the spread out")
        if self._is_staged(direction):
            hits = self.second_stage(asked, hits, direction)
        return spread_hits(hits, k, spread) if spread else hits[:k]

    def _is_staged(self, direction: Direction) -> bool:
        """Whether there is a second stage for it: none compares molecules with molecules."""
        return self._refiner is not None and self._holds_texts == (direction == "m2t")

    def explain(self, text: str, smiles: str) -> Explanation:
        """Which words and atoms the cosine of a pair rests on; see tmr_jax.search.explain."""
        return explain(self._assembly, self._reader, text, smiles, self._encoder)

    def is_unlike(self, text: str) -> bool | None:
        """Whether a text is so unlike the validation texts that its hits deserve no trust.

        One validation text in twenty is by its own threshold. None of a run that was not evaluated
        with validation texts at hand.
        """
        unlike = self.are_unlike(self.encode_text([text]))
        return None if unlike is None else bool(unlike[0])

    def are_unlike(self, texts: Float[np.ndarray, "Q D"]) -> Bool[np.ndarray, " Q"] | None:
        """`is_unlike` of rows that `encode_text` has given."""
        if self._known is None:
            return None
        return self._known.ood_score(texts) > self._known.threshold

    @property
    def shortlist(self) -> int:
        """How many hits a second stage orders; 0 without one."""
        return 0 if self._refiner is None else self._refiner.settings.shortlist

    @property
    def _holds_texts(self) -> bool:
        return self._library is not None and self._library.account.of_texts

    def _searched(self, k: int) -> Library:
        if self._library is None:
            raise UserError(
                "expected a library to search, got a retriever without one; "
                'say load(run).with_library("library.smi") or give it a list of SMILES'
            )
        if k < 1:
            raise UserError(f"expected k of at least 1, got {k}; ask for 10")
        return self._library

    def _with(self, library: Library) -> Retriever:
        kept = (self._assembly, self._params, self.checkpoint, self._encoder)
        return Retriever(*kept, library, self.alpha, self.run, self._matcher, self._known)


def spread_hits(hits: list[Hit], k: int, weight: float) -> list[Hit]:
    """k of the hits, chosen for fit and for unlike structures; see search/diversity.py.

    Fit is the refined score where k hits have one, or the cosine.
    """
    refined = [hit for hit in hits if hit.refined is not None]
    hits = refined if len(refined) >= k else hits
    fit = [hit.refined if hits is refined else hit.score for hit in hits]
    likeness = tanimoto([hit.content for hit in hits])
    chosen = spread(np.array(fit, np.float32), likeness, k, weight)
    return _ranked([hits[i] for i in chosen])


def _ranked(hits: list[Hit]) -> list[Hit]:
    return [hit._replace(rank=i) for i, hit in enumerate(hits, 1)]


def _listed(strings: Sequence[str]) -> list[str]:
    if isinstance(strings, str):
        raise UserError(f"expected a list of strings, got one string; write [{strings[:40]!r}]")
    if not len(strings):
        raise UserError("expected at least one string, got an empty list; give one or more")
    return list(strings)
