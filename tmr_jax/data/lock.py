"""One trainer per directory: a lock file with the holder's process number and machine.

The operating system holds the lock and lets it go when the process ends, however it ends, so what
a killed process leaves behind is only a name in a file. No JAX here: the second trainer must know
within two seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tmr_jax.types import CommandFailed


class Locked(CommandFailed):
    """Another process works in the directory."""

    exit_status = 3


@contextlib.contextmanager
def hold(path: Path) -> Iterator[str]:
    """Holds the lock file while the block runs; yields whom a stale lock belonged to, or "".

    Raises Locked where another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"expected to be alone in {path.parent}, but {_holder(descriptor)} works there; "
                "wait for it, stop it, or choose another directory"
            ) from None
        stale = _holder(descriptor)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        _write(descriptor, json.dumps(me) + "\n")
        try:
            yield stale
        finally:
            _write(descriptor, "")
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Whoever wrote the file: "process 12 on host x since ...", or "" where it is empty."""
    content = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip()
    if not content:
        return ""
    try:
        found = json.loads(content)
        return f"process {found['pid']} on {found['host']} (since {found['since']})"
    except (ValueError, KeyError, TypeError):
        return "a process that left no name"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
