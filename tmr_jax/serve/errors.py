"""What a client is told when something is wrong: a status, a code that stays, a sentence.

{"error": {"code": "busy", "message": "expected ..., got ...; ..."}}
"""

from __future__ import annotations

from tmr_jax.data.features.graph import BadMolecule
from tmr_jax.index.schema import StoreFailed


class Refusal(Exception):
    """An answer that is an error. `headers` go with it."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


class Busy(Refusal):
    def __init__(self, seconds: int) -> None:
        super().__init__(
            429,
            "busy",
            f"expected room in the queue, got a full one; ask again in {seconds} s",
            {"Retry-After": str(seconds)},
        )


class Late(Refusal):
    def __init__(self, seconds: float) -> None:
        super().__init__(
            503,
            "too_slow",
            f"expected an answer within {seconds:g} s, got none; ask for less, or later",
            {"Retry-After": "5"},
        )


class Unreadable(Refusal):
    def __init__(self) -> None:
        super().__init__(
            503,
            "library_unreadable",
            "expected a library that can be read, got an error of its store, which the log has; "
            "ask again later",
            {"Retry-After": "5"},
        )


def refusal_of(error: BaseException) -> Refusal | None:
    """What to tell of an error: None where it is ours and not the client's."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreFailed):  # whose words tell where the library is
        return Unreadable()
    if isinstance(error, BadMolecule):
        return Refusal(422, "bad_smiles", str(error))
    # Sentences for users begin so everywhere in this package; others may tell of our insides.
    if isinstance(error, ValueError) and str(error).startswith("expected "):
        return Refusal(422, "invalid_request", str(error))
    return None


def body_of(refusal: Refusal) -> dict[str, dict[str, str]]:
    return {"error": {"code": refusal.code, "message": refusal.message}}
