"""The stress tool in its small form, against a real service on a tiny run."""

from __future__ import annotations

import contextlib
import http.client
import re
import runpy
import socket
import threading
from pathlib import Path

import pytest

import tmr_jax
from tmr_jax.index import build as index_build

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "stress_serve.py"))


@pytest.fixture(scope="module")
def library(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stress_serve")
    (folder / "my.smi").write_text("".join(f"{'C' * i}O chain{i}\n" for i in range(1, 31)))
    source = index_build.Source(folder / "my.smi")
    index_build.build(source, folder / "library", tmr_jax.load(tiny_run).model)
    return folder / "library"


def stressed(run: Path, library: Path, capsys: pytest.CaptureFixture[str], *only: str) -> dict:
    """What the tool says of each fault."""
    words = ["--run", str(run), "--library", str(library), "--bodies", "60"]
    words += ["--seconds", "2", "--clients", "8", "--reloads", "3"]
    TOOL["main"]([*words, "--only", *only])
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


# Times are for a quiet machine; what is not a time holds on any.


@pytest.mark.slow
def test_small_form(tiny_run, library, capsys):
    told = stressed(tiny_run, library, capsys, "S1", "S2", "S4", "S7", "S9", "F24")
    assert {name for name, line in told.items() if line.startswith("ok")} >= {"S1", "S7", "F24"}
    assert set(re.findall(r": (\d{3}) in", told["S2"])) == {"413", "422", "431"}
    assert " 0 errors, 100% encoded, 0 told to come back" in told["S4"]
    queue = re.search(
        r"queue of 8: (\d+) of \d+ told to come back, 0 not told when, 0 f", told["S4"]
    )
    assert queue and int(queue[1])
    assert re.search(
        r" 0 failed, 0 of both; .* \[\d+, 0\] before, \[0, [1-9]\d*\] after", told["S9"]
    )


@pytest.mark.slow
def test_small_form_of_what_has_a_service_of_its_own(tiny_run, library, capsys):
    told = stressed(tiny_run, library, capsys, "S6", "S8", "F14")
    assert told["S6"].startswith("ok") and " 0 torn, 0 asked before" in told["S8"]
    assert "answers [422, 422, 422]" in told["F14"] and "then [200, 200, 200]" in told["F14"]


class Fake:
    """A service that answers 422, every fifth time slowly."""

    memory = 100.0
    port = 0
    asked = 0

    def ask(self, path, body=None, **headers):
        self.asked += 1
        return TOOL["Reply"](422, b"", 0.01 if self.asked % 5 else 0.2, {})

    def search(self, text, **more):
        return self.ask("")


def test_one_slow_refusal_in_five_is_too_slow():
    ok, told = TOOL["s2"](Fake())
    assert not ok and told.count("422 in 200 ms") == 5


def test_an_answer_without_an_end_is_no_cut(monkeypatch):
    monkeypatch.setitem(TOOL["s3"].__globals__, "WATCHED", 1.0)
    taken = []

    def answer():
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                taken[-1].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        service = Fake()
        service.port = server.getsockname()[1]
        ok, told = TOOL["s3"](service, 3)
        server.shutdown(socket.SHUT_RDWR)
    for one in taken:
        one.close()
    assert not ok and told.startswith("3 slow connections, 3 left")


def test_what_was_on_its_way_when_the_signal_came_has_to_be_answered():
    done, busy = (TOOL["Reply"](status, b"", 0.1, {}) for status in (200, 503))
    closed, torn = ConnectionResetError(), http.client.IncompleteRead(b"")
    found = [(1.0, done), (1.9, closed), (1.95, busy), (2.1, closed), (2.2, torn), (2.3, done)]
    assert TOOL["outcomes"](found, 2.0) == (2, 1, 2, 2)
