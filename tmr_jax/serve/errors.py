"""What a client gets when something is wrong: a status, a stable code and a sentence.

{"error": {"code": "busy", "message": "expected ..., got ...; ..."}}
"""

from __future__ import annotations

from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.index.schema import IndexUnavailable
from tmr_jax.serve.schemas import MAX_HEAD
from tmr_jax.types import UserError

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


def body_of(refusal: Refusal) -> dict[str, dict[str, str]]:
    return {"error": {"code": refusal.code, "message": refusal.message}}
