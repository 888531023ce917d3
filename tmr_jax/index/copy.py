"""A library from one engine to another, without anything in it being encoded again.

Items go over in the order of their ids, a batch at a time, so what a killed copy leaves is a
beginning, and the next one goes on behind it. At the end both are read from end to end and compared
by a hash over every id, vector and column; only then is the new library marked whole, and none is
searched that is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.files import hold
from tmr_jax.data.progress import progress
from tmr_jax.index.open import create_engine, exists, lock_of, open_engine
from tmr_jax.index.schema import COLUMNS, KEPT, TEXTS, Batch, Engine, contents
from tmr_jax.types import UserError

SIZE = 20_000  # items of a batch: what a kill loses at most
HASH = "content_sha256"  # in the account of a copy
STAGES = ("copying", "making indices", "comparing")

Watch = Callable[[str, int, int], None]  # stage, items done, items in all


class Copied(NamedTuple):
    count: int
    sent: int  # by this copy; the others were there
    sha256: str  # of the content
    of: str  # what it is of: `store.contents`


def copy(origin: str | Path, to: str | Path, watch: Watch = lambda *said: None) -> Copied:
    """The library at `origin`, at `to` as well, whatever of it is not there yet.

    Raises ValueError where `origin` is not whole, where another library is at `to`, and where what
    has arrived differs from what was sent; `Locked` where another copy to `to` is at work.
    """
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_engine(origin)))
        account = whole(source, origin)
        lock = lock_of(to)
        is_new = not exists(to)
        if lock is not None:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(lock))
        if is_new:
            create_engine(to, source.width, source.about).close()
        target = stack.enter_context(closing(open_engine(to)))
        _same(source, target, origin, to)
        total = source.count()
        there = total if target.account is not None else target.count()
        digest, sent = Digest(), 0
        for batch in source.batches(SIZE):
            digest.add(batch)
            if target.account is None and digest.count > there:
                fresh = last(batch, digest.count - max(there, digest.count - len(batch.ids)))
                target.upsert(fresh)
                sent += len(fresh.ids)
            watch(STAGES[0], digest.count, total)
        if target.account is None:
            watch(STAGES[1], 0, total)
            target.optimize()
            watch(STAGES[1], total, total)
        arrived = content(target, lambda done: watch(STAGES[2], done, total))
        if arrived != digest.value():
            raise UserError(
                f"expected {total:,} items with the SHA-256 {digest.value()} in {to}, as in "
                f"{origin}, got others ({target.count():,} with {arrived}); remove {to} and copy "
                "again"
            )
        if target.account is None:
            target.finalize(account | {HASH: arrived})
        return Copied(total, sent, arrived, contents(source.about))


def copy_shown(origin: str | Path, to: str | Path) -> Copied:
    """`copy` with progress and the time that is left, on standard error."""
    with progress() as bar:
        tasks = {stage: bar.add_task(stage, total=None, start=False) for stage in STAGES}
        begun: set[str] = set()

        def watch(stage: str, done: int, total: int) -> None:
            if stage not in begun:
                bar.start_task(tasks[stage])
                begun.add(stage)
            bar.update(tasks[stage], completed=done, total=total)

        return copy(origin, to, watch)


def whole(store: Engine, place: str | Path) -> dict[str, Any]:
    """What became of a library's rows; ValueError where its making has not come to its end."""
    if store.account is None:
        raise UserError(
            f"expected a whole library in {place}, got one whose making has not come to its end; "
            "say the tmr index or tmr index copy that began it again"
        )
    if store.broken:
        raise UserError(
            f"expected a whole library in {place}, got {len(store.broken):,} parts that cannot be "
            f"read ({', '.join(sorted(store.broken))}); say the words that made it again"
        )
    return store.account


class Digest:
    """A hash over items in the order of their ids, whatever the batches they come in."""

    def __init__(self) -> None:
        self.count = 0
        names = ("id", "vector", *KEPT)
        self._of = {name: hashlib.sha256() for name in names}

    def add(self, batch: Batch) -> None:
        self.count += len(batch.ids)
        self._of["id"].update(np.ascontiguousarray(batch.ids, "<i8").tobytes())
        self._of["vector"].update(np.ascontiguousarray(batch.vectors, "<f4").tobytes())
        for name, kind in COLUMNS.items():
            column = np.ascontiguousarray(batch.columns[name], np.dtype(kind).newbyteorder("<"))
            self._of[name].update(column.tobytes())
        for name in TEXTS:
            lines = "".join(f"{json.dumps(text)}\n" for text in batch.columns[name])
            self._of[name].update(lines.encode())

    def value(self) -> str:
        parts = {name: found.hexdigest() for name, found in self._of.items()}
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def content(store: Engine, watch: Callable[[int], None] = lambda done: None) -> str:
    """The hash of everything in a library."""
    digest = Digest()
    for batch in store.batches(SIZE):
        digest.add(batch)
        watch(digest.count)
    return digest.value()


def last(batch: Batch, count: int) -> Batch:
    """The last items of a batch."""
    columns = {name: column[len(column) - count :] for name, column in batch.columns.items()}
    return Batch(batch.ids[len(batch.ids) - count :], batch.vectors[-count:], columns)


def _same(source: Engine, target: Engine, origin: str | Path, to: str | Path) -> None:
    if (source.width, source.about) != (target.width, target.about):
        raise UserError(
            f"expected nothing, or a copy of {origin} that was begun, in {to}, got another library "
            f"(of {_short(target.about)}, not of {_short(source.about)}); choose another place, or "
            "remove it"
        )


def _short(about: dict[str, Any]) -> str:
    text = json.dumps(about)
    return text if len(text) < 300 else text[:300] + "..."
