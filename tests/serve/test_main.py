"""The command: access, messages for mistakes, slow clients, signals, damaged libraries."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tmr_jax
from tmr_jax.index import build as index_build
from tmr_jax.index.copy import copy
from tmr_jax.index.schema import IndexUnavailable
from tmr_jax.serve.__main__ import TOKEN, Arguments, check, main, opener
from tmr_jax.serve.http import listen, loading
from tmr_jax.types import UserError

GOOD = "0123456789abcdefghijklmnopqrstuv"
ROOT = Path(__file__).resolve().parents[2]
# A service whose retriever is the fake of the tests: it starts in two seconds.
FAKE = """
import sys
from tests.serve.fake import Fake, engine
from tmr_jax.serve.__main__ import _reload_on_hup
from tmr_jax.serve import http as connections
from tmr_jax.serve.app import create_app
from tmr_jax.serve.middleware import Rules
connections.Connection.slow = 0.5
service = engine(Fake(delay=0.2))
app = create_app(service, Rules(rate=0), on_start=lambda loop: _reload_on_hup(loop, service))
sys.exit(connections.serve_app(app, connections.listen("127.0.0.1", 0)))
"""


class Running(NamedTuple):
    process: subprocess.Popen
    port: int

    def ask(self, path: str, body: dict | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        raw = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json"}
        connection.request("POST" if raw else "GET", path, raw, kind if raw else {})
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        connection.close()
        return found

    def raw(self, data: bytes, half: bool = False) -> tuple[bytes, float]:
        """What comes back until the service closes, and how long that took."""
        begun, found = time.monotonic(), b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as own:
            own.sendall(data)
            if half:
                own.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while part := own.recv(65_536):
                    found += part
        return found, time.monotonic() - begun


@pytest.fixture
def running() -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving at http://127.0.0.1:"), line
    yield Running(process, int(line.split()[2].rsplit(":", 1)[1]))
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.costly
def test_slow_and_broken_clients_are_cut_and_others_are_not(running: Running) -> None:
    head = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for begun in (b"", b"GET / HT", head, head + b"Content-Length: 9\r\n\r\n{"):
        answer, seconds = running.raw(begun)
        assert 0.3 < seconds < 2, begun
        assert answer.startswith(b"HTTP/1.1 408") or begun.endswith(b"{"), answer
    assert running.raw(head, half=True)[1] < 0.3
    large, _ = running.raw(b"GET / HTTP/1.1\r\nX-A: " + b"x" * 20_000)
    assert large.startswith(b"HTTP/1.1 431") and b'"header_too_large"' in large
    for bad in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
        answer, _ = running.raw(bad)
        assert answer.startswith(b"HTTP/1.1 400") and b'{"error": {"code": "bad_request"' in answer
    whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer, seconds = running.raw(whole)  # and then says nothing more
    assert answer.startswith(b"HTTP/1.1 200") and 4 < seconds < 7
    assert running.ask("/api/search", {"queries": ["a"]})[0] == 200


def test_a_client_that_trickles_has_no_more_time(running: Running) -> None:
    begun = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as own,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        own.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        while time.monotonic() - begun < 3:
            own.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - begun < 1.5


def test_an_early_refusal_leaves_the_connection_in_order(running: Running) -> None:
    """413 comes before the body has; what is left of it is thrown away, not kept."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    for _ in range(2):
        connection.request(
            "POST", "/api/search", b"x" * 1_200_000, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert response.status == 413 and json.loads(response.read())["error"]["code"]
        time.sleep(0.35)  # together longer than one request may take
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_sigterm_lets_answers_come_to_their_end(running: Running) -> None:
    found: list[tuple[int, dict]] = []
    ask = lambda i: found.append(running.ask("/api/search", {"queries": [f"query {i}"]}))  # noqa: E731
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    running.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10)
    assert [status for status, _ in found] == [200] * 4
    assert running.process.wait(10) == 0


def test_ctrl_c_ends_it_with_its_own_status(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 130


def test_ctrl_c_ends_it_where_it_was_started_with_the_signal_ignored() -> None:
    """As a shell does for what it starts in the background."""
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    with subprocess.Popen(
        [sys.executable, "-c", ignored + FAKE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving at ")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_a_hang_up_reloads(running: Running) -> None:
    running.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.request("GET", "/metrics")
    assert b"tmr_reloads 1.0" in connection.getresponse().read()
    connection.close()


def chosen(**given) -> Arguments:
    return Arguments(Path("library"), Path("run"), **given)


def test_others_are_let_in_with_a_token_only(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        assert check(chosen(host=host), {}) == ""
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="expected a token"):
            check(chosen(host=host), {})
        assert check(chosen(host=host), {TOKEN: GOOD}) == GOOD
    file = tmp_path / "token"
    file.write_text(GOOD + "\n")
    assert check(chosen(host="0.0.0.0", token_file=file), {}) == GOOD
    for weak in (GOOD[:31], "ab" * 40):
        with pytest.raises(ValueError, match="32 random") as error:
            check(chosen(), {TOKEN: weak})
        assert weak not in str(error.value)
    with pytest.raises(ValueError, match="write one there"):
        check(chosen(token_file=tmp_path / "none"), {})
    file.write_text("\n")
    with pytest.raises(ValueError, match="got an empty file"):
        check(chosen(token_file=file), {TOKEN: GOOD})
    with pytest.raises(ValueError, match="expected a token with --proxies"):
        check(chosen(proxies=1), {})
    assert check(chosen(proxies=1), {TOKEN: GOOD}) == GOOD


def test_mistakes_are_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    words = ["--run", str(tmp_path), "--library", str(tmp_path)]
    for more, message in (
        (["--host", "0.0.0.0"], "expected a token"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--queue", "0"], "--queue from 1"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(words) == 2
    assert "tmr-jax[serve]" in capsys.readouterr().err


def test_an_address_answers_while_the_service_loads() -> None:
    with listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        service = Running(None, address[1])  # type: ignore[arg-type]
        with loading(listening) as waiting:
            assert service.ask("/health")[0] == 503
            assert service.ask("/health")[1]["status"] == "loading"
            asking = [b"HEAD /health HTTP/1.1\r\n\r\n", b"POST /api/search HTTP/1.1\r\n\r\n"]
            clients = [socket.create_connection(address) for _ in asking]
            for client, request in zip(clients, asking, strict=True):
                client.sendall(request)
            time.sleep(0.3)
        late = socket.socketpair()  # one whose thread looked into it until the service had started
        passed: list[socket.socket] = []
        waiting.pass_to(passed.append)
        waiting.add(late[0])
        assert passed[-1] is late[0]
        assert sorted(one.recv(99) for one in passed[:-1]) == asking  # whole, as they were sent
        for one in (*passed, *clients, late[1]):
            one.close()


EARLY = """
import socket, threading, time
listening = connections.listen("127.0.0.1", 0)
with connections.loading(listening) as waiting:
    early = socket.create_connection(listening.getsockname())
    early.sendall(b"HEAD /health HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    time.sleep(0.3)
threading.Thread(target=lambda: print(early.recv(12).decode(), flush=True), daemon=True).start()
sys.exit(connections.serve_app(app, listening, waiting))
"""


@pytest.mark.costly
def test_a_request_that_came_early_is_answered_by_the_service() -> None:
    script = FAKE[: FAKE.index("sys.exit")] + EARLY
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline()[:12] for _ in range(2)}
        process.kill()
    assert lines == {"Serving at h", "HTTP/1.1 200"}


def test_what_waits_is_closed_where_loading_fails() -> None:
    with listen("127.0.0.1", 0) as listening:
        with pytest.raises(UserError), loading(listening):
            client = socket.create_connection(listening.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            time.sleep(0.3)
            raise UserError("no library")
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_taken_address_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--run", str(tmp_path), "--library", str(tmp_path), "--port", port]) == 2
    assert f"expected to listen at 127.0.0.1:{port}, got" in capsys.readouterr().err


@pytest.fixture(scope="module")
def library(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "my.smi").write_text("".join(f"{'C' * i}O chain{i}\n" for i in range(1, 41)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "SHARD", 10)
        model = tmr_jax.load(tiny_run).model
        index_build.build(index_build.Source(folder / "my.smi"), folder / "library", model)
    return folder / "library"


def test_what_is_wrong_with_a_library_is_seen(
    tiny_run: Path, library: Path, tmp_path: Path
) -> None:
    own = tmp_path / "library"
    shutil.copytree(library, own)
    served = opener(Arguments(own, tiny_run))()
    assert served.check() == {}
    shards = sorted((own / "shards").iterdir())
    shutil.rmtree(shards[0])
    os.truncate(shards[1] / "rows.f32", 3)
    assert sorted(served.check()) == [shards[0].name, shards[1].name]
    shutil.rmtree(own / "shards")
    assert list(served.check()) == ["library"]
    shutil.rmtree(own)
    assert list(served.check()) == ["library"]


@pytest.mark.parametrize("to", ["{}/lance", "milvus:{}/lib.db"])
def test_other_engines_are_looked_after_too(
    tiny_run: Path, library: Path, tmp_path: Path, to: str
) -> None:
    """All or nothing: an engine that opens need not answer."""
    place = to.format(tmp_path)
    copy(library, place)
    retriever = opener(Arguments(Path(place), tiny_run))()
    assert retriever.check() == {}
    if "milvus" in to:
        retriever._library.engine._server.ask("release_collection", "library")
    else:
        shutil.rmtree(tmp_path / "lance" / "items.lance" / "data")
    assert list(retriever.check()) == ["library"]
    with pytest.raises(IndexUnavailable):
        retriever.search("an alcohol")


def test_a_file_is_looked_after_where_its_library_is(tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.smi"
    file.write_text("CCO\nCCN\nCCS\n")
    reopened = opener(Arguments(file, tiny_run))
    served = reopened()
    engine = served._library.engine
    assert served.check() == {}
    flip(next(engine.folder.glob("shards/*/rows.f32")))
    assert list(served.check()) == ["000000"]
    served = reopened()  # makes it again
    assert served.check() == {}
    shutil.rmtree(engine.folder / "shards")
    assert list(served.check()) == ["library"]
    assert reopened().check() == {}


@pytest.mark.costly
def test_the_whole_way_on_a_run(tiny_run: Path, library: Path, tmp_path: Path) -> None:
    """With a shard removed the others answer; once it is back, everything does."""
    own = tmp_path / "library"
    shutil.copytree(library, own)
    words = ["--run", str(tiny_run), "--library", str(own), "--port", "0", "--rate", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tmr_jax.serve", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    running = Running(process, int(line.split()[2].rsplit(":", 1)[1]))
    try:
        asked = {"queries": ["a long chain"], "k": 40, "where": ["alcohol"]}
        status, whole = running.ask("/api/search", asked)
        hits = whole["answers"][0]["hits"]
        assert status == 200 and len(hits) == 40 and whole["partial"] is False
        assert hits[0].keys() >= {"rank", "score", "smiles", "name", "id", "mw", "groups"}
        shutil.move(own / "shards" / "000001", tmp_path / "away")
        assert until(running, 503)["status"] == "degraded"
        _, rest = running.ask("/api/search", asked)
        names = {hit["id"]: hit["name"] for hit in hits}
        assert rest["partial"] is True
        assert 0 < len(rest["answers"][0]["hits"]) < 40
        assert all(names[hit["id"]] == hit["name"] for hit in rest["answers"][0]["hits"])
        shutil.move(tmp_path / "away", own / "shards" / "000001")
        assert until(running, 200)["status"] == "ok"
        assert running.ask("/api/search", asked)[1]["answers"] == whole["answers"]
        for file in ("rows.f32", "entries.arrow"):  # as many bytes, other ones
            flip(own / "shards" / "000002" / file)
            assert "000002" in until(running, 503)["reason"]
            _, rest = running.ask("/api/search", asked)
            found = {hit["id"]: hit["name"] for hit in rest["answers"][0]["hits"]}
            assert rest["partial"] is True and len(found) == 30
            assert found == {i: name for i, name in names.items() if not 20 <= i < 30}
            flip(own / "shards" / "000002" / file)
            until(running, 200)
        assert running.ask("/api/search", asked)[1]["answers"] == whole["answers"]
    finally:
        process.terminate()
        assert process.wait(15) == 0
        process.stdout.close()


def flip(path: Path) -> None:
    """One bit in the middle of a file, or back."""
    with open(path, "r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 4]))


def until(running: Running, status: int) -> dict:
    end = time.monotonic() + 15
    while time.monotonic() < end:
        found, text = running.ask("/health")
        if found == status:
            return text
        time.sleep(0.1)
    raise AssertionError(f"health never was {status}")
