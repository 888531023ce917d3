"""The Python API: a trained run that encodes texts and molecules and searches an index.

retriever = tmr_jax.load("runs/quickstart").with_library("library.smi")
for hit in retriever.search("an aromatic amine", k=5):
    print(hit.rank, hit.score, hit.content, hit.name)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from tmr_jax.config import Experiment
from tmr_jax.data.features.graph import parse_smiles
from tmr_jax.data.features.text import clean_text
from tmr_jax.data.files import cache_folder
from tmr_jax.eval.ood import read_detector
from tmr_jax.index import index
from tmr_jax.index.index import DiskIndex, Index, InMemoryIndex, Model, Summary
from tmr_jax.index.schema import DESCRIPTIONS, Filter, Hit, parse_filter
from tmr_jax.models.encode import Encoder
from tmr_jax.models.run import load_to_search
from tmr_jax.models.runtime import FACTS_FILE, SHIPPED, run_folder, use_compile_cache
from tmr_jax.search.facets import demanded, facets, fused, met_by, union, without_classes
from tmr_jax.search.names import Match, structure_of, written_structure
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.search.explain import Explanation
    from tmr_jax.search.hits import Hits

DIVERSE_FROM = 10  # candidates for each diverse hit
NEAREST = 20  # molecules nearest to a named structure among which it is looked for


class Query(NamedTuple):
    """One search."""

    content: str  # a description or a SMILES
    of: Literal["text", "molecule"] = "text"
    k: int = 10
    where: Filter | None = None  # only items that meet it compete; needs an index on disk
    substructure: str = ""  # a SMARTS that every hit holds
    diversity: float = 0.0  # 0 to 1, see tmr_jax.search.diversity
    pure: bool = False  # by the model alone, whatever a text states, names or writes

    def read(self) -> Query:
        """Of a text that is a SMILES or an InChI, the query for that molecule."""
        smiles = written_structure(self.content) if self.of == "text" and not self.pure else None
        return self._replace(content=smiles, of="molecule") if smiles else self


class EncodedQuery(NamedTuple):
    """What the model makes of a query, whatever it is compared with."""

    row: Float[np.ndarray, "1 D"]  # of length one
    is_cut: bool = False  # the model reads only the beginning of the text
    is_ood: bool = False  # unlike the validation texts of the run


class Named(NamedTuple):
    """The structure that a query names, and the molecule of the library that comes nearest."""

    match: Match
    is_exact: bool  # whether `nearest` is that structure
    nearest: Hit  # its score is the cosine of the two molecules

    def __str__(self) -> str:
        name, smiles, source = self.match
        found = f"{self.nearest.content} ({self.nearest.name})"
        if self.is_exact:
            return f"{name} ({source}) is in this library: {found}"
        return f"{name} ({source}, {smiles}) is not in this library; nearest by structure: {found}"


class Answer(NamedTuple):
    query: Query
    hits: list[Hit]  # best first
    is_cut: bool = False
    is_unsure: bool = False  # no hit fits the text as those of answered validation queries do
    looked: int | None = None  # molecules checked for the substructure, where time ran out
    partial: bool = False  # a part of the index cannot be read, so hits may be missing
    named: Named | None = None  # where the query is a chemical name; the hits do not depend on it
    facets: tuple[str, ...] = ()  # filters that the text states, by which molecules were raised

    @property
    def has_stated(self) -> bool:
        """Whether a hit meets all that the text states; False where it states nothing."""
        return bool(self.facets) and bool(met_by(self.hits, parse_filter(self.facets)).any())

    @property
    def best_score(self) -> float:
        """The highest score of the last stage; hits that were raised are not in its order."""
        scores = (hit.score if hit.refined is None else hit.refined for hit in self.hits)
        return float(max(scores, default=-np.inf))


UNSURE = "no hit fits as well as those of answered validation queries do, so they may all be wrong"


class CutShort(UserWarning):
    """There was no time to check more molecules for a substructure."""

    def __init__(self, looked: int) -> None:
        super().__init__(f"only the {looked:,} nearest molecules were checked for the SMARTS")


def load(run: str | Path | None = None, which: Literal["best", "newest"] = "best") -> Retriever:
    """The model of a run or of exported weights, ready to encode; by default the shipped weights.

    Raises UserError if the directory is neither, or damaged, and for None if none are shipped.
    """
    return Retriever(run_folder(run), which)


class Retriever:
    """Texts and molecules in one space, where near means that one describes the other."""

    def __init__(self, run: Path, which: Literal["best", "newest"] = "best") -> None:
        """See `load`."""
        use_compile_cache(cache_folder())
        self._assembly, self._params, self.checkpoint = load_to_search(run, which)
        assembly, params, sha256 = self._assembly, self._params, self.checkpoint.sha256
        self.run, self.alpha = str(run), None
        self._encoder = Encoder(assembly, params)
        identity = (assembly.config, assembly.vocabulary, sha256, self.run)
        self.model = Model(self._encoder, *identity)  # encodes the items of an index
        self._reader = Encoder(assembly, params, parts=True)
        self._detector = read_detector(run, sha256)
        self._library: Index | None = None
        self._second_stage = None
        if assembly.reranks:
            from tmr_jax.eval.rerank import read_alpha
            from tmr_jax.search.rerank import SecondStage

            self.alpha = read_alpha(run, sha256)
            self._second_stage = SecondStage(assembly, params, self._reader)
        elif (run / FACTS_FILE).is_file():
            from tmr_jax.eval.facts import read_facts
            from tmr_jax.search.rerank import FactsStage

            if facts := read_facts(run, sha256):
                self._second_stage = FactsStage(facts)

    @property
    def config(self) -> Experiment:
        """What the run was trained with."""
        return self._assembly.config

    @property
    def name(self) -> str:
        """What a reader calls the model: the folder of its run, or the weights of the package."""
        run = Path(self.run).resolve()
        return "weights of the package" if run == SHIPPED.resolve() else run.name

    @property
    def lacks_alpha(self) -> bool:
        """Whether the run was never evaluated, so that the denoiser does not affect the order."""
        return self._assembly.reranks and self.alpha is None

    @property
    def shortlist(self) -> int:
        """How many hits a second stage reorders; 0 without one."""
        return 0 if self._second_stage is None else self._second_stage.shortlist

    def warm(self) -> None:
        """Compiles every shape of query, so that none waits for the compiler later."""
        self._encoder.warmup()
        if self._assembly.reranks:
            self._reader.warmup()

    # The index

    @property
    def library(self) -> Summary | None:
        """What the index holds and which rows were skipped; None without one."""
        return None if self._library is None else self._library.account

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of the columns of the file that was indexed: "number", "date" or "text" of each."""
        return {} if self.library is None else self.library.columns

    def where(self, words: Sequence[str]) -> Filter:
        """The filter of words such as "mw<500", "!nitro", or "pIC50>7" of a column of the file.

        UserError for an invalid word, with the nearest names. See `parse_filter`.
        """
        return parse_filter(_strings(words), self.columns)

    @property
    def is_partial(self) -> bool:
        """Whether a part of the index on disk cannot be read, so that hits may be missing."""
        return self._library is not None and self._library.partial

    def count(self, where: Filter | None = None) -> int:
        """How many items of the index meet a filter.

        An upper bound where `Filter.repeats`: which of equal parents counts depends on the
        query.
        """
        return self._open(1).count(where)

    def check(self) -> dict[str, str]:
        """Parts of the index that cannot be read now, and why; a service asks every few seconds."""
        return {} if self._library is None else self._library.check()

    def with_library(
        self,
        source: str | Path | Sequence[str],
        smiles_column: str = "",
        name_column: str = "",
        text_column: str = "",
    ) -> Retriever:
        """The same model with items to search: the folder of an index, a file or a list of SMILES.

        Files: .smi (SMILES, then a name), CSV, TSV, Parquet, SDF, gzipped or not. An index may hold
        descriptions instead, as a .txt file (one on each line) and a table with a `text_column` do.
        Invalid rows are skipped and counted in `library`. Raises UserError where no row is valid,
        and where an index was built with another model.
        """
        if not isinstance(source, (str, Path)):
            return self._with(index.in_memory(_strings(source), self.model))
        if index.is_index_place(source):
            return self._with(index.open_index(Path(source), self.model))
        from tmr_jax.index.build import Source, open_file

        file = Source(Path(source), smiles_column, name_column, text_column)
        return self._with(open_file(file, self.model))

    def with_texts(self, texts: Sequence[str]) -> Retriever:
        """The same model with a list of descriptions to search: which ones fit a molecule?"""
        encoded = self._encoder.texts(_strings(texts))
        entries = [(text, f"row {i + 1}") for i, text in enumerate(texts)]
        account = Summary("the texts given", len(texts), len(texts), {}, DESCRIPTIONS)
        return self._with(InMemoryIndex(encoded.rows, encoded.norm, entries, account))

    def _with(self, library: Index) -> Retriever:
        other = copy.copy(self)
        other._library = library
        return other

    # Encoding

    def encode_text(self, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Rows of length one; within a call, equal bit for bit for equal texts.

        Texts beyond the experiment's max_tokens are cut: see `is_cut`. Raises UserError, with the
        row, for a text without a visible character.
        """
        return self._encoder.texts(_strings(texts)).rows

    def encode_molecules(self, smiles: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Rows of length one; equal bit for bit for molecules that are one input of the model.

        Raises UserError, with row and reason, where a SMILES is invalid.
        """
        encoded, _, refused = self._encoder.molecules(_strings(smiles))
        if refused:
            shown = "; ".join(f"row {r.index}: {r.reason} ({r.value!r})" for r in refused[:5])
            raise UserError(
                f"expected every string to be the SMILES of a molecule, got {len(refused):,} of "
                f"{len(smiles):,} that are not: {shown}; correct or remove them"
            )
        return encoded.rows

    def encode_queries(self, queries: Sequence[Query]) -> list[EncodedQuery | ValueError]:
        """What the model makes of each query, or the error that the query is refused with."""
        queries = [query.read() for query in queries]
        encoded: dict[int, EncodedQuery | ValueError] = {}
        for of in ("text", "molecule"):
            places = [i for i, query in enumerate(queries) if query.of == of]
            if places:
                rows = self._encoded(of, [queries[i].content for i in places])
                encoded |= zip(places, rows, strict=True)
        return [encoded[i] for i in range(len(queries))]

    def _encoded(self, of: str, contents: list[str]) -> list[EncodedQuery | ValueError]:
        """All in one call; where one of them is refused, one by one."""
        try:
            for content in contents:  # says more about what is wrong with one
                (parse_smiles if of == "molecule" else clean_text)(content)
            if of == "molecule":
                return [EncodedQuery(row) for row in self.encode_molecules(contents)[:, None]]
            rows = self.encode_text(contents)
        except ValueError as error:
            if len(contents) == 1:
                return [error]
            return [self._encoded(of, [content])[0] for content in contents]
        ood = self._are_ood(rows)
        flags = np.zeros(len(rows), bool) if ood is None else ood
        cut = map(self.is_cut, contents)
        return [EncodedQuery(*one) for one in zip(rows[:, None], cut, flags.tolist(), strict=True)]

    def is_cut(self, text: str) -> bool:
        """Whether the model reads only the beginning of a text."""
        tokenizer = self._assembly.tokenizer
        return bool(tokenizer.encode([text], self.config.features.max_tokens)[1][0])

    def is_ood(self, text: str) -> bool | None:
        """Whether a text differs so much from the validation texts that its hits are unreliable.

        By the threshold, one validation text in twenty does. None where the run was not evaluated
        with validation texts.
        """
        ood = self._are_ood(self.encode_text([text]))
        return None if ood is None else bool(ood[0])

    def _are_ood(self, texts: Float[np.ndarray, "Q D"]) -> Bool[np.ndarray, " Q"] | None:
        if self._detector is None:
            return None
        return self._detector.ood_score(texts) > self._detector.threshold

    # Searching

    def search(
        self,
        text: str,
        k: int = 10,
        where: Filter | Sequence[str] | None = None,
        contains: str = "",
        diversity: float = 0.0,
        pure: bool = False,
    ) -> Hits:
        """The k items of the index that fit a description best, best first; a notebook draws them.

        In an index on disk, what a short text states in words (a group, an element, a range of a
        property, what is absent) raises the molecules that have it, unless `pure`: see
        tmr_jax.search.facets. With a substructure or a diversity it raises nothing.

        A model with a second stage reorders its shortlist (`Hit.refined`); the hits behind it keep
        the order of the cosine. With an index on disk, only items that meet `where` compete: words
        such as ["mw<500", "!nitro"], see `tmr_jax.index.schema.parse_filter`. `hit.columns` has the
        properties of a hit and its cells of the file's own columns, None for an empty one.
        `contains` is a SMARTS that every hit holds: see `Matcher.nearest`. A `diversity` above 0
        trades fit for structures that differ, see tmr_jax.search.diversity; ranks are then places
        in that order. The options of `tmr search` have the same names.
        """
        query = Query(text, "text", k, self._filter(where), contains, diversity, pure)
        return self._searched(query)

    def search_molecule(
        self,
        smiles: str,
        k: int = 10,
        where: Filter | Sequence[str] | None = None,
        contains: str = "",
        diversity: float = 0.0,
    ) -> Hits:
        """The k items of the index nearest to a molecule: similar ones, or texts that describe it.

        Texts are reranked as in `search`; the other arguments are those of `search`.
        """
        query = Query(smiles, "molecule", k, self._filter(where), contains, diversity)
        return self._searched(query)

    def _filter(self, where: Filter | Sequence[str] | None) -> Filter | None:
        """As `where`; nothing for no words."""
        if where is None or isinstance(where, Filter):
            return where
        return self.where(where) if len(where) else None

    def _searched(self, query: Query) -> Hits:
        from tmr_jax.search.hits import Hits

        (answer,) = self.answers([query])
        if isinstance(answer, ValueError):
            raise answer
        if answer.looked is not None:
            warnings.warn(CutShort(answer.looked), stacklevel=3)
        return Hits(answer.hits)

    def answers(
        self, queries: Sequence[Query], encoded: Sequence[EncodedQuery | ValueError] | None = None
    ) -> Iterator[Answer | ValueError]:
        """The answer to each query in turn, or the error that the query is refused with.

        A text that is a SMILES or an InChI is a query for that molecule: `Answer.query` says so.
        `encoded` is what `encode_queries` returned for them, where you keep it. Queries with equal
        filters search the index together; one with a substructure does so when its turn comes,
        since that may take seconds.
        """
        encoded = self.encode_queries(queries) if encoded is None else encoded
        queries = [query.read() for query in queries]
        first_stage = self._first_stage(queries, encoded)
        for query, read, hits in zip(queries, encoded, first_stage, strict=True):
            yield self._answer(query, read, hits)

    def _first_stage(
        self, queries: Sequence[Query], encoded: Sequence[EncodedQuery | ValueError]
    ) -> list[list[Hit] | ValueError]:
        """The nearest items of every query without a substructure; of the others nothing.

        With them, those nearest that have all facets of the query.
        """
        together: dict[tuple[int, Filter | None], list[tuple[tuple[int, bool], np.ndarray]]] = {}
        for i, (query, read) in enumerate(zip(queries, encoded, strict=True)):
            if isinstance(read, EncodedQuery) and not query.substructure:
                wanted = self._wanted(query)
                together.setdefault((wanted, query.where), []).append(((i, False), read.row))
                if stated := self.facets(query):
                    raising = demanded(stated, query.where)
                    together.setdefault((wanted, raising), []).append(((i, True), read.row))
        found: dict[tuple[int, bool], list[Hit] | ValueError] = {}
        for (wanted, where), asking in together.items():
            places, rows = zip(*asking, strict=True)
            try:
                hits: Sequence = self.nearest(np.concatenate(rows), wanted, where)
            except ValueError as error:  # such as a filter that the index has no columns for
                hits = [error] * len(places)
            found |= zip(places, hits, strict=True)
        return [self._joined(found, i) for i in range(len(queries))]

    def _joined(
        self, found: dict[tuple[int, bool], list[Hit] | ValueError], i: int
    ) -> list[Hit] | ValueError:
        """What was found for query i, with what it raises."""
        nearest, raised = found.get((i, False), []), found.get((i, True), [])
        if isinstance(nearest, ValueError) or isinstance(raised, ValueError):
            return nearest if isinstance(nearest, ValueError) else raised
        return union(nearest, raised, self.shortlist) if raised else nearest

    def facets(self, query: Query) -> tuple[str, ...]:
        """The filters that a text states in words, which raise molecules of an index on disk.

        None where a substructure or a diversity decides what is shown.
        """
        is_decided = query.pure or query.substructure or query.diversity or query.of != "text"
        if is_decided or self._holds_texts or not isinstance(self._library, DiskIndex):
            return ()
        stated = facets(query.content)
        return stated if self._library.has_classes else without_classes(stated)

    def _answer(
        self, query: Query, read: EncodedQuery | ValueError, hits: list[Hit] | ValueError
    ) -> Answer | ValueError:
        if isinstance(read, ValueError):
            return read
        if isinstance(hits, ValueError):
            return hits
        looked = None
        try:
            if query.substructure:
                hits, looked = self._holding(query, read.row)
            stated = self.facets(query)
            hits = self._finished(query, hits, stated)
            if query.substructure:
                from tmr_jax.search.substructure import MATCHER

                hits = MATCHER.mark(query.substructure, hits)
            hits = self._library.with_columns(hits) if self._library else hits
            is_named = query.of == "text" and not query.pure
            named = self.named(query.content) if is_named else None
        except ValueError as error:
            return error
        answer = Answer(query, hits, read.is_cut, False, looked, self.is_partial, named, stated)
        return answer._replace(is_unsure=self._is_unsure(answer, read))

    def _is_unsure(self, answer: Answer, read: EncodedQuery) -> bool:
        """By the score of the best hit; without a threshold for it, by the text alone."""
        trusted = self._detector.trusted if self._detector else np.nan
        if answer.has_stated:
            return False
        if answer.query.of != "text" or self._holds_texts or np.isnan(trusted) or not answer.hits:
            return read.is_ood
        return answer.best_score < trusted

    def named(self, text: str) -> Named | None:
        """The structure that a chemical name stands for, looked for in the whole library.

        The library's own names and ids come first. None for any other text, and in a library of
        descriptions. The same InChIKey is the same structure; it is looked for among the molecules
        nearest to it.
        """
        if self._holds_texts or self._library is None:
            return None
        if hit := self._library.called(text.strip()):
            (hit,) = self._library.with_columns([hit])
            return Named(Match(hit.name, hit.content, "its name in the file"), True, hit)
        match = structure_of(text)
        if match is None:
            return None
        (row,) = self.encode_queries([Query(match.smiles, "molecule")])
        if isinstance(row, ValueError):  # a structure that the model cannot read
            return None
        from tmr_jax.data.features.similarity import key_or_text

        (hits,) = self.nearest(row.row, NEAREST)
        wanted = key_or_text(match.smiles)
        exact = next((hit for hit in hits if key_or_text(hit.content) == wanted), None)
        if not hits:
            return None
        (nearest,) = self._library.with_columns([exact or hits[0]])
        return Named(match, exact is not None, nearest)

    def nearest(
        self, vectors: Float[np.ndarray, "Q D"], k: int, where: Filter | None = None
    ) -> list[list[Hit]]:
        """The first stage alone, for rows that are already encoded: k hits of each, best first."""
        return self._open(k).find(vectors, k, where)

    def _holding(self, query: Query, row: np.ndarray) -> tuple[list[Hit], int | None]:
        """Hits that hold the substructure, and how many were checked where time ran out."""
        from tmr_jax.search.substructure import MATCHER

        if self._holds_texts:
            raise UserError("expected molecules to look into, got texts; leave the SMARTS out")
        # A salt may lack what its acid holds, so one of each parent is chosen after the matching.
        each = query.where is not None and query.where.parents
        where = query.where and query.where._replace(parents=False)
        wanted = self._wanted(query)
        held, checked = MATCHER.nearest(
            query.substructure,
            wanted,
            lambda count: self.nearest(row, count, where)[0],
            index.first_of if each else list,
        )
        return held, checked if len(held) < query.k else None

    def _wanted(self, query: Query) -> int:
        """How many hits of the first stage the later stages choose from."""
        wider = DIVERSE_FROM * query.k if query.diversity else 0
        return max(query.k, wider, self.shortlist if self._is_reranked(query) else 0)

    def _finished(self, query: Query, hits: list[Hit], stated: tuple[str, ...]) -> list[Hit]:
        """k of the hits of the first stage, reranked, and with facets raised or diverse."""
        if query.diversity and self._holds_texts:
            raise UserError(
                "expected molecules for diverse hits, got texts; leave the diversity (`spread` in "
                "the API) out"
            )
        if self._second_stage is not None and self._is_reranked(query) and hits:
            library, alpha = self._open(query.k), self.alpha or 0.0  # see lacks_alpha
            direction = "t2m" if query.of == "text" else "m2t"
            hits = self._second_stage.reorder(query.content, hits, direction, alpha, library)
        if stated:
            hits = fused(hits, demanded(stated, None))  # all of them meet the query's own filter
        if not query.diversity:
            return hits[: query.k]
        from tmr_jax.search.diversity import diverse

        return diverse(hits, query.k, query.diversity)

    def _is_reranked(self, query: Query) -> bool:
        """Whether the second stage applies: it never compares molecules with molecules."""
        return self._second_stage is not None and self._holds_texts == (query.of == "molecule")

    @property
    def _holds_texts(self) -> bool:
        return self._library is not None and self._library.account.of_texts

    def _open(self, k: int) -> Index:
        if self._library is None:
            raise UserError(
                "expected an index to search, got a retriever without one; call "
                'load(run).with_library("library.smi") or pass a list of SMILES'
            )
        if k < 1:
            raise UserError(f"expected k of at least 1, got {k}; try 10")
        return self._library

    def explain(self, text: str, smiles: str) -> Explanation:
        """Which words and atoms the cosine of a pair rests on; see tmr_jax.search.explain."""
        from tmr_jax.search.explain import explain

        return explain(self._assembly, self._reader, text, smiles, self._encoder)


def _strings(given: Sequence[str]) -> list[str]:
    """The strings as a list; UserError for a single string, and for none."""
    if isinstance(given, str):
        raise UserError(f"expected a list of strings, got one string; write [{given[:40]!r}]")
    if not len(given):
        raise UserError("expected at least one string, got an empty list; give one or more")
    return list(given)
