"""tmr cache: it knows every cache that is written, and removes nothing else."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tmr_jax.cli import main as tmr
from tmr_jax.data import cache
from tmr_jax.data.files import ARRAYS, JSON, cache_key, cached, hold
from tmr_jax.index import schema

ROOT = Path(__file__).resolve().parent.parent.parent
DIGEST = "0" * 16
NAMES = {
    "library": f"library-{DIGEST * 2}/shards/0.npy",
    "states": f"states-{DIGEST * 2}.npy",
    "compiled": f"compiled/jit_read-{DIGEST * 4}-cache",
    "bench_rank": "bench_rank/query.npy",
    "data": "data/chebi20/train.txt",
    "mirror": f"mirror-{DIGEST}/chebi20/SHA256SUMS",
    "weights": f"weights/owner--name-{DIGEST}/config.json",
}


def test_every_kind_that_is_written_is_known() -> None:
    written = {"compiled"}  # models/runtime.py gets its folder as an argument
    for path in [*(ROOT / "tmr_jax").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        written |= {*re.findall(r'(?:cache_key|_cached_arrays)\(\s*\(?"(\w+)"', text)}
        written |= {*re.findall(r'cache_folder\(\) / f?"(\w+)', text)}
    assert written == {*cache.KINDS}
    assert cache.KINDS["library"].lock == schema.LOCK
    pins = (ROOT / "tmr_jax" / "data" / "datasets" / "parts.toml").read_text(encoding="utf-8")
    assert {*cache.SETS.split("|")} == {*tomllib.loads(pins)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with eight bytes of each kind; keyed files as the package writes them."""
    place = tmp_path / "cache"
    monkeypatch.setenv("TMR_JAX_CACHE", str(place))
    for name in NAMES.values():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"12345678")
    for kind in {*cache.KINDS} - {*NAMES}:
        form, value = (JSON, "123456") if kind in ("keys", "ridge") else (ARRAYS, {})
        cached(cache_key(kind, []), lambda value=value: value, lambda value: True, form)
    return place


def left(folder: Path) -> set[str]:
    return {name for name in cache.KINDS if cache.entries(folder, name)}


def test_it_lists_what_where_size_and_age(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(folder / NAMES["states"], (0, 0))
    assert tmr(["cache"]) == 0
    first, _, *rows, total = capsys.readouterr().out.splitlines()
    assert first.startswith(str(folder))
    assert [row.split()[0] for row in rows] == [*cache.KINDS]
    assert re.match(r"library +1 +8 bytes  now +library-\* +indexes of", rows[1])
    assert re.match(r"states +1 +8 bytes  \d{5,} days ago +states-\* ", rows[4])
    assert int(total.split()[1]) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_it_clears_what_can_be_made_again(folder: Path, capsys) -> None:
    partial = folder / f".facts-{DIGEST * 2}.npz.123.tmp"  # a killed process left it
    partial.write_text("half")
    assert tmr(["cache", "--clear"]) == 0
    assert left(folder) == {"data", "mirror", "weights"} and not partial.exists()
    out = capsys.readouterr().out
    assert "library: 1 removed, 8 bytes" in out and "facts: 2 removed" in out
    assert "data: 8 bytes kept; to clear: tmr cache --clear data" in out
    assert tmr(["cache", "--clear", "data", "weights"]) == 0
    assert left(folder) == {"mirror"}


def test_it_clears_only_the_kinds_that_are_named(folder: Path, capsys) -> None:
    assert tmr(["cache", "--clear", "library", "texts"]) == 0
    assert {*cache.KINDS} - left(folder) == {"library", "texts"}
    assert tmr(["cache", "--clear", "txts"]) == 2
    assert "expected a kind of cache, got 'txts'; did you mean texts?" in capsys.readouterr().err
    assert "texts" not in left(folder)


def outside(folder: Path) -> None:
    """A link in the place of every name that is ours, or of its folder."""
    elsewhere = folder.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.mkdir()
    for path in elsewhere.iterdir():
        (folder / path.name).symlink_to(path)


def inside(folder: Path) -> None:
    """A link inside of a folder that is removed."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (folder / NAMES["library"]).with_name("link").symlink_to(elsewhere)


@pytest.mark.parametrize("link", [outside, inside])
def test_no_link_is_followed(folder: Path, link: Callable[[Path], None]) -> None:
    link(folder)
    elsewhere = folder.parent / "elsewhere"
    before = sorted(elsewhere.rglob("*"))
    assert before and tmr(["cache", "--clear", *cache.KINDS]) == 0
    assert sorted(elsewhere.rglob("*")) == before
    assert link is outside or not left(folder)


def test_what_has_another_name_is_left(folder: Path) -> None:
    names = ("thesis.txt", "data/mine/a.csv", "compiled/program.o", "library-1/a", "weights/a/b")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    assert tmr(["cache", "--clear", *cache.KINDS]) == 0
    assert {p for p in folder.rglob("*") if p.is_file()} == {folder / name for name in names}


def test_an_index_that_another_process_builds_is_left(folder: Path, capsys) -> None:
    lock = folder / Path(NAMES["library"]).parts[0] / "lock"
    with hold(lock):
        assert tmr(["cache", "--clear", "library", "texts"]) == 3
    out, err = capsys.readouterr()
    assert left(folder) == {*cache.KINDS} - {"texts"}
    assert "expected to be alone in" in err and "library: 0 removed" in out
    assert tmr(["cache", "--clear", "library"]) == 0
    assert not lock.exists()


def test_no_folder_is_an_empty_cache(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "none"))
    assert tmr(["cache"]) == tmr(["cache", "--clear"]) == 0
    assert "0 bytes" in capsys.readouterr().out and not (tmp_path / "none").exists()
