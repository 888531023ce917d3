"""A download is whole and verified before it gets its final name."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tmr_jax.data import __main__ as command
from tmr_jax.data import download as fetch
from tmr_jax.data.download import MissingPart, Part, WrongContent, find, locate
from tmr_jax.types import UserError

CONTENT = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT (or `body`); `faults` says what goes wrong with each request in turn."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges = CONTENT, True
        self.faults: list[int | float] = []
        self.asked: list[tuple[str, str | None]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_response(fault)
            if fault == 302:
                self.send_header("Location", self.path)
                self.server.faults.append(302)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, first = self.server.body, 0
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        whole = body[first:]
        self.wfile.write(whole[: int(len(whole) * fault)] if fault else whole)

    def log_message(self, format: str, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "sleep", lambda seconds: None)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def part(server: Server, **changes) -> Part:
    url = f"http://127.0.0.1:{server.server_port}/file"
    return Part("toy", "file.bin", url, SHA256, size=len(CONTENT))._replace(**changes)


def left(tmp_path: Path) -> set[str]:
    """Names of the files of the set, without locks."""
    folder = tmp_path / "cache/data/toy"
    return {p.name for p in folder.glob("*") if not p.name.endswith(".lock")}


@pytest.mark.parametrize("share", [(1 + 98 * i / 19) / 100 for i in range(20)])
def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path, share) -> None:
    server.faults = [share]
    path = locate(part(server))
    assert path.read_bytes() == CONTENT
    assert [r for _, r in server.asked] == [None, f"bytes={int(len(CONTENT) * share)}-"]
    assert left(tmp_path) == {"file.bin"}


def test_five_cuts_leave_no_file_under_the_final_name_and_the_next_run_goes_on(
    server, tmp_path
) -> None:
    server.faults = [0.3] * 5
    with pytest.raises(MissingPart, match=r"in 5 tries.*cut after.*make data SET=toy"):
        locate(part(server))
    assert len(server.asked) == 5
    assert left(tmp_path) == {"file.bin.part"}
    kept = (tmp_path / "cache/data/toy/file.bin.part").stat().st_size
    assert locate(part(server)).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={kept}-"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server, status) -> None:
    server.faults = [status] * 4
    assert locate(part(server)).read_bytes() == CONTENT
    server.faults = [status] * 9
    server.asked.clear()
    with pytest.raises(MissingPart, match=f"status {status}"):
        locate(part(server, name="other.bin"))
    assert len(server.asked) == 5


def test_waits_double_and_heed_retry_after(server, monkeypatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch, "sleep", waits.append)
    server.faults = [500] * 4
    locate(part(server))
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_redirect_loop_and_a_missing_page_are_final(server, tmp_path) -> None:
    server.faults = [302]
    with pytest.raises(MissingPart, match="redirect"):
        locate(part(server))
    assert len(server.asked) < 15
    server.faults = [404]
    server.asked.clear()
    with pytest.raises(MissingPart, match="status 404"):
        locate(part(server))
    assert len(server.asked) == 1
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    "body, what",
    [
        (b"<!DOCTYPE html><html>sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "Git-LFS pointer"),
        (CONTENT[:-1] + b"\0", "other content"),
    ],
)
def test_wrong_content_is_refused_with_both_hashes(server, tmp_path, body, what) -> None:
    server.body = body
    with pytest.raises(WrongContent, match=what) as refused:
        locate(part(server))
    assert SHA256 in str(refused.value)
    assert hashlib.sha256(body).hexdigest() in str(refused.value)
    assert left(tmp_path) == set()


def test_an_endless_file_is_not_written_to_its_end(server, tmp_path) -> None:
    server.body = CONTENT * 20
    with pytest.raises(WrongContent, match="more than 200,000 bytes"):
        locate(part(server))
    assert left(tmp_path) == set()


def test_remains_of_another_file_are_given_up(server, tmp_path) -> None:
    folder = tmp_path / "cache/data/toy"
    folder.mkdir(parents=True)
    (folder / "file.bin.part").write_bytes(b"x" * 1000)
    assert locate(part(server)).read_bytes() == CONTENT
    assert [r for _, r in server.asked] == ["bytes=1000-", None]
    (folder / "file.bin").unlink()
    (folder / "file.bin.part").write_bytes(b"x" * len(CONTENT))  # nothing is left to send: 416
    assert locate(part(server)).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server) -> None:
    server.ranges = False
    server.faults = [0.5]
    assert locate(part(server)).read_bytes() == CONTENT


def test_a_git_blob_id_is_enough(server) -> None:
    # what `git hash-object` prints for a file with the five bytes "hello"
    server.body = b"hello"
    blob = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
    assert locate(part(server, sha256="", git_blob=blob, size=0)).read_bytes() == b"hello"
    with pytest.raises(WrongContent, match=blob):
        locate(part(server, sha256="", git_blob="0" * 40, size=0, name="b"))


def test_the_data_folder_is_asked_first_and_verified_too(server, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMR_JAX_DATA", str(tmp_path / "data"))
    assert find(part(server)) is None
    (folder / "file.bin.gz").write_bytes(gzip.compress(CONTENT))
    assert locate(part(server)) == folder / "file.bin.gz"
    assert server.asked == []
    (folder / "file.bin.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(WrongContent, match="damaged"):
        locate(part(server))
    (folder / "file.bin.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WrongContent, match="Git-LFS"):
        locate(part(server))


def test_without_network_it_says_so_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    url = "https://no-such-host.invalid/file"
    start = time.monotonic()
    with pytest.raises(MissingPart) as missing:
        locate(Part("chebi20", "train.txt", url, SHA256))
    assert time.monotonic() - start < 5
    for told in ("train.txt", url, "make data SET=chebi20", "tmr data chebi20"):
        assert told in str(missing.value)


def test_a_name_server_that_never_answers_is_not_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "CONNECT_S", 0.2)
    over = threading.Event()

    def hang(*address: object) -> None:
        over.wait(20)
        raise OSError("no answer")

    monkeypatch.setattr(fetch.socket, "create_connection", hang)
    start = time.monotonic()
    with pytest.raises(MissingPart, match="no connection within"):
        locate(Part("toy", "file", "http://127.0.0.1:1/file", SHA256))
    over.set()
    assert time.monotonic() - start < 2


def test_a_derived_part_is_never_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    with pytest.raises(MissingPart, match="no server has it: it was derived"):
        locate(Part("open_pairs", "pairs.tsv", sha256=SHA256))


def test_a_mirror_must_serve_the_pinned_file(server, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_MIRROR", f"http://127.0.0.1:{server.server_port}/m/")
    assert locate(part(server, url="https://elsewhere.invalid/x")).read_bytes() == CONTENT
    assert server.asked == [("/m/toy/file.bin", None)]
    server.body = b"a stand-in"
    with pytest.raises(WrongContent):
        locate(part(server, name="other.bin"))


@pytest.mark.parametrize("mirror", ["ftp://h", "http://h:abc", "http://h:99999", "http://[h"])
def test_a_mirror_has_an_address(server, monkeypatch, mirror) -> None:
    monkeypatch.setenv("TMR_JAX_MIRROR", mirror)
    with pytest.raises(UserError, match="expected TMR_JAX_MIRROR to be http"):
        locate(part(server))


def test_a_proxy_without_an_address_is_explained(server, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://h:abc")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingPart, match="Port could not be cast"):
        locate(part(server))


def test_a_mirror_vouches_for_its_own_files_only_where_asked_to(
    server, tmp_path, monkeypatch, capsys
) -> None:
    class Mirror(Handler):
        def do_GET(self) -> None:
            stand_in = b"a stand-in"
            sums = f"{hashlib.sha256(stand_in).hexdigest()}  file.bin\n".encode()
            self.server.body = sums if self.path.endswith("/toy/SHA256SUMS") else stand_in
            super().do_GET()

    server.RequestHandlerClass = Mirror
    fetch._warn_of_mirror.cache_clear()
    monkeypatch.setenv("TMR_JAX_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TMR_JAX_MIRROR_SUMS", "1")
    path = locate(part(server))
    assert path.read_bytes() == b"a stand-in"
    assert "WARNING" in capsys.readouterr().err
    assert locate(part(server)) == path  # found again, and still checked against the list
    path.write_bytes(b"something else")
    with pytest.raises(WrongContent):
        locate(part(server))
    # without the opt-in the stand-in does not exist, and the pinned hash holds
    monkeypatch.delenv("TMR_JAX_MIRROR_SUMS")
    assert find(part(server)) is None
    with pytest.raises(WrongContent):
        locate(part(server))


def test_the_command_names_what_it_does_not_know(capsys) -> None:
    assert command.main(["chebi2"]) == 2
    assert "did you mean chebi20" in capsys.readouterr().err
    assert command.main(["open"]) == 2
    assert "TMR_JAX_DATA" in capsys.readouterr().err
