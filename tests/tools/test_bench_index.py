"""The killing of a build, on one that is played: what counts as a kill, and what is lost by it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

TOOL = vars(importlib.import_module("tools.bench.index"))
SHARDS = 6
# Writes a shard after another; with "again" it removes so many of those that are there first.
PLAYED = """
import os, shutil, sys, time
from pathlib import Path
out, seconds, again = Path(sys.argv[1]) / "shards", float(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
for part in out.glob(".*"):
    shutil.rmtree(part)
for place in sorted(out.iterdir())[-again:] if again else ():
    shutil.rmtree(place)
for i in range(6):
    if (out / f"{i:06}").exists():
        continue
    part = out / f".{i:06}.tmp"
    part.mkdir()
    (part / "rows.f32").write_bytes(bytes(i))
    time.sleep(seconds)
    os.replace(part, out / f"{i:06}")
(out.parent / "manifest.json").write_text("{}")
"""


@pytest.fixture
def build(monkeypatch, tmp_path):
    """`kill` of a played build: seconds of a shard, and shards that each start makes again."""

    def killed(seconds, again, each):
        def start(run, source, out):
            words = [sys.executable, "-c", PLAYED, str(out), str(seconds), str(again)]
            return subprocess.Popen(words)

        monkeypatch.setitem(TOOL["kill"].__globals__, "start", start)
        told = TOOL["Arguments"](tmp_path / "x.smi", tmp_path / "run", kills=3)
        return TOOL["kill"](told, tmp_path / "x.smi", tmp_path / "out", SHARDS, each)

    return killed


def test_a_build_that_goes_on_where_it_was_loses_no_more_than_what_was_under_way(build, tmp_path):
    kills, lost = build(0.2, 0, each=0.2)
    assert kills and lost <= 1
    assert len(list((tmp_path / "out" / "shards").iterdir())) == SHARDS


def test_a_build_that_makes_shards_again_is_told(build):
    kills, lost = build(0.2, 2, each=0.2)
    assert kills and lost >= 2


def test_a_process_that_had_ended_was_not_killed(build):
    assert build(0.0, 0, each=4.0) == (0, 0)
