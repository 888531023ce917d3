"""What the API takes and returns, errors among it.

Limits are part of the types, so that OpenAPI states them. A client gets of an error a status, a
stable code and a sentence: {"error": {"code": "busy", "message": "expected ..., got ...; ..."}}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.index.schema import IndexUnavailable
from tmr_jax.types import UserError

MAX_BODY = 1_000_000  # bytes
MAX_HEAD = 16_384  # bytes of request line and headers
MAX_K, MAX_BATCH, MAX_TEXT, MAX_SMARTS, MAX_WORDS = 1000, 256, 10_000, 1000, 64
MAX_WORD = 500  # characters of a filter
MAX_HITS = 20_000  # of one request: k times queries

# Limits of an explanation: characters, and words and atoms, each of which costs one encoding.
MAX_EXPLAINED, MAX_EXPLAINED_WORDS, MAX_EXPLAINED_ATOMS = 2000, 200, 150
SPREAD_K = 200  # diverse hits are each compared with all candidates

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Options(Strict):
    """How many hits, and what each of them must meet."""

    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many hits.")] = 10
    where: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_WORD)]],
        Field(
            max_length=MAX_WORDS,
            examples=[["mw<500", "!nitro", "unsalted", "pIC50>7"]],
            description="Filters that every hit meets: a property or a column of the file compared "
            "with a value, a group or class that it has, or after ! has not, or a switch.",
        ),
    ] = []
    substructure: Annotated[
        str,
        Field(
            max_length=MAX_SMARTS,
            examples=["c1ccccc1N"],
            description="A SMARTS that every hit holds.",
        ),
    ] = ""
    spread: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Above 0 trades fit for structures that differ from one another.",
        ),
    ] = 0.0


class Pure(Options):
    pure: Annotated[
        bool,
        Field(
            description="By the model alone: what a text states in words, names or writes changes "
            "nothing."
        ),
    ] = False


class SearchRequest(Pure):
    """Descriptions (or, `of` molecules, SMILES) and what every hit must meet."""

    queries: Annotated[list[Text], Field(min_length=1, max_length=MAX_BATCH)]
    of: Literal["text", "molecule"] = "text"


class TextSearch(Pure):
    """One description."""

    text: Annotated[
        Text,
        Field(
            examples=["an aromatic amine with a chlorine atom"],
            description="A description in English, a chemical name, a SMILES or an InChI.",
        ),
    ]


class StructureSearch(Options):
    """One molecule."""

    smiles: Annotated[Text, Field(examples=["Nc1ccc(Cl)cc1"], description="A SMILES.")]


class ExplainRequest(Strict):
    """A pair of at most 200 words and 150 atoms."""

    text: Annotated[
        str, Field(min_length=1, max_length=MAX_EXPLAINED, description="A description.")
    ]
    smiles: Annotated[Text, Field(description="The SMILES of the molecule.")]


class Nothing(Strict):
    """A request without arguments."""


class HitOut(BaseModel):
    """A record of tmr_jax.search.export; only molecules of an index on disk have properties."""

    rank: int
    score: float  # cosine
    refined: float | None = None  # of the second stage, where the model has one
    smiles: str | None = None  # or, in a library of descriptions:
    text: str | None = None
    name: str
    id: int | None = None  # row of the file, from 0
    mw: float | None = None
    logp: float | None = None
    tpsa: float | None = None
    hbd: int | None = None
    hba: int | None = None
    rings: int | None = None
    charge: int | None = None
    heavy_atoms: int | None = None
    groups: list[str] | None = None
    classes: list[str] | None = None
    salt: bool | None = None
    duplicate: bool | None = None
    variant: bool | None = None
    columns: dict[str, int | float | str] | None = None  # cells of the file's own, but empty ones


class NamedOut(BaseModel):
    """The structure that a query names: by ChEBI's terms, or by OPSIN."""

    name: str
    smiles: str
    source: str
    in_library: bool  # whether `nearest` is that structure
    nearest: HitOut


class AnswerOut(BaseModel):
    query: str
    cut: bool  # only the beginning of the text was read
    unsure: bool  # no hit fits the text as those of answered validation queries do
    looked: int | None = None  # molecules checked for the substructure, where time ran out
    named: NamedOut | None = None  # where the query is a chemical name
    raised: list[str] = []  # filters that the text states, by which molecules were raised
    hits: list[HitOut]


class CheckpointOut(BaseModel):
    which: str
    step: int
    sha256: str


class LibraryOut(BaseModel):
    source: str  # the name of the file or folder, without where it is
    of: Literal["molecules", "descriptions"]
    rows: int
    kept: int
    refused: dict[str, int]
    columns: dict[str, str] = {}  # of the file: whether each holds "number", "date" or "text"


class SearchResponse(BaseModel):
    checkpoint: CheckpointOut
    library: LibraryOut
    partial: bool  # a part of the library cannot be read: hits may be missing
    answers: list[AnswerOut]


class WordOut(BaseModel):
    text: str
    start: int  # in the answer's `text`
    end: int
    drop: float  # by how much the cosine falls without the word
    weight: float  # of 0 to 1


class Weights(BaseModel):
    score: float  # cosine
    text: str  # as the model reads it
    smiles: str  # with its atoms in the order of `atoms`
    words: list[WordOut]
    atoms: list[float]  # weights, 0 to 1
    drops: list[float]  # by how much the cosine falls without each atom


class ExplainResponse(Weights):
    heat: list[list[float]]  # cosine of each single word with each single atom


class HealthResponse(BaseModel):
    status: Literal["ok", "degraded", "loading"]
    reason: str = ""
    library: LibraryOut | None = None  # this and the next field need the token
    checkpoint: CheckpointOut | None = None


class DescribeResponse(HealthResponse):
    """The library, the model, and the words of `where`."""

    properties: list[str]  # as in mw<500
    groups: list[str]  # as in nitrile or !nitro
    classes: list[str]
    switches: list[str]  # such as unsalted


class ReloadResponse(BaseModel):
    library: LibraryOut
    partial: bool


class ErrorBody(BaseModel):
    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every response that is an error."""

    error: ErrorBody


def check_spread(k: int, spread: float) -> None:
    """UserError for more diverse hits than time and memory allow."""
    if spread and k > SPREAD_K:
        raise UserError(f"expected k of at most {SPREAD_K} with a spread, got {k}; drop one")


# Errors

BAD_REQUEST = ("bad_request", "expected an HTTP/1.1 request, got something else; correct it")
LARGE_HEADER = (
    "header_too_large",
    f"expected a request line and headers of at most {MAX_HEAD:,} bytes; shorten them",
)


class Refusal(Exception):
    """A response that is an error. `headers` are sent with it."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


class Unauthorized(Refusal):
    def __init__(self) -> None:
        message = "expected the token of this service; send it as Authorization: Bearer TOKEN"
        super().__init__(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


class Busy(Refusal):
    def __init__(self, seconds: int) -> None:
        message = f"expected room in the queue, got a full one; retry in {seconds} s"
        super().__init__(429, "busy", message, {"Retry-After": str(seconds)})


class Late(Refusal):
    def __init__(self, seconds: float) -> None:
        message = f"expected an answer within {seconds:g} s, got none; ask for less, or retry later"
        super().__init__(503, "too_slow", message, {"Retry-After": "5"})


class Unreadable(Refusal):
    def __init__(self) -> None:
        message = (
            "expected a readable library, got an error of its store, which is in the log; "
            "retry later"
        )
        super().__init__(503, "library_unreadable", message, {"Retry-After": "5"})


def refusal_of(error: BaseException) -> Refusal | None:
    """The response to an error; None where the service itself is at fault."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, IndexUnavailable):  # its message holds the path of the library
        return Unreadable()
    if isinstance(error, BadMolecule):
        return Refusal(422, "bad_smiles", str(error))
    if isinstance(error, UserError):  # the messages of others may reveal internals
        return Refusal(422, "invalid_request", str(error))
    return None


def invalid(error: Any) -> Refusal:
    """The response to a request that pydantic, or FastAPI with it, does not take."""
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return Refusal(422, "invalid_request", f"{at}: {first['msg']}")


def body_of(refusal: Refusal) -> dict[str, dict[str, str]]:
    return {"error": {"code": refusal.code, "message": refusal.message}}
