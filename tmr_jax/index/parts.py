"""The parts of an index that several machines built, joined into one.

    OUT/parts/2-of-3/   the second of three parts: an index of every third shard

A shard depends on its rows alone, but for the flags of repeats, which depend on all rows before.
Joining reads the shards in their order, sets these flags, and writes what one build would have
written, byte for byte. An interrupted join continues at the first missing shard.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tmr_jax.data.files import hold
from tmr_jax.data.workers import progress
from tmr_jax.index import exact, schema
from tmr_jax.index.build import (
    REPEATS,
    BuildReport,
    Seen,
    check_out,
    check_parts,
    finish,
    read_parts,
    room,
    sweep,
)
from tmr_jax.types import UserError

DONE = ".parts.done"  # the parts of a complete index, while they are removed


def join(out: Path, on_progress: Callable[[int, int], None] = lambda *done: None) -> BuildReport:
    """Writes the index whose parts are in `out`, or what is still missing of it; removes the parts.

    `on_progress(shards, total)` is called after every shard. An index that is complete is left as
    it is.

    Raises UserError where parts are missing, incomplete, damaged (all are named) or of different
    indexes, where no row is valid, and where the disk is full; `Locked` while another join runs.
    """
    if not (out / exact.PARTS).is_dir() and (out / exact.MANIFEST).exists():
        engine = exact.ExactEngine(out)
        shutil.rmtree(out / DONE, ignore_errors=True)
        if engine.account is not None and "part" not in engine.about:
            return BuildReport(**engine.account, made=0)
    found = read_parts(out)
    if not found:
        raise UserError(
            f"expected parts of an index in {out / exact.PARTS}, got none; build them: tmr index "
            f"--library FILE --out {out} --part 1/N, and so on"
        )
    with room(out, "make room, then join again"), hold(out / schema.LOCK):
        about = found[0][1]
        check_parts(out, about)
        _check_complete(out, found)
        report = _joined(out, [place for place, _ in found], about, on_progress)
        os.rename(out / exact.PARTS, out / DONE)
        # The index is complete all the same where this fails; the next join removes the rest.
        shutil.rmtree(out / DONE, ignore_errors=True)
        return report


def join_shown(out: Path) -> BuildReport:
    """`join` with a progress bar on standard error."""
    with progress() as bar:
        task = bar.add_task("joining the parts", total=None)
        return join(out, lambda done, total: bar.update(task, completed=done, total=total))


def _check_complete(out: Path, found: list[tuple[Path, dict[str, Any]]]) -> None:
    """UserError that names every part that is missing, incomplete or damaged; reads every byte."""
    of = found[0][1]["part"][1]
    wrong = dict.fromkeys(range(1, of + 1), "is missing")
    for place, about in found:
        engine = exact.ExactEngine(place)
        damaged = [f"shard {name} {problem}" for name, problem in engine.verify().items()]
        incomplete = ["is incomplete"] if engine.account is None else []
        wrong[about["part"][0]] = ", ".join(incomplete or damaged)
    wrong = {number: problem for number, problem in wrong.items() if problem}
    if wrong:
        listed = "; ".join(f"part {number} {problem}" for number, problem in wrong.items())
        again = ", ".join(f"--part {number}/{of}" for number in wrong)
        raise UserError(
            f"expected {of:,} complete parts in {out}, got {of - len(wrong):,} ({listed}); wait "
            f"for those that are being built, or run the tmr index command with {again}"
        )
    strange = {p.name for p in (out / exact.PARTS).iterdir()} - {place.name for place, _ in found}
    if strange:
        raise UserError(
            f"expected nothing but parts in {out / exact.PARTS}, which is removed at the end, got "
            f"{', '.join(sorted(strange))}; move it elsewhere"
        )


def _joined(
    out: Path, parts: list[Path], about: dict[str, Any], on_progress: Callable[[int, int], None]
) -> BuildReport:
    """Writes the missing shards of the whole, then completes it."""
    width = exact.read_head(parts[0])[0]
    about = {key: value for key, value in about.items() if key != "part"}
    if (out / exact.HEAD).exists():
        check_out(out, about)
    else:
        exact.ExactEngine.create(out, width, about)
    sweep(out)
    own = exact.ExactEngine(parts[0]).own
    existing = {place.name for place in exact.shard_places(out)}
    places = {place.name: place for part in parts for place in exact.shard_places(part)}
    seen = {flag: Seen() for flag in REPEATS}
    rows = made = 0
    for done, (name, place) in enumerate(sorted(places.items(), key=lambda s: int(s[0])), 1):
        shard, seal = exact.map_shard(place, width), exact.read_seal(place)
        flags = {flag: seen[flag].add(shard.columns[column]) for flag, column in REPEATS.items()}
        rows += seal["rows"]
        if name not in existing:
            columns = exact.columns_of(shard.table, dict(zip(own, own, strict=True))) | flags
            batch = schema.Batch(shard.ids, shard.rows, columns)
            more = {key: seal[key] for key in seal if key not in ("count", "files")}
            exact.write_shard(out, int(name), batch, width, more, own)
            made += 1
        on_progress(done, len(places))
    return finish(out, rows, made, 0)
