"""Access control around every request: who may ask, how often and how much; response headers.

Plain ASGI, so that the size of a body is checked before the body is read. Every error leaves in one
shape (serve/schemas.py) and without a traceback: the log has that, under a number that the client
gets. Starlette's TrustedHostMiddleware does not replace the check of the host (it reads no IPv6
addresses and answers in plain text), nor uvicorn's ProxyHeadersMiddleware that of proxies (it
trusts addresses instead of counting proxies).
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

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tmr_jax.serve import schemas
from tmr_jax.serve.schemas import MAX_BODY, Refusal

log = logging.getLogger("tmr_jax.serve")

COOKIE = "tmr_session"
PUBLIC = ("/health", "/login")  # without a token; /static/ too
CLIENTS = 10_000  # whose rates are kept
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

    token: str = ""  # empty: everyone who reaches the service may ask
    rate: float = 10.0  # requests per second and client; 0: no limit
    proxies: int = 0  # number of trusted proxies in front, whose X-Forwarded-... headers count
    local: bool = True  # bound to loopback: only names of this machine are served


class AccessMiddleware:
    """Checks every request before the application runs."""

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        on_response: Callable[[Scope, int, float], None],
        error_page: Callable[[Refusal, bool], bytes],
    ) -> None:
        """`on_response` gets the scope, status and seconds; `error_page` renders an error."""
        self.app, self.rules = app, rules
        self._on_response, self._error_page = on_response, error_page
        self._buckets = Buckets(rules.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # uvicorn, whose own scope keeps it, sends no body
            scope = {**scope, "method": "GET"}
        start, status = time.perf_counter(), 0

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                outgoing = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    outgoing.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check(scope, headers)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                body = await _read(scope, receive, headers)
                if scope["path"].startswith("/api/"):
                    _check_json(body, headers)
                receive = _replayed(body, receive)
            await self.app(scope, receive, respond)
        except ClientDisconnect:
            status = 499  # before the request was complete
        except Exception as error:
            refusal = schemas.refusal_of(error) or _internal(scope, error)
            if status:  # the response has started; uvicorn closes the connection
                log.error("a response broke off: %s", refusal.message)
                raise
            await self._refuse(scope, refusal, receive, respond)
        finally:
            self._on_response(scope, status, time.perf_counter() - start)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises Refusal where the client may not ask, or not now."""
        _check_size(scope)
        self._check_host(scope, headers)
        path = scope["path"]
        if path.startswith("/static/"):
            return
        if path != "/health":
            self._buckets.take(client_of(scope, headers, self.rules.proxies))
        if path not in PUBLIC and not has_token(headers, self.rules.token):
            raise schemas.Unauthorized

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        host = _split(f"//{headers.get('host', '')}").hostname or ""
        # Another name could be DNS rebinding. A proxy passes on its own name.
        if self.rules.local and not self.rules.proxies and not is_loopback(host):
            raise Refusal(
                421, "wrong_host", "expected the address of this machine; open http://127.0.0.1"
            )
        origin = headers.get("origin") if scope["method"] == "POST" else ""
        if origin and _split(origin).netloc != public_host(headers, self.rules.proxies):
            raise Refusal(403, "foreign_origin", "expected a page of this service, got another")

    async def _refuse(
        self, scope: Scope, refusal: Refusal, receive: Receive, respond: Send
    ) -> None:
        headers = Headers(scope=scope)
        if "text/html" in headers.get("accept", "") and not scope["path"].startswith("/api/"):
            response = HTMLResponse(self._error_page(refusal, "hx-request" in headers))
        else:
            response = JSONResponse(schemas.body_of(refusal))
        response.status_code = refusal.status
        response.headers.update(refusal.headers)
        await response(scope, receive, respond)


def _check_size(scope: Scope) -> None:
    """h11 only limits a head that arrives in parts."""
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > schemas.MAX_HEAD:
        raise Refusal(431, *schemas.LARGE_HEADER)


class Buckets:
    """A token bucket for each client: `rate` requests per second, bursts of twice that."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, time

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
                f"expected at most {self._rate:g} requests a second, got more; retry in {wait} s",
                {"Retry-After": str(wait)},
            )


def has_token(headers: Headers, token: str) -> bool:
    """Whether a request has the token, or needs none. Compares in constant time."""
    if not token:
        return True
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return same(given.strip(), token)
    cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return same(cookie, session_of(token))


def public_host(headers: Headers, proxies: int) -> str:
    """The host in the address that the client opened, as a trusted proxy forwards it."""
    # A page cannot make a browser send this header to another site.
    forwarded = headers.get("x-forwarded-host", "") if proxies else ""
    return forwarded.partition(",")[0].strip() or headers.get("host", "")


def is_tls(scope: Scope, headers: Headers, proxies: int) -> bool:
    """Whether the client's side of the connection is encrypted."""
    forwarded = headers.get("x-forwarded-proto", "") if proxies else ""
    return (forwarded.partition(",")[0].strip() or scope["scheme"]).lower() == "https"


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # such as half an IPv6 address
        message = "expected addresses in Host and Origin, got something else; correct them"
        raise Refusal(400, "bad_request", message) from None


def client_of(scope: Scope, headers: Headers, proxies: int) -> str:
    """The client's address; behind trusted proxies the one that the outermost proxy saw.

    IPv6 addresses count by their /64 network, since one client has all of it.
    """
    address = scope["client"][0] if scope.get("client") else ""
    if proxies:
        chain = [part.strip() for part in ",".join(headers.getlist("x-forwarded-for")).split(",")]
        address = chain[-proxies] if len(chain) >= proxies and chain[-proxies] else address
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address[:64]
    if ip.version == 6 and not ip.is_loopback:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def is_local(scope: Scope, headers: Headers) -> bool:
    """Whether a request comes from this machine itself, not through a proxy."""
    proxied = any(name in headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return not proxied and bool(scope.get("client")) and is_loopback(scope["client"][0])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; of names, only localhost counts."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to another address tomorrow
        return False


def same(given: str, expected: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8"))


def session_of(token: str) -> str:
    """The value of the page's cookie: proves the token without holding it."""
    return hmac.new(token.encode(), b"tmr_jax session", hashlib.sha256).hexdigest()


async def _read(scope: Scope, receive: Receive, headers: Headers) -> bytes:
    """The body; Refusal (413) as soon as it proves too large, without reading more."""
    too_large = Refusal(
        413, "too_large", f"expected a body of at most {MAX_BODY:,} bytes, got more; send less"
    )
    length = headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > MAX_BODY:
        raise too_large
    body = bytearray()
    async for part in Request(scope, receive).stream():
        body += part
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the application a body that was read already."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return unread.pop() if unread else await receive()

    return replay


def _check_json(body: bytes, headers: Headers) -> None:
    """Refuses what `json` itself accepts: duplicate keys, NaN, deep nesting, other charsets."""
    if not body:
        return
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = "expected Content-Type: application/json, got another; set it"
        raise Refusal(415, "not_json", message)
    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "invalid_json", "expected JSON, got too deep a nesting of it") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        what = str(error) if isinstance(error, json.JSONDecodeError | _BadJson) else "other bytes"
        message = f"expected JSON in UTF-8, got {what}; correct it"
        raise Refusal(400, "invalid_json", message) from None


class _BadJson(ValueError):
    """JSON that is not interoperable by RFC 8259."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise _BadJson("a key twice in one object")
    return unique


def _no_constant(name: str) -> None:
    raise _BadJson(f"{name}, which is not JSON")


def _internal(scope: Scope, error: Exception) -> Refusal:
    number = secrets.token_hex(4)
    log.error("error %s at %s %s", number, scope["method"], scope["path"], exc_info=error)
    return Refusal(500, "internal", f"internal error; the log has it as {number}")
