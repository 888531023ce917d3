"""The access control alone: rates, addresses of clients, tokens, bodies."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from tmr_jax.serve.middleware import (
    CLIENTS,
    Buckets,
    client_of,
    is_local,
    is_tls,
    public_host,
    same,
    session_of,
)
from tmr_jax.serve.schemas import Refusal

SCOPE = {"client": ("10.0.0.1", 1)}


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(n.lower().encode(), v.encode()) for n, v in pairs])


def test_a_bucket_holds_two_seconds_of_requests_and_fills_again() -> None:
    now = [0.0]
    buckets = Buckets(10, lambda: now[0])
    for _ in range(20):
        buckets.take("a")
    with pytest.raises(Refusal) as refused:
        buckets.take("a")
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
    buckets.take("b")  # others are not affected
    now[0] = 0.11
    buckets.take("a")  # a tenth of a second: one more
    with pytest.raises(Refusal):
        buckets.take("a")


def test_clients_are_forgotten_before_memory_ends() -> None:
    buckets = Buckets(10)
    for i in range(CLIENTS + 5):
        buckets.take(str(i))
    assert len(buckets._left) == CLIENTS


def test_a_forwarded_address_counts_only_behind_proxies_of_ours() -> None:
    sent = headers(("X-Forwarded-For", "6.6.6.6, 1.2.3.4"), ("X-Forwarded-For", "5.5.5.5"))
    assert client_of(SCOPE, sent, 0) == "10.0.0.1"
    assert client_of(SCOPE, sent, 1) == "5.5.5.5"
    assert client_of(SCOPE, sent, 2) == "1.2.3.4"  # what stands before it, a client can invent
    assert client_of(SCOPE, sent, 4) == "10.0.0.1"
    assert client_of({"client": ("2001:db8::1:2", 1)}, headers(), 0) == "2001:db8::/64"


def test_a_request_through_a_proxy_is_none_of_this_machine() -> None:
    near = {"client": ("127.0.0.1", 1)}
    assert is_local(near, headers()) and not is_local(SCOPE, headers())
    assert not is_local(near, headers(("X-Forwarded-For", "127.0.0.1")))


def test_what_a_proxy_says_counts_where_there_is_one() -> None:
    sent = headers(("Host", "127.0.0.1:8000"), ("X-Forwarded-Host", "a.org, b"))
    assert public_host(sent, 0) == "127.0.0.1:8000" and public_host(sent, 1) == "a.org"
    assert public_host(headers(("Host", "a.org")), 1) == "a.org"
    sent, plain = headers(("X-Forwarded-Proto", "https, http")), {"scheme": "http"}
    assert is_tls(plain, sent, 1) and not is_tls(plain, sent, 0)
    assert is_tls({"scheme": "https"}, headers(), 0) and not is_tls(plain, headers(), 1)


def test_tokens_are_compared_whole() -> None:
    assert same("abc", "abc") and not same("abc", "abd") and not same("", "abc")
    assert not same("é\udcff", "abc")  # what is no ASCII is no error
    assert session_of("a" * 32) != session_of("b" * 32) and "a" * 32 not in session_of("a" * 32)
