"""What `tmr serve` bears: python tools/stress_serve.py --run RUN --library FOLDER [--seconds 120]

Starts the service on a free port of this machine, does to it what careless and hostile clients do,
and prints one line for each fault of the list with its figures. Exit status 1 where one fails.
All traffic stays on loopback, and every loop ends by count or by clock.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

TEXTS = [
    f"{article} {kind} with {part}"
    for article in ("a small", "a large", "a natural", "an aromatic")
    for kind in ("acid", "amine", "alcohol", "steroid", "sugar", "peptide", "lipid", "alkaloid")
    for part in ("a ketone", "a chlorine atom", "two rings", "a phosphate", "a long chain")
]
BOMB = "[#6]~" * 60 + "[#6]"  # a path through most of what is large: seconds of matching


class Reply(NamedTuple):
    status: int
    body: bytes
    seconds: float
    headers: dict[str, str]


class Service:
    """A service in a process of its own."""

    def __init__(self, run: str, library: str, *words: str) -> None:
        command = [sys.executable, "-m", "tmr_jax.serve", "--run", run, "--library", library]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("Serving at "):
            raise ValueError(f"expected the service to start, got {line!r}; see above")
        self.port = int(line.split()[2].rsplit(":", 1)[1])

    def ask(self, path: str, body: object = None, **headers: str) -> Reply:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return send(connection, path, body, **headers)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def search(self, text: str, **more: object) -> Reply:
        return self.ask("/api/search", {"queries": [text], **more})

    def metric(self, name: str) -> float:
        told = self.ask("/metrics").body.decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", told, re.M)[1])  # type: ignore[index]

    @property
    def memory(self) -> float:
        """MB of this process."""
        return self.metric("process_resident_memory_bytes") / 1e6

    def end(self) -> None:
        """The same as often as it is said."""
        self.process.terminate()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


def send(
    connection: http.client.HTTPConnection, path: str, body: object = None, **headers: str
) -> Reply:
    """A GET, or with a body a POST; bytes go as they are, all else as JSON."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kinds = {} if raw is None else {"Content-Type": "application/json"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    begun = time.perf_counter()
    connection.request("GET" if raw is None else "POST", path, raw, {**kinds, **named})
    response = connection.getresponse()
    content = response.read()
    told = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, content, time.perf_counter() - begun, told)


@contextlib.contextmanager
def load(
    service: Service, clients: int, pause: float = 0.0, reached: Callable[[], bool] | None = None
) -> Iterator[list[tuple[float, Reply | Exception]]]:
    """Clients that ask in the background until the block ends; (time, reply) of every request."""
    found: list[tuple[float, Reply | Exception]] = []
    stop = threading.Event()

    def client(number: int) -> None:
        rng = random.Random(number)
        connection = service.connect()
        while not stop.is_set():
            begun = time.monotonic()
            try:
                asked = {"queries": [rng.choice(TEXTS)], "k": 10}
                who = {"X_Forwarded_For": f"10.0.0.{number}"}
                found.append((begun, send(connection, "/api/search", asked, **who)))
            except (OSError, http.client.HTTPException) as error:
                found.append((begun, error))
                connection.close()
                if reached is not None and reached():
                    break
            stop.wait(pause)
        connection.close()

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def percentile(seconds: list[float], q: float) -> float:
    """Milliseconds."""
    return 1000 * sorted(seconds)[min(int(q * len(seconds)), len(seconds) - 1)] if seconds else 0


def healthy(service: Service, count: int) -> list[float]:
    """Seconds of searches, one after another."""
    return [service.search(TEXTS[i % 40]).seconds for i in range(count)]


# Faults: each returns whether it passed, and its figures


def malformed(rng: random.Random) -> bytes:
    """A body that is wrong in one of many ways."""
    good = {"queries": ["an acid"], "k": 3, "where": ["mw<500"], "spread": 0.5}
    kind = rng.randrange(10)
    if kind == 0:
        return json.dumps(good).encode()[: rng.randrange(1, 40)]
    if kind == 1:
        return b'{"queries": ' + b"[" * rng.randrange(1000, 10_000)
    if kind == 2:
        return json.dumps(good).replace("0.5", rng.choice(("NaN", "Infinity", "1e999"))).encode()
    if kind == 3:
        return json.dumps(good).replace("3", "9" * rng.randrange(20, 6000)).encode()
    if kind == 4:
        name = rng.choice(list(good))
        return json.dumps(
            good | {name: rng.choice((None, {}, [[]], "\x00" * 50, -1, True))}
        ).encode()
    if kind == 5:
        return json.dumps(good).encode()[:-1] + b', "k": 4}'
    if kind == 6:
        return rng.randbytes(rng.randrange(1, 2000))
    if kind == 7:
        return json.dumps(good | {rng.choice("abc"): 1}).encode()
    if kind == 8:
        return json.dumps(rng.choice(([], 3, None, "x", [good]))).encode()
    return json.dumps(good | {"queries": ["\ufeff \u202e" * rng.randrange(0, 3)] * 300}).encode()


def s1(service: Service, bodies: int) -> tuple[bool, str]:
    rng = random.Random(0)
    for _ in range(bodies // 10):  # what is grown once is not drift
        service.ask("/api/search", malformed(rng))
    before, wrong, traces = service.memory, 0, 0
    for _ in range(bodies):
        reply = service.ask("/api/search", malformed(rng))
        try:
            shape = {k: sorted(v) for k, v in json.loads(reply.body).items()}
        except (ValueError, TypeError):
            shape = {}
        wrong += not 400 <= reply.status < 500 or shape != {"error": ["code", "message"]}
        traces += b"Traceback" in reply.body
    drift = service.memory / before - 1
    told = f"{bodies:,} bodies, {wrong} not 4xx or of another shape, {traces} tracebacks"
    return not wrong and not traces and drift < 0.05, f"{told}, memory {drift:+.1%}"


def s2(service: Service) -> tuple[bool, str]:
    large = b'{"queries": ["' + b"a" * 5_000_000 + b'"]}'
    asks = {
        "5 MB": lambda: service.ask("/api/search", large),
        "k 1,001": lambda: service.search("x", k=1001),
        "257 queries": lambda: service.ask("/api/search", {"queries": ["x"] * 257}),
        "header 20 kB": lambda: service.ask("/health", X_Long="x" * 20_000),
        "address 20 kB": lambda: service.ask("/?q=" + "x" * 20_000),
    }
    before, found = service.memory, []
    for name, ask in asks.items():
        replies = [ask() for _ in range(5)]
        found.append((name, replies[0].status, 1000 * min(r.seconds for r in replies)))
    grown = service.memory - before
    ok = all(status in (413, 422, 431) and ms < 50 for _, status, ms in found) and grown < 20
    shown = ", ".join(f"{name}: {status} in {ms:.0f} ms" for name, status, ms in found)
    return ok, f"{shown}; memory {grown:+.1f} MB"


def s3(service: Service, connections: int) -> tuple[bool, str]:
    healthy(service, 40)  # whose vectors are kept from then on, as those of the searches below
    base = percentile(healthy(service, 100), 0.95)
    begun, open_ = time.monotonic(), []
    for i in range(connections):
        one = socket.create_connection(("127.0.0.1", service.port))
        one.sendall(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        if i % 4 == 1:
            one.sendall(b"b\r\nContent-Length: 500\r\n\r\n{")
        if i % 4 == 2:
            one.shutdown(socket.SHUT_WR)
        open_.append(one)
    seen, cut = [], 0.0
    while open_ and time.monotonic() - begun < 20:
        seen += healthy(service, 5)
        for one in list(open_):
            with contextlib.suppress(OSError):
                one.sendall(b"c")
            one.setblocking(False)
            try:
                gone = not one.recv(4096) or True
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                open_.remove(one)
                one.close()
                cut = time.monotonic() - begun
        time.sleep(0.1)
    p95 = percentile(seen, 0.95)
    told = f"{connections} slow connections, {len(open_)} left, the last cut after {cut:.1f} s"
    ok = not open_ and cut < 12 and p95 <= max(2 * base, base + 5)
    return ok, f"{told}; p95 of others {p95:.1f} ms, {base:.1f} ms before"


def s4(service: Service, clients: int, seconds: float) -> tuple[bool, str]:
    memory = []
    with load(service, clients) as found:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 10))
            memory.append((time.monotonic(), service.memory))
    replies = [r for _, r in found if isinstance(r, Reply)]
    errors = len(found) - len(replies) + sum(r.status not in (200, 429) for r in replies)
    busy = [r for r in replies if r.status == 429]
    bare = sum("retry-after" not in r.headers for r in busy)
    # What is done once, as reading pages of the library for the first time, is in nobody's p99.
    warm = found[0][0] + seconds / 10
    late = [r for at, r in found if isinstance(r, Reply) and r.status == 200 and at > warm]
    times = [r.seconds for r in late]
    later = memory[len(memory) // 3 :]  # after what is grown once
    slope = 60 * statistics.linear_regression(*zip(*later, strict=True)).slope
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    told = f"{clients} clients, {len(times) / (0.9 * seconds):.0f} answers/s, {errors} errors"
    told += f", {len(busy)} told to come back, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    # The slope of a short run is that of its warm-up.
    ok = not errors and not bare and p99 <= 5 * p50 and (slope <= 1 or seconds < 60)
    return ok, f"{told}, memory {slope:+.2f} MB/min"


def s5(run: str, library: str) -> tuple[bool, str]:
    command = [sys.executable, "-m", "tmr_jax.serve", "--run", run, "--library", library]
    bare = {k: v for k, v in os.environ.items() if k != "TMR_JAX_TOKEN"}
    statuses = []
    for host, token in (("0.0.0.0", ""), ("0.0.0.0", "short"), ("::", ""), ("0.0.0.0", "a" * 64)):
        words = [*command, "--host", host, "--port", "0"]
        settings = bare | ({"TMR_JAX_TOKEN": token} if token else {})
        done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=120)
        statuses.append(done.returncode)
    return statuses == [2] * 4, f"exit statuses {statuses} without a token that will do"


def s6(run: str, library: str) -> tuple[bool, str]:
    service = Service(run, library, "--proxies", "1")
    try:
        many = [service.ask("/docs", X_Forwarded_For="10.1.1.1") for _ in range(60)]
        other = service.ask("/docs", X_Forwarded_For="10.1.1.2")
    finally:
        service.end()
    first = next((i for i, r in enumerate(many) if r.status == 429), -1)
    ok = 0 < first < 60 and other.status == 200
    return ok, f"of 60 at once the first refused is number {first}; another client: {other.status}"


def s7(service: Service) -> tuple[bool, str]:
    attack = "<script>alert(1)</script>"
    page = service.ask(
        "/?q=%3Cscript%3Ealert(1)%3C/script%3E&with=%3Cscript%3E", Accept="text/html"
    )
    probes = ("/.git/config", "/static/../../serve.py", "/static/%2e%2e/app.py", "/etc/passwd")
    statuses = [service.ask(path).status for path in probes]
    cors = service.ask("/health", Origin="http://evil.example").headers
    policy = page.headers["content-security-policy"]
    ok = attack not in page.body.decode() and statuses == [404] * 4
    ok &= not any(name.startswith("access-control") for name in cors)
    return ok and policy.startswith("default-src 'self'"), f"probes {statuses}, policy: {policy}"


def s8(run: str, library: str) -> tuple[bool, str]:
    service = Service(run, library, "--rate", "0")
    service.search("warm")
    back = killed_matcher(service)
    ending = threading.Event()
    with load(service, 16, reached=ending.is_set) as found:
        time.sleep(1.5)
        ending.set()
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        status = service.process.wait(30)
        took = time.monotonic() - begun
    service.end()
    # A connection that is refused or closed before its answer began is no torn answer.
    torn = sum(isinstance(r, http.client.IncompleteRead) for _, r in found)
    before = sum(isinstance(r, Exception) for at, r in found if at < begun - 0.2)
    done = sum(isinstance(r, Reply) and r.status == 200 for _, r in found)
    told = f"{done} answers, {torn} torn, {before} failed before the signal"
    told += f"; ended after {took:.1f} s with status {status}"
    ok = not torn and not before and took <= 10 and status == 0 and back is not None and back <= 5
    shown = "not back" if back is None else f"back after {back:.1f} s"
    return ok, f"{told}; killed matcher {shown}"


def killed_matcher(service: Service) -> float | None:
    """Seconds until patterns are looked for again after their process is killed."""
    service.search("an acid", substructure="C=O")
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    every = {
        p for t in children.parent.parent.iterdir() for p in (t / "children").read_text().split()
    }
    for pid in every:
        os.kill(int(pid), signal.SIGKILL)
    begun = time.monotonic()
    while time.monotonic() - begun < 10:
        if service.search("an acid", substructure="C=O").status == 200:
            return time.monotonic() - begun
        time.sleep(0.1)
    return None


def s9(service: Service, library: Path, reloads: int) -> tuple[bool, str]:
    def mapped() -> int:
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
        return maps.count(str(library.resolve()))

    service.search("warm")
    before = mapped()
    with load(service, 8, pause=0.01) as found:
        statuses = []
        for i in range(reloads):
            if i % 2:
                service.process.send_signal(signal.SIGHUP)
            else:
                statuses.append(service.ask("/api/reload", b"").status)
            time.sleep(0.3)
    time.sleep(1)
    service.search("after")
    bad = sum(isinstance(r, Exception) or r.status != 200 for _, r in found)
    after = mapped()
    told = f"{reloads} reloads under {len(found)} requests, {bad} failed"
    ok = not bad and set(statuses) == {200} and after <= before
    return ok, f"{told}; mapped parts of the library {before} before, {after} after"


def f14(service: Service) -> tuple[bool, str]:
    base = percentile(healthy(service, 60), 0.95)
    begun = time.perf_counter()
    slow: list[Reply] = []
    thread = threading.Thread(target=lambda: slow.append(service.search("x", substructure=BOMB)))
    thread.start()
    p95 = percentile(healthy(service, 60), 0.95)
    thread.join(30)
    took = time.perf_counter() - begun
    ok = bool(slow) and slow[0].status in (200, 422) and slow[0].seconds < 4
    told = f"{slow[0].status} after {slow[0].seconds:.1f} s" if slow else f"nothing in {took:.0f} s"
    return ok, f"{told}; p95 of others {p95:.1f} ms, {base:.1f} ms before"


def f24(service: Service, library: Path) -> tuple[bool, str]:
    whole = json.loads(service.search("an acid", k=20).body)["answers"][0]["hits"]
    by_id = {hit["id"]: hit["smiles"] for hit in whole}
    shutil.rmtree(sorted((library / "shards").iterdir())[0])
    begun = time.monotonic()
    while service.ask("/health").status == 200 and time.monotonic() - begun < 10:
        time.sleep(0.1)
    took, health = time.monotonic() - begun, service.ask("/health")
    rest = json.loads(service.search("an acid", k=20).body)
    hits = rest["answers"][0]["hits"]
    strange = sum(hit["id"] in by_id and by_id[hit["id"]] != hit["smiles"] for hit in hits)
    ok = health.status == 503 and rest["partial"] is True and not strange
    return (
        ok,
        f"health {health.status} after {took:.1f} s, partial {rest['partial']}, {strange} wrong",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--library", required=True, type=Path, help="a folder of tmr index")
    parser.add_argument("--seconds", type=float, default=120, help="of S4")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--bodies", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="e.g. S1 F24")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        shutil.copytree(chosen.library, library)
        where = (chosen.run, str(library))
        service = Service(*where, "--rate", "0")
        faults: dict[str, Callable[[], tuple[bool, str]]] = {
            "S1": lambda: s1(service, chosen.bodies),
            "S2": lambda: s2(service),
            "S3": lambda: s3(service, chosen.connections),
            "S4": lambda: s4(service, chosen.clients, chosen.seconds),
            "S5": lambda: s5(*where),
            "S6": lambda: s6(*where),
            "S7": lambda: s7(service),
            "S8": lambda: s8(*where),
            "S9": lambda: s9(service, library, chosen.reloads),
            "F14": lambda: f14(service),
            "F24": lambda: f24(service, library),
        }
        failed = 0
        try:
            for name in chosen.only or faults:
                ok, told = faults[name]()
                failed += not ok
                print(f"{name:<4}{'ok  ' if ok else 'FAIL'}  {told}", flush=True)
        finally:
            service.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
