"""Files of the public data sets: local, cached or downloaded, and always verified.

In: a `Part`, the name, address and hash of a file. Out: the path of a file with exactly that
content, plain or gzipped.

TMR_JAX_DATA      folder to look in first, for SET/NAME or SET/NAME.gz
TMR_JAX_CACHE     folder for downloads (default ~/.cache/tmr_jax)
TMR_JAX_MIRROR    address that serves MIRROR/SET/NAME in place of the published ones
TMR_JAX_MIRROR_SUMS=1  trust the mirror's own MIRROR/SET/SHA256SUMS instead of the pinned hashes,
                  for stand-ins of a data set; prints a warning, and uses another cache folder
"""
# Not `pooch`: it starts an interrupted file from the beginning, ignores Retry-After, has no limit
# of size and no lock between processes.

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import socket
import ssl
import threading
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from time import sleep
from typing import NamedTuple

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn

from tmr_jax.data.files import cache_folder, open_binary, replaced, waiting
from tmr_jax.types import UserError

CHUNK = 1 << 20  # bytes read at once
TRIES = 5
BACKOFF_S = 0.5  # waited after the first failed try, doubled after each further one
LONGEST_WAIT_S = 30.0  # whatever a server's Retry-After says
CONNECT_S = 2.5  # name resolution and connection together; a machine without network says so soon
READ_S = 30.0  # silence in the middle of a file
LARGEST = 1 << 30  # bytes of a part whose size is not known beforehand
SUMS = "SHA256SUMS"


class MissingPart(UserError):
    """A file is neither local nor cached and cannot be downloaded."""


class WrongContent(UserError):
    """A file exists but its content does not have the pinned hash."""


class Part(NamedTuple):
    """One file of a data set. Hashes and size are those of the uncompressed content."""

    set: str  # folder below the data folder, e.g. "chebi20"
    name: str
    url: str = ""  # empty: derived from several sources, no server has it
    sha256: str = ""
    git_blob: str = ""  # id by `git hash-object`, for files known only by their repository
    size: int = 0  # bytes; 0: unknown


@functools.cache
def parts_of(name: str) -> dict[str, Part]:
    """The files of a data set by their names, as `parts.toml` pins them."""
    pins = resources.files("tmr_jax.data.datasets").joinpath("parts.toml").read_text("utf-8")
    return {file: Part(name, file, **pin) for file, pin in tomllib.loads(pins)[name].items()}


def check_version(name: str, versions: Sequence[str], version: str) -> None:
    """UserError where a data set has no such version."""
    if version not in versions:
        raise UserError(
            f"expected a version of {name} out of {', '.join(versions)}; got {version!r}; "
            "set --data.version"
        )


def find(part: Part) -> Path | None:
    """The verified local file of a part, or None; TMR_JAX_DATA comes before the cache."""
    data = os.environ.get("TMR_JAX_DATA")
    if data and (path := _in_folder(part, Path(data))):
        return path
    sums = _downloads() / part.set / SUMS
    return _in_folder(_restated(part, sums) if _trusts_mirror() else part, _downloads())


def _in_folder(part: Part, folder: Path) -> Path | None:
    for path in (folder / part.set / part.name, folder / part.set / f"{part.name}.gz"):
        if path.is_file():
            verify(part, path, str(path))
            return path
    return None


def locate(part: Part) -> Path:
    """The verified file of a part, downloaded if it is not local.

    Raises MissingPart with file, address and command, within 5 seconds where there is no network.
    """
    return find(part) or fetch(part)


def store(part: Part, content: str) -> Path:
    """Keeps a file that was derived here with those that were fetched; its path.

    Raises WrongContent, and keeps nothing, unless it has the pinned hash.
    """
    target = _downloads() / part.set / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")
        verify(part, partial, f"{target}, derived here")
    return target


def verify(part: Part, path: Path, place: str) -> None:
    """Raises WrongContent, with expected and got hash, unless the file at `path` is the part.

    `place` is where the content came from, for the message.
    """
    assert part.sha256 or part.git_blob, f"{part.name} has no pinned hash"
    size, sha256, git_blob, head = _digest(path, part.size or LARGEST)
    if part.sha256 in ("", sha256) and part.git_blob in ("", git_blob):
        return
    raise WrongContent(
        f"expected {part.name} of {part.set} at {place} with {_pinned(part)}; got {_what(head)}: "
        f"{size:,} bytes, SHA-256 {sha256}, git blob {git_blob}; delete that file (or "
        f"ask another server) and run: {command(part.set)}"
    )


def command(name: str) -> str:
    """The command that fetches a data set."""
    return f"make data SET={name}  (or: tmr data {name})"


def _digest(path: Path, limit: int) -> tuple[int, str, str, bytes]:
    """Size, SHA-256, git blob id and first bytes of the uncompressed content.

    More than `limit` bytes are refused.
    """
    # the git blob id covers the size, which is only known at the end, hence two passes
    size, sha256, head = 0, hashlib.sha256(), b""
    for chunk in _chunks(path):
        size += len(chunk)
        head = head or chunk[:512]
        sha256.update(chunk)
        if size > limit:
            raise WrongContent(
                f"expected at most {limit:,} bytes in {path}; got more; "
                "delete the file and fetch it again"
            )
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in _chunks(path):
        blob.update(chunk)
    return size, sha256.hexdigest(), blob.hexdigest(), head


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with open_binary(path) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except UserError as error:  # a gzip file that is damaged or expands without end
        raise WrongContent(str(error)) from error


def _pinned(part: Part) -> str:
    pins = {f"{part.size:,} bytes": part.size, f"SHA-256 {part.sha256}": part.sha256}
    pins[f"git blob {part.git_blob}"] = part.git_blob
    return ", ".join(text for text, pin in pins.items() if pin)


def _what(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer (the data themselves were never downloaded)"
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page (a login or error page in place of the data)"
    return "other content"


# From the network


class _Again(Exception):
    """A try failed in a way that another one may mend; `wait` is what the server asked for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def fetch(part: Part) -> Path:
    """Downloads a part into the cache and gives its path there; resumes what an earlier try left.

    The file has its final name only once its hash is verified. Raises MissingPart, WrongContent.
    """
    url = f"{_mirror()}/{part.set}/{part.name}" if _mirror() else part.url
    target = _downloads() / part.set / part.name
    if not url:
        raise MissingPart(
            f"expected {part.name} of {part.set}; got none, and no server has it: it was derived "
            f"from several sources; put it, plain or gzipped, into {target.parent} or the folder "
            f"{part.set} of TMR_JAX_DATA"
        )
    _check_reachable(part, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    if _trusts_mirror():
        part = _restated(part, _fetch_sums(part))
    with waiting(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process fetched it while this one waited
            verify(part, target, str(target))
            return target
        partial = target.with_name(target.name + ".part")
        resumes = partial.is_file() and partial.stat().st_size > 0
        try:
            _complete(part, url, partial)
        except WrongContent:
            if not resumes:
                raise
            _complete(part, url, partial)  # what lay there was of another file: from the start
        os.replace(partial, target)
    return target


def _complete(part: Part, url: str, partial: Path) -> None:
    """Downloads the rest of a part and verifies the whole; wrong content is not kept."""
    try:
        _download(part, url, partial)
        verify(part, partial, url)
    except WrongContent:
        partial.unlink(missing_ok=True)
        raise


def _download(part: Part, url: str, partial: Path) -> None:
    from tmr_jax.data.workers import progress  # the package's own data need none

    with progress(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(f"{part.set}/{part.name}", total=part.size or None)
        why = ""
        for tried in range(TRIES):
            try:
                return _one_try(part, url, partial, bar, task)
            except _Again as failure:
                why = str(failure)
                if tried < TRIES - 1:
                    bar.console.print(f"{part.name}: {why}; trying again", markup=False)
                    sleep(max(failure.wait, BACKOFF_S * 2**tried))
    kept = partial.stat().st_size if partial.is_file() else 0
    raise MissingPart(
        f"expected {part.name} of {part.set} from {url}; got no whole file in {TRIES} tries, the "
        f"last time: {why}; {kept:,} bytes are kept; resume with: {command(part.set)}"
    )


def _one_try(part: Part, url: str, partial: Path, bar: Progress, task: TaskID) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    with _respond(part, url, have, partial) as response:
        if have and (response.status != 206 or _first_byte(response) != have):
            if response.status == 206:
                partial.unlink()
                raise _Again("the server sent another range than was asked for")
            have = 0  # the server knows no ranges and sends all of it again
        length = response.headers.get("Content-Length") or ""
        total = have + (int(length) if length.isdecimal() else 0)
        bar.update(task, completed=have, total=total if total > have else None)
        with open(partial, "ab" if have else "wb") as file:
            for chunk in _received(response):
                file.write(chunk)
                have += len(chunk)
                bar.update(task, completed=have)
                if have > (part.size or LARGEST):
                    raise WrongContent(
                        f"expected {part.name} of {part.set} with {_pinned(part)}; {url} sent "
                        f"more than {part.size or LARGEST:,} bytes; ask another server"
                    )
    if have < total:
        raise _Again(f"the connection was cut after {have:,} of {total:,} bytes")


def _respond(part: Part, url: str, have: int, partial: Path) -> http.client.HTTPResponse:
    headers = {"User-Agent": "tmr_jax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=READ_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after what is here: longer than the file, so not of it
            partial.unlink(missing_ok=True)
            raise _Again("the server has no such range") from error
        if error.code == 429 or error.code >= 500:
            asked = (error.headers.get("Retry-After") or "").strip()
            wait = min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0
            raise _Again(f"status {error.code}", wait) from error
        raise _refused(part, url, f"status {error.code}: {error.msg.splitlines()[0]}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise _refused(part, url, str(error.reason)) from error
        raise _Again(str(error.reason)) from error
    except (http.client.HTTPException, OSError) as error:
        raise _Again(f"{type(error).__name__}: {error}") from error


def _received(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except http.client.IncompleteRead as error:
        yield error.partial
        raise _Again("the connection was cut") from error
    except (http.client.HTTPException, OSError) as error:
        raise _Again(f"{type(error).__name__}: {error}") from error


def _first_byte(response: http.client.HTTPResponse) -> int:
    """Where the bytes of a partial answer begin; -1 where it does not say."""
    place = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return int(place) if place.isdecimal() else -1


def _check_reachable(part: Part, url: str) -> None:
    """Raises MissingPart soon where the server (or the proxy to it) cannot be connected to.

    A thread of its own, since neither name resolution nor a list of dead addresses has a limit.
    """
    try:
        server = urllib.parse.urlsplit(url)
        proxy = urllib.request.getproxies().get(server.scheme)
        if proxy and not urllib.request.proxy_bypass(server.hostname or ""):
            server = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        port = server.port or (443 if server.scheme == "https" else 80)
    except ValueError as error:  # the address of the proxy
        raise _refused(part, url, str(error)) from error
    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((server.hostname or "", port), CONNECT_S).close()
            outcome.append("")
        except (OSError, UnicodeError) as error:
            outcome.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    failure = outcome[0] if outcome else f"no connection within {CONNECT_S} seconds"
    if failure:
        raise _refused(part, url, failure)


def _refused(part: Part, url: str, why: str) -> MissingPart:
    folder = _downloads() / part.set
    return MissingPart(
        f"expected {part.name} of {part.set}; got no local file, and none from {url} ({why}); with "
        f"network run: {command(part.set)}; without, put the file, plain or gzipped, into {folder} "
        f"or the folder {part.set} of TMR_JAX_DATA"
    )


# Mirrors


def _mirror() -> str:
    base = os.environ.get("TMR_JAX_MIRROR", "").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(base)
        is_address = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # an invalid port, half of an IPv6 address
        is_address = False
    if base and not is_address:
        raise UserError(
            f"expected TMR_JAX_MIRROR to be http://... or https://...; got {base!r}; correct it"
        )
    return base


def _trusts_mirror() -> bool:
    return bool(_mirror()) and os.environ.get("TMR_JAX_MIRROR_SUMS") == "1"


def _downloads() -> Path:
    """Where fetched files lie; those that a mirror vouches for itself lie apart."""
    if not _trusts_mirror():
        return cache_folder() / "data"
    return cache_folder() / f"mirror-{hashlib.sha256(_mirror().encode()).hexdigest()[:16]}"


def _fetch_sums(part: Part) -> Path:
    """The mirror's list of hashes for the set of a part, downloaded again."""
    url = f"{_mirror()}/{part.set}/{SUMS}"
    sums = Part(part.set, SUMS, url)
    target = _downloads() / part.set / SUMS
    partial = target.with_name(f"{SUMS}.{os.getpid()}.part")
    _download(sums._replace(size=1 << 20), url, partial)
    os.replace(partial, target)
    return target


def _restated(part: Part, sums: Path) -> Part:
    """The part with the hash that a mirror's list gives it; unchanged where the list has none."""
    if not sums.is_file():
        return part
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        sha256, _, name = line.partition(" ")
        if name.strip().lstrip("*") == part.name and len(sha256) == 64:
            _warn_of_mirror(part.set, part.name, _mirror())
            return part._replace(sha256=sha256.lower(), git_blob="", size=0)
    return part


@functools.cache  # once per file and process
def _warn_of_mirror(folder: str, name: str, mirror: str) -> None:
    Console(stderr=True).print(
        f"WARNING: {folder}/{name} is checked against the mirror's own {SUMS} ({mirror}), not "
        "against the published file: scores with it compare with no published number",
        style="bold red",
        markup=False,
    )
