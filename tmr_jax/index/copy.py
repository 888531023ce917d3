"""Copies an index from one engine to another; nothing is encoded again.

Items are copied in the order of their ids, a batch at a time, so an interrupted copy leaves a
beginning and the next run continues behind it. At the end both indexes are read completely and
compared by a hash over every id, vector and column; only then is the copy marked complete.
Incomplete indexes cannot be searched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.files import hold
from tmr_jax.data.workers import progress
from tmr_jax.index.index import account_of, create_engine, exists, lock_of, open_engine
from tmr_jax.index.schema import (
    COLUMNS,
    KEPT,
    TEXTS,
    Batch,
    Engine,
    check_free,
    contents,
    shortened,
)
from tmr_jax.types import UserError

SIZE = 20_000  # items of a batch: what an interrupted copy loses at most
HASH = "content_sha256"  # in the account of a copy
STAGES = ("copying", "indexing", "comparing")

OnProgress = Callable[[str, int, int], None]  # stage, items done, items in all


class Copied(NamedTuple):
    count: int
    sent: int  # by this run; the others were copied before
    sha256: str  # of the content
    of: str  # what it holds: `schema.contents`


def copy(
    origin: str | Path, to: str | Path, on_progress: OnProgress = lambda *stage: None
) -> Copied:
    """Copies the index at `origin` to `to`, or what is still missing there.

    Raises UserError where `origin` is incomplete, where `to` holds another index, and where the
    copy differs from the original; `Locked` while another copy to `to` runs.
    """
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_engine(origin)))
        account = _complete_account(source, origin)
        lock, is_new = lock_of(to), not exists(to)
        if lock is not None:
            if lock.parent.is_file():
                check_free(lock.parent, set())  # raises
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(lock))
        if is_new:
            create_engine(to, source.width, source.about).close()
        target = stack.enter_context(closing(open_engine(to)))
        if (source.width, source.about) != (target.width, target.about):
            raise UserError(
                f"expected nothing, or an interrupted copy of {origin}, in {to}, got another index "
                f"(of {shortened(target.about)}, not of {shortened(source.about)}); choose another "
                "place, or remove it"
            )
        return _copied(source, target, account, (origin, to), on_progress)


def _copied(
    source: Engine,
    target: Engine,
    account: dict[str, Any],
    places: tuple[str | Path, str | Path],
    on_progress: OnProgress,
) -> Copied:
    """Sends the missing items, then compares all."""
    total, copying = source.count(), target.account is None
    existing = target.count() if copying else total
    digest, sent = Digest(source.own), 0
    for ids, vectors, columns in source.batches(SIZE):
        first = max(existing - digest.count, 0)  # item of the batch that is missing
        digest.add(Batch(ids, vectors, columns))
        if copying and first < len(ids):
            missing = {name: column[first:] for name, column in columns.items()}
            target.upsert(Batch(ids[first:], vectors[first:], missing))
            sent += len(ids) - first
        on_progress(STAGES[0], digest.count, total)
    if copying:
        on_progress(STAGES[1], 0, total)
        target.optimize()
        on_progress(STAGES[1], total, total)
    arrived = content(target, lambda done: on_progress(STAGES[2], done, total))
    if arrived != digest.value():
        origin, to = places
        raise UserError(
            f"expected {total:,} items with the SHA-256 {digest.value()} in {to}, as in {origin}, "
            f"got others ({target.count():,} with {arrived}); remove {to} and copy again"
        )
    if copying:
        target.finalize(account | {HASH: arrived})
    return Copied(total, sent, arrived, contents(source.about))


def copy_shown(origin: str | Path, to: str | Path) -> Copied:
    """`copy` with a progress bar for each stage on standard error."""
    with progress() as bar:
        tasks = {stage: bar.add_task(stage, total=None, start=False) for stage in STAGES}

        def on_progress(stage: str, done: int, total: int) -> None:
            if not bar.tasks[tasks[stage]].started:
                bar.start_task(tasks[stage])
            bar.update(tasks[stage], completed=done, total=total)

        return copy(origin, to, on_progress)


def _complete_account(engine: Engine, place: str | Path) -> dict[str, Any]:
    """The account of an index; UserError where it is incomplete or damaged."""
    account = account_of(engine, place)
    if engine.broken:
        raise UserError(
            f"expected a complete index in {place}, got {len(engine.broken):,} parts that cannot "
            f"be read ({', '.join(sorted(engine.broken))}); run the command that built it again"
        )
    return account


class Digest:
    """A hash over items in the order of their ids, whatever their batches."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        """`own` are the user's own columns."""
        self.count = 0
        self._lists = (*TEXTS, *own)
        names = ("id", "vector", *KEPT, *own)
        self._of = {name: hashlib.sha256() for name in names}

    def add(self, batch: Batch) -> None:
        self.count += len(batch.ids)
        self._of["id"].update(np.ascontiguousarray(batch.ids, "<i8").tobytes())
        self._of["vector"].update(np.ascontiguousarray(batch.vectors, "<f4").tobytes())
        for name, kind in COLUMNS.items():
            column = np.ascontiguousarray(batch.columns[name], np.dtype(kind).newbyteorder("<"))
            self._of[name].update(column.tobytes())
        for name in self._lists:
            lines = "".join(f"{json.dumps(text)}\n" for text in batch.columns[name])
            self._of[name].update(lines.encode())

    def value(self) -> str:
        parts = {name: hashed.hexdigest() for name, hashed in self._of.items()}
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def content(engine: Engine, on_progress: Callable[[int], None] = lambda done: None) -> str:
    """The hash of everything in an index."""
    digest = Digest(engine.own)
    for batch in engine.batches(SIZE):
        digest.add(batch)
        on_progress(digest.count)
    return digest.value()
