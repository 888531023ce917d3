"""The service under careless and hostile clients, on a real run: bodies, slow connections, load,
kills, reloads and patterns that never end.

All traffic stays on loopback, and every loop ends by count or by clock.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tmr_jax
from tmr_jax.index import build as index_build

pytestmark = pytest.mark.slow
# A path through a cage to an atom that the cage does not have: RDKit tries every path.
BOMB = "*~" * 30 + "[U]"
CAGE = (
    "c12c3c4c5c1c6c7c8c2c9c1c3c2c3c4c4c%10c5c5c6c6c7c7c%11c8c9c8c9c1c2c1c2c3c4c3c4c%10c5c5c6c6c7c7"
    "c%11c8c8c9c1c1c2c3c2c4c5c6c3c7c8c1c23"
)
NEW = "new-"  # prefix of the names in the second library


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Service:
    """A service in a process of its own."""

    def __init__(self, run: Path, library: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tmr_jax.serve", "--run", run, "--library", library]
        self.process = subprocess.Popen(
            [*map(str, command), "--port", "0", "--rate", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Serving at "), line
        self.port = int(line.split()[2].rsplit(":", 1)[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, path: str, body: object = None) -> Reply:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return send(connection, path, body)

    def search(self, text: str, **options: object) -> Reply:
        return self.ask("/api/search", {"queries": [text], **options})

    @property
    def memory(self) -> float:
        """Bytes."""
        text = self.ask("/metrics").body.decode()
        match = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.M)
        assert match is not None
        return float(match[1])

    def end(self) -> int:
        self.process.terminate()
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def send(connection: http.client.HTTPConnection, path: str, body: object = None) -> Reply:
    """A GET, or with a body a POST; bytes are sent as they are, all else as JSON."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kind = {} if raw is None else {"Content-Type": "application/json"}
    connection.request("GET" if raw is None else "POST", path, raw, kind)
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, response.read(), headers)


@contextlib.contextmanager
def load(
    service: Service, clients: int, is_ending: Callable[[], bool] = lambda: False
) -> Iterator[list[tuple[float, Reply | Exception]]]:
    """Clients that search until the block ends; (time, reply) of every request."""
    replies: list[tuple[float, Reply | Exception]] = []
    stop = threading.Event()

    def client(number: int) -> None:
        rng, connection = random.Random(number), service.connect()
        while not stop.is_set():
            start, text = time.monotonic(), f"an acid with {rng.randrange(10**9)} carbon atoms"
            try:
                replies.append((start, send(connection, "/api/search", {"queries": [text]})))
            except (OSError, http.client.HTTPException) as error:
                replies.append((start, error))
                connection.close()
                if is_ending():
                    break
            stop.wait(0.01)
        connection.close()

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield replies
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def is_good(reply: Reply | Exception) -> bool:
    return isinstance(reply, Reply) and reply.status == 200


def indexed(run: Path, lines: list[str], out: Path) -> Path:
    out.with_suffix(".smi").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    index_build.build(index_build.Source(out.with_suffix(".smi")), out, tmr_jax.load(run).model)
    return out


@pytest.fixture(scope="module")
def library(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [f"{'C' * i}O chain{i}" for i in range(1, 31)]
    return indexed(tiny_run, lines, tmp_path_factory.mktemp("stress") / "library")


@pytest.fixture(scope="module")
def service(tiny_run: Path, library: Path) -> Iterator[Service]:
    service = Service(tiny_run, library)
    yield service
    assert service.end() == 0


def malformed(rng: random.Random) -> bytes:
    """A body that is wrong in one of many ways."""
    good = {"queries": ["an acid"], "k": 3, "where": ["mw<500"], "spread": 0.5}
    text = json.dumps(good)
    wrong: list[Callable[[], bytes | str]] = [
        lambda: text[: rng.randrange(1, 40)],
        lambda: '{"queries": ' + "[" * rng.randrange(1000, 10_000),
        lambda: text.replace("0.5", rng.choice(("NaN", "Infinity", "1e999"))),
        lambda: text.replace("3", "9" * rng.randrange(20, 6000)),
        lambda: json.dumps(good | {rng.choice(list(good)): rng.choice((None, {}, [[]], -1, True))}),
        lambda: text[:-1] + ', "k": 4}',
        lambda: rng.randbytes(rng.randrange(1, 2000)),
        lambda: json.dumps(good | {rng.choice("abc"): 1}),
        lambda: json.dumps(rng.choice(([], 3, None, "x", [good]))),
        lambda: json.dumps(good | {"queries": ["\ufeff \u202e" * rng.randrange(3)] * 300}),
    ]
    body = rng.choice(wrong)()
    return body.encode() if isinstance(body, str) else body


def test_malformed_bodies_get_one_shape_of_error_and_cost_no_memory(service: Service) -> None:
    rng, before = random.Random(0), 0.0
    for i in range(600):
        if i == 100:  # after what is allocated once
            before = service.memory
        reply = service.ask("/api/search", malformed(rng))
        assert 400 <= reply.status < 500 and b"Traceback" not in reply.body
        (error,) = json.loads(reply.body).values()
        assert sorted(error) == ["code", "message"]
    after = service.memory
    assert after / before < 1.05
    large = b'{"queries": ["' + b"a" * 5_000_000 + b'"]}'
    assert {service.ask("/api/search", large).status for _ in range(5)} == {413}
    assert service.memory - after < 20e6  # bytes


def test_slow_connections_are_cut_while_others_are_answered(service: Service) -> None:
    connections = []
    for i in range(60):
        one = socket.create_connection(("127.0.0.1", service.port))
        one.sendall(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        if i % 4 == 1:
            one.sendall(b"b\r\nContent-Length: 500\r\n\r\n{")
        if i % 4 == 2:
            one.shutdown(socket.SHUT_WR)
        one.setblocking(False)
        connections.append(one)
    until = time.monotonic() + 12  # the limit of a slow client is 10 s
    while connections and time.monotonic() < until:
        assert service.search("an acid").status == 200
        connections = [one for one in connections if not _is_cut(one)]
        time.sleep(0.1)
    for one in connections:
        one.close()
    assert not connections


def _is_cut(connection: socket.socket) -> bool:
    """Whether the service closed it; sends one more byte otherwise."""
    with contextlib.suppress(OSError):
        connection.sendall(b"c")
    try:
        cut = not connection.recv(4096)  # what precedes the end is an error response
    except BlockingIOError:
        cut = False
    except OSError:
        cut = True
    if cut:
        connection.close()
    return cut


def test_load_has_no_errors_and_a_full_queue_says_when_to_retry(
    service: Service, tiny_run: Path, library: Path
) -> None:
    with load(service, 16) as replies:
        time.sleep(4)
    assert replies and all(is_good(reply) for _, reply in replies)
    small = Service(tiny_run, library, "--queue", "8")
    try:
        with load(small, 48) as replies:
            time.sleep(4)
    finally:
        assert small.end() == 0
    busy = [r for _, r in replies if isinstance(r, Reply) and r.status == 429]
    assert busy and all("retry-after" in reply.headers for reply in busy)
    assert sum(is_good(reply) for _, reply in replies) + len(busy) == len(replies)


def test_a_killed_matcher_returns_and_sigterm_finishes_what_was_asked(
    tiny_run: Path, library: Path
) -> None:
    service, ending = Service(tiny_run, library), threading.Event()
    assert service.search("an acid", substructure="CO").status == 200
    for task in Path(f"/proc/{service.process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    until = time.monotonic() + 10
    while service.search("an acid", substructure="CO").status != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    with load(service, 16, ending.is_set) as replies:
        time.sleep(1.5)
        ending.set()
        signalled = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - signalled < 10
    # A request that follows the signal may be refused; one that precedes it must be answered.
    assert not any(isinstance(reply, http.client.IncompleteRead) for _, reply in replies)
    assert all(is_good(reply) for at, reply in replies if at < signalled)


def test_each_answer_during_reloads_is_of_one_library(
    tiny_run: Path, library: Path, tmp_path: Path
) -> None:
    lines = [f"{'C' * i}O {NEW}{i}" for i in range(1, 31)]
    places = (library, indexed(tiny_run, lines, tmp_path / "new"))
    served, other = tmp_path / "served", tmp_path / "other"
    served.symlink_to(places[0])
    service = Service(tiny_run, served)
    try:
        assert [bool(_mapped(service, place)) for place in places] == [True, False]
        with load(service, 8) as replies:
            for i in range(1, 6):
                other.symlink_to(places[i % 2])
                os.replace(other, served)  # atomically: there is always a library
                if i % 3:
                    assert service.ask("/api/reload", b"").status == 200
                else:
                    service.process.send_signal(signal.SIGHUP)
                time.sleep(0.3)
        until = time.monotonic() + 10
        while _mapped(service, places[0]):  # the old library is freed
            assert time.monotonic() < until
            service.search("after")
            time.sleep(0.2)
    finally:
        assert service.end() == 0
    kinds = [_is_new(reply) for _, reply in replies]
    assert all(len(kind) == 1 for kind in kinds) and set().union(*kinds) == {True, False}


def _is_new(reply: Reply | Exception) -> set[bool]:
    assert isinstance(reply, Reply) and reply.status == 200
    (answer,) = json.loads(reply.body)["answers"]
    return {hit["name"].startswith(NEW) for hit in answer["hits"]}


def _mapped(service: Service, library: Path) -> int:
    """How many parts of a library the process maps."""
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    return maps.count(f"{library.resolve()}/")


def test_a_pattern_without_end_is_refused_and_blocks_nobody(tiny_run: Path, tmp_path: Path) -> None:
    lines = [f"{CAGE} cage-{i}" for i in range(20)] + [f"{'C' * i}O" for i in range(1, 41)]
    service = Service(tiny_run, indexed(tiny_run, lines, tmp_path / "cages"))
    replies: list[Reply] = []

    def bomb() -> None:
        for smarts in (BOMB, "CO") * 2:
            replies.append(service.search("x", substructure=smarts))

    try:
        assert service.search("x", substructure="CO").status == 200
        thread = threading.Thread(target=bomb)
        start = time.monotonic()
        thread.start()
        searches = 0
        while thread.is_alive():
            assert service.search("an acid").status == 200
            searches += 1
        assert time.monotonic() - start < 30 and searches > 10
    finally:
        assert service.end() == 0
    assert [reply.status for reply in replies] == [422, 200, 422, 200]
