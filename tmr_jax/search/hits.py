"""What flows through a search: queries in, answers with hits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from numpy import ndarray

from tmr_jax.index.schema import Filter


class Query(NamedTuple):
    """One search."""

    content: str  # a description or a SMILES
    of: Literal["text", "molecule"] = "text"
    k: int = 10
    where: Filter | None = None  # only items that meet it compete; needs an index on disk
    substructure: str = ""  # a SMARTS that every hit holds
    diversity: float = 0.0  # 0 to 1, see tmr_jax.search.diversity

    @property
    def direction(self) -> Literal["t2m", "m2t"]:
        """The direction of a second stage that starts at this query."""
        return "t2m" if self.of == "text" else "m2t"


class EncodedQuery(NamedTuple):
    """What the model makes of a query, whatever it is compared with."""

    row: Float[ndarray, "1 D"]  # of length one
    is_cut: bool = False  # the model reads only the beginning of the text
    is_ood: bool = False  # unlike the validation texts of the run


class Hit(NamedTuple):
    rank: int  # from 1
    score: float  # cosine, -1 to 1; higher is better
    content: str  # the SMILES, or the text of an index of descriptions
    name: str
    refined: float | None = None  # score of the second stage, where the model has one
    id: int = -1  # row of the file, from 0; -1 for an item of a list
    columns: Mapping[str, Any] = {}  # of an index on disk: properties, groups and flags
    is_text: bool = False  # whether `content` is a text


class Answer(NamedTuple):
    query: Query
    hits: list[Hit]  # best first
    is_cut: bool = False
    is_ood: bool = False
    looked: int | None = None  # molecules checked for the substructure, where time ran out
    partial: bool = False  # a part of the index cannot be read, so hits may be missing


def ranked(hits: Sequence[Hit]) -> list[Hit]:
    """The hits with their places as ranks."""
    return [hit._replace(rank=i) for i, hit in enumerate(hits, 1)]
