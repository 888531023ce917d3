"""API and page in one process, on a fake retriever: shapes, limits, errors, headers, escaping."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serve.fake import SLOW, Fake, FakeOfTexts, engine
from tmr_jax.index.index import Summary
from tmr_jax.index.schema import IndexUnavailable
from tmr_jax.serve.app import __file__ as app_file
from tmr_jax.serve.app import create_app
from tmr_jax.serve.engine import SearchEngine
from tmr_jax.serve.middleware import Rules
from tmr_jax.types import UserError

FREE = Rules(rate=0)
TOKEN = "0123456789abcdefghijklmnopqrstuv"


def opened(fake: Fake | None = None, rules: Rules = FREE, **more: Any) -> TestClient:
    service = engine(fake, damage=more.pop("damage", dict))
    app = create_app(service, rules, **more)
    near = ("127.0.0.1", 5000)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False, client=near)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with opened() as client:
        yield client


def refused(response: Any, status: int, code: str) -> str:
    """The message of an error, whose shape is checked."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code
    assert "Traceback" not in response.text and '.py"' not in response.text
    return body["error"]["message"]


# The API


def test_search_answers_every_query_in_order(client: TestClient) -> None:
    asked = {"queries": ["an acid", "an amine", "an acid"], "k": 2}
    body = client.post("/api/search", json=asked).json()
    assert [a["query"] for a in body["answers"]] == asked["queries"]
    assert body["answers"][0] == body["answers"][2] != body["answers"][1]
    assert [h["rank"] for h in body["answers"][0]["hits"]] == [1, 2]
    content = {"source": "my.smi", "of": "molecules", "rows": 6, "kept": 6, "refused": {}}
    assert body["library"] == content | {"columns": {}}
    assert body["checkpoint"]["step"] == 7 and body["partial"] is False


@pytest.mark.parametrize("address", ["/", "/health", "/docs", "/api/molecule.svg?smiles=CCO"])
def test_head_has_the_head_of_get(client: TestClient, address: str) -> None:
    assert client.head(address).status_code == client.get(address).status_code == 200


@pytest.mark.parametrize("blank", [" ", "\u200b", "\u00ad", "\x00"])
def test_a_blank_query_is_the_callers_error(client: TestClient, blank: str) -> None:
    refused(client.post("/api/search", json={"queries": [blank]}), 422, "invalid_request")
    page = client.get("/", params={"q": blank})
    assert page.status_code == (200 if blank == " " else 422)  # a space is an empty form
    assert client.get("/download.csv", params={"q": blank}).status_code == 422


def test_filters_patterns_and_molecules(client: TestClient) -> None:
    def names(**asked: Any) -> set[str]:
        body = client.post("/api/search", json={"queries": ["CCO"], **asked}).json()
        return {hit["name"] for hit in body["answers"][0]["hits"]}

    assert names(where=["nitro"]) == {"nitromethane"}
    assert names(where=["arene", "!chloride"]) == {"aniline"}
    assert names(substructure="c1ccccc1") == {"aniline", "<script>alert(1)</script>"}
    found = client.post("/api/search", json={"queries": ["CCO"], "of": "molecule", "k": 1}).json()
    hit = found["answers"][0]["hits"][0]
    assert hit["smiles"] == "CCO" and hit["mw"] == 46.069 and "refined" not in hit
    assert hit["groups"] == ["alcohol"] and hit["salt"] is False


def test_limits_of_an_answer_are_in_the_response(client: TestClient) -> None:
    asked = {"queries": ["football " * 200], "substructure": SLOW, "spread": 0}
    answer = client.post("/api/search", json=asked).json()["answers"][0]
    assert answer["cut"] and answer["unsure"] and answer["looked"] == 128


def test_queries_are_encoded_together_and_once() -> None:
    fake = Fake()
    with opened(fake) as client:
        asked = {"queries": [f"query {i % 20}" for i in range(30)]}
        client.post("/api/search", json=asked)
        client.post("/api/search", json=asked)
        assert sorted(text for batch in fake.encoded for text in batch) == sorted(
            {f"query {i}" for i in range(20)}
        )
        assert len(fake.encoded) <= 2
        content = client.get("/metrics").text
    assert "tmr_queries_encoded 20.0" in content and "tmr_queries_remembered 30.0" in content


def test_a_structure_as_text_is_another_query_if_it_is_pure() -> None:
    with opened(Fake()) as client:
        for pure in (False, True, False):
            asked = {"queries": ["CCO"], "pure": pure}
            assert client.post("/api/search", json=asked).status_code == 200
        content = client.get("/metrics").text
    assert "tmr_queries_encoded 2.0" in content and "tmr_queries_remembered 1.0" in content


def test_one_bad_query_of_a_batch_is_its_senders_alone() -> None:
    with opened(Fake(delay=0.05)) as client:
        bad = client.post("/api/search", json={"queries": ["CCO", "C1CC"], "of": "molecule"})
        assert "C1CC" in refused(bad, 422, "bad_smiles")
        assert client.post("/api/search", json={"queries": ["CCO"]}).status_code == 200


def test_explain(client: TestClient) -> None:
    found = client.post("/api/explain", json={"text": "an acid", "smiles": "CC(=O)O"}).json()
    assert found["words"][1] == {"text": "acid", "start": 3, "end": 8, "drop": 0.08, "weight": 0.4}
    assert len(found["atoms"]) == 4
    assert found["heat"] == [[1, 1, 1, 1], [1, 1, 1, 1]]
    refused(client.post("/api/explain", json={"text": "a", "smiles": "C1CC"}), 422, "bad_smiles")
    long = client.post("/api/explain", json={"text": "a" * 2001, "smiles": "C"})
    refused(long, 422, "invalid_request")


@pytest.mark.parametrize("text, smiles", [("a " * 201, "C"), ("an acid", "C" * 151)])
def test_what_is_too_much_to_explain_is_refused_before_it_is_read(
    client: TestClient, text: str, smiles: str
) -> None:
    asked = {"text": text, "smiles": smiles}
    message = refused(client.post("/api/explain", json=asked), 422, "invalid_request")
    assert "at most 200 words and 150 atoms" in message
    assert "150 atoms" in page(client, f"/explain?q={text}&smiles={smiles}")
    least = {"text": text[:-2], "smiles": smiles[:150]}
    assert client.post("/api/explain", json=least).status_code == 200


def test_the_page_draws_no_more_than_it_offers(client: TestClient) -> None:
    assert client.get("/?q=a&k=96").status_code == 200
    many = client.get("/?q=a&k=97", headers={"accept": "text/html"})
    assert many.status_code == 422 and "from 1 to 96" in many.text
    assert client.get("/download.csv?q=a&k=1000").status_code == 200


def test_molecule_svg(client: TestClient) -> None:
    response = client.get("/api/molecule.svg", params={"smiles": "Nc1ccccc1"})
    assert response.headers["content-type"] == "image/svg+xml"
    assert response.text.startswith("<svg") and "style=" not in response.text
    assert 'stroke="#000000"' in response.text
    assert "sandbox" in response.headers["content-security-policy"]
    bad = client.get("/api/molecule.svg", params={"smiles": "<script>"})
    assert bad.status_code == 200 and "not drawn" in bad.text and "<script" not in bad.text
    refused(client.get("/api/molecule.svg?smiles=C&width=9999"), 422, "invalid_request")


def test_openapi_states_limits_and_errors(client: TestClient) -> None:
    content = client.get("/openapi.json").json()
    assert {"/api/search", "/api/explain", "/api/molecule.svg", "/health"} <= set(content["paths"])
    search = content["components"]["schemas"]["SearchRequest"]["properties"]
    assert search["k"]["maximum"] == 1000 and search["queries"]["maxItems"] == 256
    assert "429" in content["paths"]["/api/search"]["post"]["responses"]
    assert "/api/search" in client.get("/docs").text


def test_metrics_count_by_route_and_not_by_address(client: TestClient) -> None:
    for path in ("/nothing1", "/nothing2", "/health"):
        client.get(path)
    content = client.get("/metrics").text
    assert 'tmr_requests_total{route="other",status="404"} 2.0' in content
    assert 'tmr_requests_total{route="/health",status="200"} 1.0' in content
    assert "tmr_molecules 6.0" in content and "nothing1" not in content


# What is refused

MALFORMED = {
    "no JSON": (b"{", 400),
    "a wide spread": (b'{"queries": ["a"], "k": 500, "spread": 0.5}', 422),
    "a list": (b"[1]", 422),
    "a number": (b"3", 422),
    "nothing": (b"", 422),
    "null": (b"null", 422),
    "deep": (b"[" * 10_000, 400),
    "deep and whole": (b'{"queries":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    "NaN": (b'{"queries": ["a"], "spread": NaN}', 400),
    "infinity": (b'{"queries": ["a"], "spread": -Infinity}', 400),
    "huge exponent": (b'{"queries": ["a"], "spread": 1e999}', 422),
    "huge integer": (b'{"queries": ["a"], "k": ' + b"9" * 5000 + b"}", 400),
    "big integer": (b'{"queries": ["a"], "k": ' + b"9" * 400 + b"}", 422),
    "doubled key": (b'{"queries": ["a"], "queries": ["b"]}', 400),
    "other bytes": (b'{"queries": ["\xff"]}', 400),
    "half a pair": (b'{"queries": ["\\ud800"]}', 422),
    "wrong type": (b'{"queries": "a"}', 422),
    "wrong inner type": (b'{"queries": [1]}', 422),
    "a spread that is none": (b'{"queries": ["a"], "spread": true}', 422),
    "boolean": (b'{"queries": ["a"], "k": true}', 422),
    "unknown field": (b'{"queries": ["a"], "K": 3}', 422),
    "no query": (b'{"queries": []}', 422),
    "empty query": (b'{"queries": [""]}', 422),
    "blank query": (b'{"queries": [" "]}', 422),
    "k of 0": (b'{"queries": ["a"], "k": 0}', 422),
    "k of 1,001": (b'{"queries": ["a"], "k": 1001}', 422),
    "257 queries": (json.dumps({"queries": ["a"] * 257}).encode(), 422),
    "a long text": (json.dumps({"queries": ["a" * 10_001]}).encode(), 422),
    "too many hits": (json.dumps({"queries": ["a"] * 256, "k": 1000}).encode(), 422),
    "bad filter": (b'{"queries": ["a"], "where": ["mw<"]}', 422),
    "bad pattern": (b'{"queries": ["a"], "substructure": "("}', 422),
    "more than 1 MB": (b'{"queries": ["' + b"a" * 1_000_000 + b'"]}', 413),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_have_one_shape_of_answer(client: TestClient, name: str) -> None:
    body, status = MALFORMED[name]
    begun = time.perf_counter()
    response = client.post(
        "/api/search", content=body, headers={"content-type": "application/json"}
    )
    assert time.perf_counter() - begun < 2
    assert response.status_code == status, response.text
    assert refused(response, status, response.json()["error"]["code"])
    assert len(response.content) < 1000  # and repeats no large body


def test_a_body_of_unknown_length_is_not_read_past_its_limit() -> None:
    """Asked of the application itself: a client of the tests hands over the whole body at once."""
    given, messages = 0, []

    async def receive() -> dict:
        nonlocal given
        given += 65_536
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": given < 100_000_000}

    async def send(message: dict) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/search"}
    scope |= {"raw_path": b"/api/search", "query_string": b"", "http_version": "1.1"}
    scope |= {"headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]}
    scope |= {"scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    with opened() as client:
        assert client.portal is not None
        client.portal.call(client.app, scope, receive, send)
    assert messages[0]["status"] == 413 and b"too_large" in messages[1]["body"]
    assert given < 2_000_000


def test_a_long_head_is_refused_though_it_comes_in_one_piece(client: TestClient) -> None:
    refused(client.get("/health", headers={"x-long": "a" * 20_000}), 431, "header_too_large")
    refused(client.get("/api/molecule.svg?smiles=" + "C" * 20_000), 431, "header_too_large")


def test_other_kinds_of_body_and_other_methods(client: TestClient) -> None:
    form = client.post("/api/search", data={"queries": "a"})
    refused(form, 415, "not_json")
    refused(client.get("/api/search"), 405, "method_not_allowed")
    for path in ("/api/nothing", "/.env", "/static/../app.py", "/static/%2e%2e/app.py", "/docs/x"):
        refused(client.get(path, headers={"accept": "*/*"}), 404, "not_found")


def test_an_internal_error_is_named_by_a_number(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake()
    fake.fails = RuntimeError("at /secret/place.py")
    with opened(fake) as client:
        message = refused(client.post("/api/search", json={"queries": ["a"]}), 500, "internal")
        assert "secret" not in message
        assert re.search("[0-9a-f]{8}", message)[0] in caplog.text  # type: ignore[index]
        fake.fails = ValueError("shapes (3,4) not aligned")  # one that is not for users
        refused(client.post("/api/search", json={"queries": ["b"]}), 500, "internal")
        fake.fails = ValueError("expected /secret/place")  # its class decides, not its words
        message = refused(client.post("/api/search", json={"queries": ["c"]}), 500, "internal")
        assert "secret" not in message


def test_a_dead_thread_is_one_failed_request() -> None:
    """The worker is back with the next request."""
    fake = Fake()
    fake.fails = SystemExit()  # type: ignore[assignment]
    with opened(fake) as client:
        refused(client.post("/api/search", json={"queries": ["a"]}), 500, "internal")
        fake.fails = None
        assert client.post("/api/search", json={"queries": ["a"]}).status_code == 200
        assert 'tmr_thread_restarts{lane="search"} 1.0' in client.get("/metrics").text


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with opened(Fake(delay=0.4), seconds=0.1) as client:
        response = client.post("/api/search", json={"queries": ["a"]})
        refused(response, 503, "too_slow")
        assert response.headers["retry-after"]


# Who may ask


def test_more_than_the_rate_is_told_when_to_come_back() -> None:
    with opened(rules=Rules(rate=0.1, proxies=1)) as client:

        def ask(who: str) -> Any:
            return client.get("/api/molecule.svg?smiles=C", headers={"x-forwarded-for": who})

        assert ask("1.1.1.1").status_code == 200
        second = ask("1.1.1.1")
        refused(second, 429, "rate_limited")
        assert 5 <= int(second.headers["retry-after"]) <= 11
        assert ask("2.2.2.2").status_code == 200
        assert client.get("/static/page.css").status_code == 200
        assert client.get("/health").status_code == 200


def test_without_its_token_a_public_service_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with opened(rules=Rules(token=TOKEN, rate=0, local=False)) as client:
        for path in ("/", "/metrics", "/openapi.json", "/docs", "/api/molecule.svg?smiles=C"):
            response = client.get(path, headers={"accept": "*/*"})
            refused(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").json() == {"status": "ok"}
        for given in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            refused(client.get("/metrics", headers={"authorization": given}), 401, "unauthorized")
        kept = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/metrics", headers=kept).status_code == 200
        assert client.get("/health", headers=kept).json()["library"]["source"] == "my.smi"
    assert TOKEN not in caplog.text


def test_the_page_asks_for_the_token_once() -> None:
    with opened(rules=Rules(token=TOKEN, rate=0, local=False)) as client:
        asked = client.get("/", headers={"accept": "text/html"})
        assert asked.status_code == 401 and 'action="/login"' in asked.text
        wrong = client.post("/login", data={"token": "x"}, headers={"accept": "text/html"})
        assert wrong.status_code == 401 and not client.cookies
        right = client.post("/login", data={"token": TOKEN}, follow_redirects=False)
        assert right.status_code == 303
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
        assert "Secure" not in cookie
        assert client.get("/").status_code == 200


def test_pages_of_others_cannot_ask() -> None:
    """No CORS; another name for this machine, or another page's origin, is refused."""
    with opened() as client:
        other = client.post(
            "/api/search", json={"queries": ["a"]}, headers={"origin": "http://evil.example"}
        )
        refused(other, 403, "foreign_origin")
        refused(client.get("/health", headers={"host": "evil.example"}), 421, "wrong_host")
        assert client.get("/health", headers={"host": "localhost:8000"}).status_code == 200
        assert not any(h.startswith("access-control") for h in client.get("/health").headers)
        pre = client.options("/api/search", headers={"origin": "http://evil.example"})
        assert pre.status_code == 405


def test_a_page_behind_a_proxy_with_tls_may_ask() -> None:
    """The proxy's name is in Host or in X-Forwarded-Host; the service is bound to loopback."""
    rules = Rules(token=TOKEN, rate=0, proxies=1, local=True)
    own = {"origin": "https://tmr.example", "x-forwarded-proto": "https"}
    near, outer = {"host": "127.0.0.1:8000"}, {"host": "tmr.example"}
    for names in (outer, near | {"x-forwarded-host": "tmr.example"}):
        with opened(rules=rules) as client:
            client.headers |= own | names
            refused(client.post("/api/search", json={"queries": ["a"]}), 401, "unauthorized")
            refused(client.post("/api/reload"), 401, "unauthorized")
            answer = client.post("/login", data={"token": TOKEN}, follow_redirects=False)
            assert answer.status_code == 303 and "; Secure" in answer.headers["set-cookie"]
            client.headers |= {"authorization": f"Bearer {TOKEN}"}
            assert client.post("/api/search", json={"queries": ["a"]}).status_code == 200
            assert client.get("/").status_code == 200
            client.headers |= {"origin": "https://evil.example"}
            foreign = client.post("/api/search", json={"queries": ["a"]})
            refused(foreign, 403, "foreign_origin")


@pytest.mark.parametrize("bad", [{"host": "["}, {"origin": "http://["}, {"host": "[x]"}], ids=str)
def test_half_an_address_is_a_bad_request(client: TestClient, bad: dict[str, str]) -> None:
    refused(client.post("/api/search", json={"queries": ["a"]}, headers=bad), 400, "bad_request")


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for path in ("/", "/health", "/nothing", "/static/page.js", "/metrics"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


# The library


def test_a_damaged_library_is_told_and_the_rest_answers() -> None:
    damage: dict[str, str] = {}
    with opened(damage=lambda: dict(damage), watch_every=0.02) as client:
        assert client.get("/health").json()["status"] == "ok"
        damage["000001"] = "is not there"
        until = time.monotonic() + 5
        while client.get("/health").status_code == 200 and time.monotonic() < until:
            time.sleep(0.02)
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "degraded"
        assert "000001" in health.json()["reason"]
        body = client.post("/api/search", json={"queries": ["a"]}).json()
        assert body["partial"] is True and body["answers"][0]["hits"]
        assert "cannot be read" in client.get("/?q=a").text
        damage.clear()
        while client.get("/health").status_code == 503 and time.monotonic() < until:
            time.sleep(0.02)
        assert client.get("/health").json()["status"] == "ok"


def test_a_store_that_fails_is_no_fault_of_the_clients() -> None:
    fake = Fake()
    with opened(fake) as client:
        fake.fails = IndexUnavailable("expected a library that can be read in /secret/place, got x")
        for asked in ({}, {"substructure": "C"}):
            response = client.post("/api/search", json={"queries": ["a"], **asked})
            assert "secret" not in refused(response, 503, "library_unreadable")
            assert response.headers["retry-after"]
        shown = client.get("/?q=a")
        assert shown.status_code == 503 and "secret" not in shown.text


@pytest.mark.parametrize(
    "error",
    [
        OSError("/secret"),
        UserError("expected /secret"),
        ValueError("expected /secret"),
        KeyError(1),
    ],
)
def test_a_reload_that_fails_says_no_more_than_that(error: Exception) -> None:
    first = [Fake()]

    def fetch() -> Fake:
        if first:
            return first.pop()
        raise error

    service = SearchEngine(fetch)
    near = ("127.0.0.1", 5000)
    with TestClient(create_app(service, FREE), "http://127.0.0.1", client=near) as client:
        assert "/secret" not in refused(client.post("/api/reload"), 503, "library_unreadable")
        assert client.post("/api/search", json={"queries": ["a"]}).status_code == 200


def test_a_reload_is_of_this_machine_alone() -> None:
    with opened() as client:
        assert client.post("/api/reload").json()["library"]["kept"] == 6
        through = client.post("/api/reload", headers={"x-forwarded-for": "127.0.0.1"})
        refused(through, 403, "forbidden")
        assert "tmr_reloads 1.0" in client.get("/metrics").text


# The page


def page(client: TestClient, address: str, **headers: str) -> str:
    return client.get(address, headers={"accept": "text/html", **headers}).text


def test_the_page_works_without_a_script(client: TestClient) -> None:
    text = page(client, "/?q=an+amine&without=nitro")
    assert text.count("<svg") == 5 and text.count('class="card"') == 5
    assert ">an amine</textarea>" in text and "nitromethane" not in text
    assert "MW</span> 46" in text
    assert "/download.csv?q=an+amine&amp;without=nitro" in text
    assert not re.search(r'(src|href|action)="(https?:)?//', text)  # nothing from elsewhere
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=", text)  # nothing inline


def test_the_page_says_how_many_pass_the_filters(client: TestClient) -> None:
    def said(address: str) -> str:
        summary = re.search(r'class="summary">\s*<p>(.*?)</p>', page(client, address))
        assert summary
        return re.sub("<.*?>", "", summary[1])

    assert said("/?q=a&k=2") == "2 of 6 molecules, best first"
    assert said("/?q=a&k=2&without=nitro") == "2 of 5 that pass, of 6 molecules, best first"
    # Which of them hold a pattern is known only when all have been looked into.
    assert said("/?q=a&k=1&substructure=c1ccccc1").startswith("1 of at most 6 that pass")
    assert said("/?q=a&substructure=c1ccccc1").startswith("2 of 2 that pass")
    assert said(f"/?q=a&substructure={SLOW}").startswith("2 of at most 6 that pass")


def test_every_filter_can_be_removed_and_none_changes_the_page(client: TestClient) -> None:
    asked = "/?q=a&k=2&page=2&substructure=c1ccccc1&mw_max=500&without=nitro"
    text = page(client, asked)
    removing = [html.unescape(a) for a in re.findall(r'href="([^"]+)" title="Remove this', text)]
    assert removing == [
        "/?q=a&k=2&mw_max=500&without=nitro",
        "/?q=a&k=2&substructure=c1ccccc1&without=nitro",
        "/?q=a&k=2&substructure=c1ccccc1&mw_max=500",
    ]
    assert 'href="/?q=a&amp;k=2">Clear filters' in text
    assert '<span id="filter-count" class="count">3</span>' in text
    part = page(client, asked, **{"hx-request": "true"})
    assert 'id="filter-count" class="count" hx-swap-oob="true">3<' in part


def test_atoms_of_the_substructure_are_marked(client: TestClient) -> None:
    marked, plain = (page(client, f"/?q=a{more}") for more in ("&substructure=c1ccccc1N", ""))
    assert marked.count('<figure class="marked">') == 2 and "marked" not in plain
    assert "#FFC481" in marked and "#FFC481" not in plain


def test_pages_follow_one_another(client: TestClient) -> None:
    def names(text: str) -> list[str]:
        return re.findall(r'class="rank">(\d+)</span> <span class="name">(.*?)<', text)

    def turned(text: str, to: str) -> str:
        found = re.search(rf'rel="{to}"[^>]* href="([^"]*)"', text)
        return html.unescape(found[1]) if found else ""

    first = page(client, "/?q=a&k=4")
    assert turned(first, "prev") == "" and turned(first, "next") == "/?q=a&k=4&page=2"
    second = page(client, "/?q=a&k=4&page=2")
    assert turned(second, "prev") == "/?q=a&k=4" and turned(second, "next") == ""
    assert names(first) + names(second) == names(page(client, "/?q=a")) and len(names(second)) == 2
    assert "<b>5–6</b> of 6 molecules" in second
    # A download is of the hits that the page shows.
    assert "These 2: " in second and "/download.csv?q=a&amp;k=4&amp;page=2" in second
    rows = list(csv.DictReader(io.StringIO(client.get("/download.csv?q=a&k=4&page=2").text)))
    assert [row["rank"] for row in rows] == ["5", "6"]
    beyond = page(client, "/?q=a&k=4&page=9")
    assert "No further hits" in beyond and "/?q=a&amp;k=4&amp;page=8" in beyond


def test_pages_end_where_the_search_does() -> None:
    with opened(Fake([("C" * (1 + i % 40), f"m{i}") for i in range(1010)])) as client:
        last = page(client, "/?q=a&k=96&page=11")
        assert "<b>961–1,000</b> of 1,010" in last and "Pages end at hit 1,000" in last
        assert 'rel="next"' not in last and 'rel="prev"' in last
        assert "from 1 to 11" in page(client, "/?q=a&k=96&page=12")
        assert "With a variety there is one page" in page(client, "/?q=a&k=96&spread=0.5")
        assert "from 1 to 1," in page(client, "/?q=a&k=96&spread=0.5&page=2")


def test_the_page_names_its_model_and_its_library(client: TestClient, corpus: TestClient) -> None:
    text = page(client, "/")
    assert "Model: <b>fake</b>, step 7" in text and f"{'ab' * 6}</code>" in text
    assert "Library: <b>my.smi</b>, 6 molecules of 6 rows</p>" in text and "secret" not in text
    assert "3 descriptions of 4 rows; refused: 1 empty-text" in page(corpus, "/")


def test_htmx_is_given_the_part_that_changes(client: TestClient) -> None:
    asked = "/?q=an+amine&mw_min=&with="
    response = client.get(asked, headers={"hx-request": "true", "accept": "text/html"})
    assert "<html" not in response.text and response.text.count('class="card"') == 6
    assert response.headers["hx-push-url"] == "/?q=an+amine"
    assert response.headers["vary"] == "HX-Request"


def test_names_and_queries_are_escaped(client: TestClient) -> None:
    attack = '"><script>alert(2)</script><img src=x onerror=alert(3)>{{7*7}}'
    for field in ("q", "molecule", "substructure", "with", "mw_max", "k"):
        text = client.get("/", params={"q": "a", field: attack, "by": "text"}).text
        assert "<script>alert" not in text and "<img src=x" not in text and "{{7*7}}" in text
    assert "&lt;script&gt;alert(1)" in page(client, "/?q=a")


def test_mistakes_are_shown_in_place(client: TestClient) -> None:
    for address, message in (
        ("/?by=molecule&molecule=C1CC", "C1CC"),
        ("/?q=a&with=nitril", "nitrile"),
        ("/?q=a&substructure=(", "SMARTS"),
        ("/?q=+", "molecules to search"),
    ):
        text = page(client, address)
        assert message in text and "<form" in text and "Traceback" not in text
    assert "C1CC" in page(client, "/draw?molecule=C1CC") and "<svg" in page(
        client, "/draw?molecule=CCO"
    )


def test_the_page_says_what_it_knows_of_the_answer(client: TestClient) -> None:
    assert "No hit fits this text as well" in page(client, "/?q=football")
    assert "read only its beginning" in page(client, "/?q=" + "a" * 1001)
    assert "Time ran out" in page(client, f"/?q=a&substructure={SLOW}")
    assert "No molecule meets" in page(client, "/?q=a&with=azide")


def test_a_query_that_is_a_name_is_looked_up(client: TestClient) -> None:
    asked = {"queries": ["Ethanol", "an acid", "benzene"], "k": 2}
    known, plain, absent = client.post("/api/search", json=asked).json()["answers"]
    fields = {"name": "ethanol", "smiles": "CCO", "source": "CHEBI:16236", "in_library": True}
    assert known["named"].items() >= fields.items()
    assert known["named"]["nearest"]["name"] == "ethanol" and len(known["hits"]) == 2
    assert "named" not in plain and not absent["named"]["in_library"]
    shown = page(client, "/?q=Ethanol")
    assert "ethanol (CHEBI:16236) is in this library: CCO (ethanol)" in shown
    assert "by=molecule&amp;molecule=CCO" in shown
    assert "is not in this library; nearest by structure" in page(client, "/?q=benzene")
    assert "this library" not in page(client, "/?q=an+acid")


def test_an_explanation_is_a_page_or_a_part(client: TestClient) -> None:
    address = "/explain?q=an+acid&smiles=CC(%3DO)O"
    whole = page(client, address)
    assert '<mark class="shade-4">an</mark> <mark class="shade-2">acid</mark>' in whole
    assert "Words against atoms" in whole and ">O3</text>" in whole
    assert "<html" in whole and "<html" not in page(client, address, **{"hx-request": "true"})
    assert "give both" in page(client, "/explain?q=&smiles=C")


def test_downloads(client: TestClient) -> None:
    response = client.get("/download.csv?q=an+amine")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 6 and "attachment" in response.headers["content-disposition"]
    names = {row["name"] for row in rows}
    assert '\'=HYPERLINK("http://x")' in names  # no spreadsheet runs it
    assert client.get("/download.sdf?q=an+amine").text.count("$$$$") == 6
    refused(client.get("/download.csv"), 422, "invalid_request")


# A library of descriptions


@pytest.fixture
def corpus() -> Iterator[TestClient]:
    with opened(FakeOfTexts()) as client:
        yield client


def test_hits_that_are_texts_say_so(corpus: TestClient) -> None:
    asked = {"queries": ["CCO"], "of": "molecule", "k": 3}
    body = corpus.post("/api/search", json=asked).json()
    hits = body["answers"][0]["hits"]
    assert {hit["name"] for hit in hits} == {"row 1", "long", '"><script>alert(1)</script>'}
    assert all(set(hit) == {"rank", "score", "text", "name", "id", "duplicate"} for hit in hits)
    assert body["library"]["of"] == "descriptions"
    assert corpus.get("/health").json()["library"]["of"] == "descriptions"
    content = corpus.get("/metrics").text
    assert "tmr_descriptions 3.0" in content and "tmr_molecules 0.0" in content


def test_descriptions_are_not_looked_into_for_a_substructure(corpus: TestClient) -> None:
    asked = {"queries": ["CCO"], "of": "molecule", "substructure": "c1ccccc1"}
    message = refused(corpus.post("/api/search", json=asked), 422, "invalid_request")
    assert "got texts; leave the SMARTS out" in message


def test_the_page_asks_for_descriptions_by_structure(
    corpus: TestClient, client: TestClient
) -> None:
    text = page(corpus, "/")
    assert re.search(r'id="by-molecule" checked', text) and "3 descriptions to search" in text
    assert text.count("autofocus") == 1 and re.search(r'id="molecule"[^>]*autofocus', text)
    assert ">aspirin</a>" in text and "fatty acid" not in text
    for name in ("mw_min", "with", "substructure", "spread", "unsalted", "parents"):
        assert f'name="{name}"' not in text and f'name="{name}"' in page(client, "/")
    assert 'name="distinct"' in text and 'name="k"' in text
    assert "<title>tmr: descriptions that fit a molecule</title>" in text
    assert "aspirin" not in page(client, "/") and 'id="by-text" checked' in page(client, "/")


def test_a_card_of_a_text_shows_it_escaped_and_explains_it(corpus: TestClient) -> None:
    text = page(corpus, "/?molecule=CCO")
    assert text.count('class="card"') == 3 and text.count("<svg") == 1  # the query's
    assert "An &lt;b&gt;aromatic&lt;/b&gt; amine." in text
    assert "<b>aromatic" not in text and "<script>alert" not in text
    assert "3</b> of 3 descriptions, best first" in text
    assert 'href="/explain?q=An+acid.&amp;smiles=CCO"' in text and "duplicate</span>" in text
    # 600 words are not explained, and are no query in an address.
    assert text.count('data-does="explain"') == text.count('data-does="similar"') == 2
    assert "/download.csv?by=molecule&amp;molecule=CCO" in text and "download.sdf" not in text
    near = page(corpus, "/?q=an+acid")
    assert "most similar first" in near and 'data-does="explain"' not in near
    found = page(corpus, "/explain?q=An+acid.&smiles=CCO")
    assert 'href="/?by=molecule&amp;molecule=CCO">Back' in found


def test_descriptions_are_downloaded_as_csv_alone(corpus: TestClient) -> None:
    response = corpus.get("/download.csv?molecule=CCO")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert rows[0]["query"] == "CCO" and {row["text"] for row in rows} >= {"An acid."}
    assert 'filename="descriptions.csv"' in response.headers["content-disposition"]
    message = refused(corpus.get("/download.sdf?molecule=CCO"), 422, "invalid_request")
    assert "got descriptions" in message


@pytest.fixture
def with_columns() -> Iterator[TestClient]:
    fake = Fake()
    told = {"pIC50": "number", "<b>": "text", **{f"c{i}": "number" for i in range(6)}}
    fake._holds(Summary("my.csv", 6, 6, {}, columns=told))
    for i, (_, _, columns) in enumerate(fake._items):
        columns |= {"pIC50": i, "<b>": "<i>" if i else None, **{f"c{j}": j for j in range(6)}}
    with opened(fake) as client:
        yield client


def test_columns_of_the_file_are_filters_and_come_back(with_columns: TestClient) -> None:
    asked = {"queries": ["an acid"], "where": ["pic50>=4", "mw>1"]}
    body = with_columns.post("/api/search", json=asked).json()
    assert body["library"]["columns"]["<b>"] == "text"
    hits = body["answers"][0]["hits"]
    assert sorted(hit["columns"]["pIC50"] for hit in hits) == [4, 5]
    assert hits[0]["columns"]["<b>"] == "<i>"
    wrong = with_columns.post("/api/search", json=asked | {"where": ["pIC5>4"]})
    assert "did you mean pIC50" in refused(wrong, 422, "invalid_request")
    rows = with_columns.get("/download.csv", params={"q": "x", "where": "pIC50<1"}).text
    (row,) = csv.DictReader(io.StringIO(rows))
    assert row["pIC50"] == "0" and row["<b>"] == ""


def test_the_page_filters_by_columns_and_shows_them_escaped(with_columns: TestClient) -> None:
    text = with_columns.get("/", params=[("q", "x"), ("where", "pIC50>3"), ("where", "c1=1")]).text
    assert text.count('<li class="card"') == 2
    assert "<span>pIC50</span> 5" in text and "2 more columns" in text
    assert "<span>&lt;b&gt;</span> &lt;i&gt;" in text and "<i>" not in text
    assert 'name="where" value="c1=1" checked' in text  # and each can be removed
    assert 'href="/?q=x&amp;where=c1%3D1"' in text
    wrong = with_columns.get("/", params={"q": "x", "where": "pIC5>3"})
    assert wrong.status_code == 422 and "did you mean pIC50" in wrong.text


def test_the_drawing_board_has_a_policy_of_its_own(client: TestClient) -> None:
    policy = client.get("/sketch").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'self'" in policy
    assert "http" not in policy


def test_vendored_files_are_what_was_fetched() -> None:
    """Each with its licence beside it, and by its hash."""
    folder = Path(app_file).parent / "static"
    listed = dict(
        reversed(line.split("  ", 1))
        for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    )
    theirs = {"htmx.min.js", "htmx.LICENSE.txt"}
    theirs |= {p.relative_to(folder).as_posix() for p in folder.glob("jsme/**/*") if p.is_file()}
    assert set(listed) == theirs
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
