"""Around every request: who may ask, how often, how much; what goes with every answer.

Plain ASGI, so that nothing reads a body before its size is known. Every error leaves in one shape
(serve/errors.py), and none carries a traceback: those are logged under a number that the client
is told.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tmr_jax.serve.errors import Refusal, body_of, refusal_of
from tmr_jax.serve.schemas import MAX_BODY, MAX_HEAD

log = logging.getLogger("tmr_jax.serve")

COOKIE = "tmr_session"
OPEN = ("/health", "/login")  # to everybody, token or not; /static/ too
CLIENTS = 10_000  # whose rates are remembered
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": POLICY,
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Rules:
    """Who may ask, and how often."""

    token: str = ""  # without one everybody who reaches the service may ask
    rate: float = 10.0  # requests a second of one client; 0: as many as it likes
    proxies: int = 0  # how many trusted proxies stand in front, whose X-Forwarded-... are believed
    local: bool = True  # bound to loopback: only names of this machine are answered to


class Guard:
    """The middleware."""

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        seen: Callable[[Scope, int, float], None],
        error_page: Callable[[Refusal, bool], bytes],
    ) -> None:
        """`seen` is told route, status and seconds; `error_page` draws an error for people."""
        self.app, self.rules = app, rules
        self._seen, self._error_page = seen, error_page
        self._buckets = Buckets(rules.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_headers(message.get("headers", []))
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check(scope, headers)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                body = await _read(receive, headers)
                if scope["path"].startswith("/api/"):
                    _check_json(body, headers)
                receive = _replayed(body, receive)
            await self.app(scope, receive, answer)
        except _Gone:
            status = 499  # the client left before its request was whole
        except Exception as error:
            refusal = refusal_of(error) or _internal(scope, error)
            if status:  # an answer has begun; uvicorn ends the connection
                log.error("an answer broke off: %s", refusal.message)
                raise
            await self._refuse(scope, refusal, answer)
        finally:
            self._seen(scope, status, time.perf_counter() - begun)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises Refusal where the client may not ask, or not now."""
        # h11 counts what is not whole yet; a head that comes in one piece passes it.
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEAD:
            raise Refusal(
                431,
                "header_too_large",
                f"expected a request line and headers of at most {MAX_HEAD:,} bytes; shorten them",
            )
        host = _split(f"//{headers.get('host', '')}").hostname or ""
        # Another name for it would be DNS rebinding; a proxy passes on the name that it has itself.
        if self.rules.local and not self.rules.proxies and not is_loopback(host):
            raise Refusal(
                421, "wrong_host", "expected the address of this machine; open http://127.0.0.1"
            )
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if origin and _split(origin).netloc != asked_host(headers, self.rules.proxies):
                raise Refusal(403, "foreign_origin", "expected a page of this service, got another")
        path = scope["path"]
        if path.startswith("/static/"):
            return
        if path != "/health":
            self._buckets.take(client_of(scope, headers, self.rules.proxies))
        if path not in OPEN and not has_token(headers, self.rules.token):
            raise Refusal(
                401,
                "unauthorized",
                "expected the token of this service; send it as Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _refuse(self, scope: Scope, refusal: Refusal, answer: Send) -> None:
        headers = Headers(scope=scope)
        if "text/html" in headers.get("accept", "") and not scope["path"].startswith("/api/"):
            body, kind = self._error_page(refusal, "hx-request" in headers), "text/html"
        else:
            body, kind = json.dumps(body_of(refusal)).encode(), "application/json"
        lines = {
            "content-type": f"{kind}; charset=utf-8",
            "content-length": str(len(body)),
            **{name.lower(): value for name, value in refusal.headers.items()},
        }
        raw = [(name.encode(), value.encode()) for name, value in lines.items()]
        await answer({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await answer({"type": "http.response.body", "body": body})


class Buckets:
    """A bucket of tokens for each client: `rate` a second, twice that at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at a time

    def take(self, client: str) -> None:
        """Raises Refusal (429) where the client's bucket is empty."""
        if not self._rate:
            return
        now, full = self._clock(), max(2 * self._rate, 1.0)
        left, at = self._left.get(client, (full, now))
        left = min(full, left + (now - at) * self._rate)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        self._left.move_to_end(client)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        if left < 1:
            wait = max(1, round((1 - left) / self._rate + 0.5))
            raise Refusal(
                429,
                "rate_limited",
                f"expected at most {self._rate:g} requests a second, got more; "
                f"ask again in {wait} s",
                {"Retry-After": str(wait)},
            )


def has_token(headers: Headers, token: str) -> bool:
    """Whether the token came with a request, or none is needed. Compared in constant time."""
    if not token:
        return True
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return same(given.strip(), token)
    cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return same(cookie, session_of(token))


def asked_host(headers: Headers, proxies: int) -> str:
    """The host that the client's address line names, as a proxy of ours passes it on."""
    # No page can make a browser send this header to another site.
    forwarded = headers.get("x-forwarded-host", "") if proxies else ""
    return forwarded.partition(",")[0].strip() or headers.get("host", "")


def is_private(scope: Scope, headers: Headers, proxies: int) -> bool:
    """Whether the client's side of the connection is TLS."""
    forwarded = headers.get("x-forwarded-proto", "") if proxies else ""
    return (forwarded.partition(",")[0].strip() or scope["scheme"]).lower() == "https"


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # half an address of IPv6, for one
        raise Refusal(
            400, "bad_request", "expected Host and Origin to be addresses, got others; mend them"
        ) from None


def client_of(scope: Scope, headers: Headers, proxies: int) -> str:
    """The client's address; behind trusted proxies the one that the outermost of them saw.

    Addresses of IPv6 count by their network of 64 bits, of which one client has plenty.
    """
    address = scope["client"][0] if scope.get("client") else ""
    if proxies:
        named = [part.strip() for part in ",".join(headers.getlist("x-forwarded-for")).split(",")]
        address = named[-proxies] if len(named) >= proxies and named[-proxies] else address
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address[:64]
    if ip.version == 6 and not ip.is_loopback:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def is_near(scope: Scope, headers: Headers) -> bool:
    """Whether a request comes from this machine itself, and through no proxy."""
    through = any(name in headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return not through and bool(scope.get("client")) and is_loopback(scope["client"][0])


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8"))


def session_of(token: str) -> str:
    """What the page's cookie holds: proof of the token, not the token."""
    return hmac.new(token.encode(), b"tmr_jax session", hashlib.sha256).hexdigest()


class _Gone(Exception):
    """The client left."""


async def _read(receive: Receive, headers: Headers) -> bytes:
    """The body; Refusal (413) as soon as it is known to be too large, without keeping more."""
    too_large = Refusal(
        413, "too_large", f"expected a body of at most {MAX_BODY:,} bytes, got more; send less"
    )
    length = headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _check_json(body: bytes, headers: Headers) -> None:
    """Refuses what json itself lets pass: doubled keys, NaN, endless nesting, other charsets."""
    if not body:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(
            415, "not_json", "expected Content-Type: application/json, got another; say so"
        )
    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "invalid_json", "expected JSON, got too deep a nesting of it") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        what = str(error) if isinstance(error, json.JSONDecodeError | _BadJson) else "other bytes"
        raise Refusal(400, "invalid_json", f"expected JSON in UTF-8, got {what}; mend it") from None


class _BadJson(ValueError):
    """JSON that is not what RFC 8259 calls interoperable."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _BadJson("a key twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise _BadJson(f"{name}, which is no JSON")


def _with_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    more = ((name.encode(), value.encode()) for name, value in HEADERS.items())
    return [*headers, *((name, value) for name, value in more if name not in there)]


def _internal(scope: Scope, error: Exception) -> Refusal:
    number = secrets.token_hex(4)
    log.error("error %s at %s %s", number, scope["method"], scope["path"], exc_info=error)
    return Refusal(500, "internal", f"something went wrong here; the log has it as {number}")
