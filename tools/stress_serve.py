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
# A path through a cage, to an atom that it does not have: RDKit tries every path.
BOMB = "*~" * 30 + "[U]"
CAGE = (
    "c12c3c4c5c1c6c7c8c2c9c1c3c2c3c4c4c%10c5c5c6c6c7c7c%11c8c9c8c9c1c2c1c2c3c4c3c4c%10c5c5c6c6c7c7"
    "c%11c8c8c9c1c1c2c3c2c4c5c6c3c7c8c1c23"
)
PATIENCE = 2.0  # seconds for a pattern (F14)
WATCHED = 20.0  # seconds that slow connections are waited for (S3)
NEW = "new-"  # how the names of another library begin


class Reply(NamedTuple):
    status: int
    body: bytes
    seconds: float
    headers: dict[str, str]


class Service:
    """A service in a process of its own."""

    def __init__(self, run: str, library: str, *words: str, token: str = "") -> None:
        command = [sys.executable, "-m", "tmr_jax.serve", "--run", run, "--library", library]
        settings = os.environ | ({"TMR_JAX_TOKEN": token} if token else {})
        self._bearer = {"Authorization": f"Bearer {token}"} if token else {}
        self.process = subprocess.Popen(
            [*command, "--port", "0", *words], stdout=subprocess.PIPE, text=True, env=settings
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("Serving at "):
            raise ValueError(f"expected the service to start, got {line!r}; see above")
        self.port = int(line.split()[2].rsplit(":", 1)[1])

    def ask(self, path: str, body: object = None, **headers: str) -> Reply:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return send(connection, path, body, **self._bearer, **headers)

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
                asked = {"queries": [fresh(rng)], "k": 10}
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


def fresh(rng: random.Random) -> str:
    """A text that nobody has asked, so that no kept vector answers."""
    return f"{rng.choice(TEXTS)} and {rng.randrange(10**9)} carbon atoms"


def percentile(seconds: list[float], q: float) -> float:
    """Milliseconds."""
    return 1000 * sorted(seconds)[min(int(q * len(seconds)), len(seconds) - 1)] if seconds else 0


def healthy(service: Service, count: int) -> list[float]:
    """Seconds of searches, one after another."""
    return [service.search(TEXTS[i % 40]).seconds for i in range(count)]


def healthy_while(service: Service, going: Callable[[], bool]) -> list[float]:
    found: list[float] = []
    while going():
        found += healthy(service, 5)
    return found


def healthy_for(service: Service, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    return healthy_while(service, lambda: time.monotonic() < until)


def indexed(run: str, lines: list[str], out: Path) -> Path:
    """The library that `tmr index` makes of these lines, in the folder `out`."""
    source = out.with_suffix(".smi")
    source.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    words = ["--run", run, "--library", str(source), "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "tmr_jax.index", *words], check=True, stdout=subprocess.DEVNULL
    )
    return out


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
        found.append((name, replies[0].status, 1000 * max(r.seconds for r in replies)))
    grown = service.memory - before
    ok = all(status in (413, 422, 431) and ms < 50 for _, status, ms in found) and grown < 20
    shown = ", ".join(f"{name}: {status} in {ms:.0f} ms" for name, status, ms in found)
    return ok, f"{shown} (slowest of 5); memory {grown:+.1f} MB"


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
    while open_ and time.monotonic() - begun < WATCHED:
        seen += healthy(service, 5)
        for one in list(open_):
            with contextlib.suppress(OSError):
                one.sendall(b"c")
            one.setblocking(False)
            try:
                gone = not one.recv(4096)  # what comes before the end is an answer
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                open_.remove(one)
                one.close()
                cut = time.monotonic() - begun
        time.sleep(0.1)
    for one in open_:
        one.close()
    p95 = percentile(seen, 0.95)
    told = f"{connections} slow connections, {len(open_)} left, the last cut after {cut:.1f} s"
    ok = not open_ and cut < 12 and p95 <= max(2 * base, base + 5)
    return ok, f"{told}; p95 of others {p95:.1f} ms, {base:.1f} ms before"


def s4(service: Service, run: str, library: str, clients: int, seconds: float) -> tuple[bool, str]:
    """Load for `seconds`, after a warm-up of half as long that counts for errors alone.

    It fills the caches of queries and reads pages of the library for the first time.
    """
    memory, encoded = [], service.metric("tmr_queries_encoded")
    with load(service, clients) as found:
        warm = time.monotonic() + seconds / 2
        until = warm + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 10))
            memory.append((time.monotonic(), service.memory))
    encoded = service.metric("tmr_queries_encoded") - encoded
    errors, busy, bare = refused(found)
    late = [r for at, r in found if isinstance(r, Reply) and r.status == 200 and at > warm]
    times = [r.seconds for r in late]
    later = [(at, held) for at, held in memory if at > warm]
    slope = 60 * statistics.linear_regression(*zip(*later, strict=True)).slope
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    told = f"{clients} clients, {len(times) / seconds:.0f} answers/s, {errors} errors"
    told += f", {encoded / max(len(found), 1):.0%} encoded, {busy} told to come back"
    told += f", p50 {p50:.0f} ms, p99 {p99:.0f} ms, memory {slope:+.2f} MB/min"
    # In less than a minute the slope is that of noise.
    ok = not errors and not bare and p99 <= 5 * p50 and (slope <= 1 or seconds < 60)
    full, shown = queue_of_eight(run, library, clients, min(seconds, 10))
    return ok and full and encoded >= len(found) / 2, f"{told}; {shown}"


def queue_of_eight(run: str, library: str, clients: int, seconds: float) -> tuple[bool, str]:
    """More clients than may wait: those that are too many are told when to come back."""
    service = Service(run, library, "--rate", "0", "--queue", "8")
    try:
        with load(service, max(clients, 32), pause=0.02) as found:
            time.sleep(seconds)
    finally:
        service.end()
    errors, busy, bare = refused(found)
    told = f"queue of 8: {busy} of {len(found)} told to come back, {bare} not told when"
    return not errors and bool(busy) and not bare, f"{told}, {errors} failed"


def refused(found: list[tuple[float, Reply | Exception]]) -> tuple[int, int, int]:
    """Requests that failed, those that found a full queue, and those of them not told when."""
    replies = [r for _, r in found if isinstance(r, Reply)]
    errors = len(found) - len(replies) + sum(r.status not in (200, 429) for r in replies)
    busy = [r for r in replies if r.status == 429]
    return errors, len(busy), sum("retry-after" not in r.headers for r in busy)


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
    service = Service(run, library, "--proxies", "1", token="0123456789abcdef" * 4)
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
    done, torn, failed, late = outcomes(found, begun)
    told = f"{done} answers, {torn} torn, {failed} asked before the signal failed, {late} after it"
    told += f"; ended after {took:.1f} s with status {status}"
    ok = not torn and not failed and took <= 10 and status == 0 and back is not None and back <= 5
    shown = "not back" if back is None else f"back after {back:.1f} s"
    return ok, f"{told}; killed matcher {shown}"


def outcomes(
    found: list[tuple[float, Reply | Exception]], signal_at: float
) -> tuple[int, int, int, int]:
    """Answers, torn ones, and what failed of that asked before a signal and after it.

    Who asks after it may find a closed door; what was on its way when it came has to be answered.
    """
    done = sum(good(r) for _, r in found)
    torn = sum(isinstance(r, http.client.IncompleteRead) for _, r in found)
    failed = sum(not good(r) for at, r in found if at < signal_at)
    return done, torn, failed, len(found) - done - failed


def good(reply: Reply | Exception) -> bool:
    return isinstance(reply, Reply) and reply.status == 200


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


def s9(run: str, library: Path, folder: Path, reloads: int) -> tuple[bool, str]:
    """Each reload finds another library at the address; every answer is of one of them alone."""
    from tmr_jax.index.exact import ExactEngine

    some = next(ExactEngine(library).batches(1_000)).columns["smiles"]
    lines = [f"{smiles} {NEW}{i}" for i, smiles in enumerate(some)]
    places = (library, indexed(run, lines, folder / "new"))
    served, other = folder / "served", folder / "other"
    served.symlink_to(places[0])
    service = Service(run, str(served), "--rate", "0")
    statuses = []
    try:
        before = [mapped(service, place) for place in places]
        with load(service, 8, pause=0.01) as found:
            for i in range(1, reloads + 1):
                other.symlink_to(places[i % 2])
                os.replace(other, served)  # at once: there is always a library
                if i % 3:
                    statuses.append(service.ask("/api/reload", b"").status)
                else:
                    service.process.send_signal(signal.SIGHUP)
                time.sleep(0.3)
        is_new, until = bool(reloads % 2), time.monotonic() + 5

        def settled() -> bool:
            gone = not mapped(service, places[not is_new])
            return answers_of(service.search("after")) == {is_new} and gone

        while not (is_settled := settled()) and time.monotonic() < until:
            time.sleep(0.2)
        after = [mapped(service, place) for place in places]
    finally:
        service.end()
    bad = sum(not good(r) for _, r in found)
    kinds = [answers_of(r) for _, r in found if good(r)]
    mixed, seen = sum(len(k) != 1 for k in kinds), set().union(*kinds)
    told = f"{reloads} reloads to another library under {len(found)} requests, {bad} failed, "
    told += f"{mixed} of both; parts mapped of the old and the new one {before} before"
    ok = not bad and not mixed and len(seen) == 2 and set(statuses) == {200} and is_settled
    return ok, f"{told}, {after} after"


def answers_of(reply: Reply | Exception) -> set[bool]:
    """Whether hits are of the new library: both, where they are of two."""
    assert isinstance(reply, Reply)
    (answer,) = json.loads(reply.body)["answers"]
    return {hit["name"].startswith(NEW) for hit in answer["hits"]}


def mapped(service: Service, library: Path) -> int:
    """How many parts of a library a service holds."""
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    return maps.count(f"{library.resolve()}/")


def f14(run: str, folder: Path) -> tuple[bool, str]:
    """Patterns that never end, of a library that has what they never end in."""
    lines = [f"{CAGE} cage-{i}" for i in range(20)] + [f"{'C' * i}O" for i in range(1, 41)]
    service = Service(run, str(indexed(run, lines, folder / "cages")), "--rate", "0")
    try:
        return bombed(service)
    finally:
        service.end()


def bombed(service: Service) -> tuple[bool, str]:
    def pattern(smarts: str) -> Reply:
        return service.search("x", substructure=smarts)

    pattern("CO")
    warm = min(pattern("CO").seconds for _ in range(5))
    healthy(service, 40)
    quiet = percentile(healthy_for(service, 3), 0.95)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        beside = percentile(healthy_for(service, 3), 0.95)
        busy.kill()
    slow, back = [], []

    def bomb() -> None:
        for _ in range(3):
            slow.append(pattern(BOMB))
            back.append(pattern("CO"))  # of another process, which is there when the next one comes

    thread = threading.Thread(target=bomb)
    thread.start()
    during = percentile(healthy_while(service, thread.is_alive), 0.95)
    if len(back) < 3:
        return False, f"{len(slow)} of 3 patterns were answered"
    statuses, again = [r.status for r in slow], [r.status for r in back]
    longest, begin = max(r.seconds for r in slow), max(r.seconds for r in back) - warm
    cores = len(os.sched_getaffinity(0))
    told = f"answers {statuses} after {longest:.2f} s at most, then {again}; a process's start "
    told += f"takes {begin:.2f} s apart from that; p95 of others {during:.1f} ms, "
    told += f"{during / quiet:.2f} of the {quiet:.1f} ms before"
    ok = statuses == [422] * 3 and again == [200] * 3 and longest <= PATIENCE + 0.1 + warm
    if during > 1.2 * quiet:
        told += f", {during / beside:.2f} of the {beside:.1f} ms beside any busy process"
        told += f": matching takes one of {cores} cores"
        ok &= cores <= 2 and during <= 1.2 * beside
    return ok, told


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
            "S4": lambda: s4(service, *where, chosen.clients, chosen.seconds),
            "S5": lambda: s5(*where),
            "S6": lambda: s6(*where),
            "S7": lambda: s7(service),
            "S8": lambda: s8(*where),
            "S9": lambda: s9(chosen.run, library, Path(folder), chosen.reloads),
            "F14": lambda: f14(chosen.run, Path(folder)),
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
