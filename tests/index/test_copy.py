"""Copies between engines: equal content, resumed after a kill, refused while incomplete."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tmr_jax
from tests.index.items import ABOUT, items, own, rows
from tmr_jax.data.files import hold
from tmr_jax.index import __main__ as index
from tmr_jax.index import copy as index_copy
from tmr_jax.index.build import Source, build
from tmr_jax.index.copy import Digest, content, copy
from tmr_jax.index.exact import ExactEngine
from tmr_jax.index.index import DiskIndex, Summary, create_engine, open_engine, open_index
from tmr_jax.index.schema import Filter

ACCOUNT = {"rows": 52, "kept": 50, "refused": {"unparsable": 2}}
PLACES = {"exact": "exact:{}/to", "lance": "{}/to", "milvus": "milvus:{}/to.db"}


@pytest.fixture
def origin(tmp_path):
    """A complete index of 50 items whose shards are not in the order of the ids."""
    store = ExactEngine.create(tmp_path / "from", 4, {"model": {"checkpoint": "abc"}})
    order = np.random.default_rng(0).permutation(50)
    for part in np.split(order, 5):
        store.upsert(items(part.tolist(), rows(50)[part]))
    store.finalize(ACCOUNT)
    return str(tmp_path / "from")


@pytest.fixture
def by_eight(monkeypatch):
    monkeypatch.setattr(index_copy, "SIZE", 8)


@pytest.mark.parametrize("engine", PLACES)
def test_there_and_back(engine, origin, tmp_path, by_eight):
    place = PLACES[engine].format(tmp_path)
    seen = []
    copied = copy(origin, place, lambda *said: seen.append(said))
    assert (copied.count, copied.sent) == (50, 50)
    assert [done for stage, done, _ in seen if stage == "copying"] == [*range(8, 50, 8), 50]
    store = open_engine(place)
    assert store.about == {"model": {"checkpoint": "abc"}}
    assert store.account == ACCOUNT | {"content_sha256": copied.sha256}
    assert store.get([7])[0]["name"] == 'item 7 "é"'
    assert content(store) == copied.sha256 == content(ExactEngine(Path(origin)))
    store.close()
    again = copy(origin, place)
    assert (again.count, again.sent, again.sha256) == (50, 0, copied.sha256)
    back = copy(place, f"exact:{tmp_path / 'back'}")
    assert back.sha256 == copied.sha256
    assert open_engine(tmp_path / "back").account["rows"] == 52


@pytest.mark.parametrize("engine", PLACES)
def test_columns_of_the_file_are_copied(engine, tmp_path, by_eight):
    store = ExactEngine.create(tmp_path / "from", 4, {"model": {}} | ABOUT)
    store.upsert(items(range(20), rows(20), **own(range(20))))
    store.finalize(ACCOUNT)
    place = PLACES[engine].format(tmp_path)
    copied = copy(tmp_path / "from", place)
    store = open_engine(place)
    assert store.own == {"A b.c": "number", '"': "text", "d": "date"}
    assert store.get([9], ["A b.c", '"', "d"])[0]["d"] == "2024-01-10"
    store.close()
    assert copy(place, f"exact:{tmp_path / 'back'}").sha256 == copied.sha256
    other = own(range(20))
    other["d"][3] = None
    changed = ExactEngine(tmp_path / "back")
    changed.upsert(items(range(20), rows(20), **other))
    assert content(changed) != copied.sha256


class Stop(Exception):
    pass


@pytest.mark.parametrize("engine", PLACES)
def test_a_stopped_copy_is_refused_and_gone_on_with(engine, origin, tmp_path, by_eight):
    place = PLACES[engine].format(tmp_path)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "copying" and done == 24:
            raise Stop

    with pytest.raises(Stop):
        copy(origin, place, stop)
    half = open_engine(place)
    assert half.account is None and half.count() == 24
    half.upsert(items([24, 25], rows(50)[24:26]))  # a batch of which a beginning arrived
    half.close()
    with pytest.raises(ValueError, match=r"complete index .* incomplete"):
        copy(place, tmp_path / "third")
    assert copy(origin, place).sent == 24
    assert open_engine(place).count() == 50


def test_stopped_before_the_mark_only_the_mark_is_missing(origin, tmp_path, by_eight):
    place = tmp_path / "to"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "comparing":
            raise Stop

    with pytest.raises(Stop):
        copy(origin, place, stop)
    assert open_engine(place).account is None
    assert copy(origin, place).sent == 0
    assert open_engine(place).account is not None


def test_what_arrived_wrong_is_not_marked(origin, tmp_path, by_eight):
    place = tmp_path / "to"
    store = create_engine(place, 4, {"model": {"checkpoint": "abc"}})
    store.upsert(items([0, 1], rows(50)[[1, 0]]))
    with pytest.raises(ValueError, match=r"expected 50 items with the SHA-256 .* got others \(50"):
        copy(origin, place)
    assert open_engine(place).account is None


def test_another_library_is_left_alone(origin, tmp_path):
    other = tmp_path / "to"
    create_engine(other, 4, {"model": {"checkpoint": "xyz"}}).close()
    with pytest.raises(ValueError, match=r"got another index .*xyz.*, not of .*abc"):
        copy(origin, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "mine", f"exact:{tmp_path / 'mine'}"):
        with pytest.raises(ValueError, match="new or empty folder"):
            copy(origin, place)
    assert open_engine(other).count() == 0


def test_two_copies_to_one_place(origin, tmp_path, capsys):
    (tmp_path / "to").mkdir()
    with hold(tmp_path / "to" / "lock"):
        assert index.main(["copy", origin, str(tmp_path / "to")]) == 3
    assert "works there" in capsys.readouterr().err
    assert index.main(["copy", origin, str(tmp_path / "to")]) == 0
    assert "50 molecules of" in capsys.readouterr().out


def test_a_copy_is_checked_by_what_it_was_sealed_with(origin, tmp_path, capsys):
    place = str(tmp_path / "to")
    assert index.main(["copy", origin, place]) == 0
    assert index.main(["check", place]) == 0
    assert "50 molecules in" in capsys.readouterr().out
    open_engine(place).upsert(items([3], rows(1, seed=8)))
    assert index.main(["check", place]) == 2
    assert "items: differ from what was written" in capsys.readouterr().out


def test_the_hash_does_not_depend_on_batches_and_sees_everything():
    whole, parts = Digest(), Digest()
    batch = items(range(6), rows(6))
    whole.add(batch)
    for low in (0, 2):
        high = {0: 2, 2: 6}[low]
        parts.add(items(range(low, high), rows(6)[low:high]))
    assert whole.value() == parts.value()
    changed = [items(range(1, 7), rows(6)), items(range(6), rows(6, seed=1))]
    changed += [items(range(6), rows(6), name=list("abcdef"))]
    changed += [items(range(6), rows(6), variant=np.ones(6, bool))]
    for other in changed:
        digest = Digest()
        digest.add(other)
        assert digest.value() != whole.value()


@pytest.mark.parametrize("to", ["to", "exact:{}/to", "milvus:{}/to.db"])
def test_a_search_in_a_copy(to, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.smi").write_text(
        "CCO ethanol\nc1ccccc1 benzene\nbad bad\nCC(=O)O acid\nCCCCCC hexane\n"
    )
    retriever = tmr_jax.load(tiny_run)
    build(Source(Path("my.smi")), Path("lib"), retriever.model)
    place = to.format(tmp_path)
    copy("lib", place)
    here, there = (retriever.with_library(place) for place in ("lib", place))
    assert there.library.refused == {"unparsable": 1} and there.library.rows == 5
    ours, theirs = (r.search("an alcohol", k=4) for r in (here, there))
    assert [hit.id for hit in ours] == [hit.id for hit in theirs]
    np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-6)
    assert [hit.name for hit in theirs] == [hit.name for hit in ours]
    other = retriever.model._replace(checkpoint="0" * 64)
    with pytest.raises(ValueError, match=f"of the model {'0' * 64}"):
        open_index(Path(place), other)


@pytest.mark.parametrize("engine", PLACES)
def test_a_library_of_descriptions_goes_to_every_engine(engine, tiny_run, tmp_path, capsys):
    texts = ["An acid.", "An alcohol: β.", "A salt.", "An  acid.", "a" * 60_000]
    (tmp_path / "my.txt").write_text("\n".join(texts), "utf-8")
    retriever = tmr_jax.load(tiny_run)
    build(Source(tmp_path / "my.txt"), tmp_path / "lib", retriever.model)
    place = PLACES[engine].format(tmp_path)
    assert index.main(["copy", str(tmp_path / "lib"), place]) == 0
    assert "5 descriptions of" in capsys.readouterr().out
    assert index.main(["check", place]) == 0
    assert "5 descriptions in" in capsys.readouterr().out
    here, there = (retriever.with_library(p) for p in (tmp_path / "lib", place))
    assert there.library.of_texts and there.library.kept == 5
    for where in (None, Filter(distinct=True)):
        ours, theirs = (r.search_molecule("CCO", 5, where) for r in (here, there))
        assert [h.content for h in theirs] == [h.content for h in ours]
        assert {h.content for h in theirs} == set(texts[:3] + texts[4:] if where else texts)


def test_a_file_in_the_way_of_a_copy_is_named(origin, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert index.main(["copy", str(origin), str(tmp_path / "file")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "x"


def test_a_search_in_half_a_copy_is_refused(tiny_run, tmp_path, by_eight):
    (tmp_path / "my.smi").write_text("CCO ethanol\n")
    retriever = tmr_jax.load(tiny_run)
    build(Source(tmp_path / "my.smi"), tmp_path / "lib", retriever.model)

    def stop(stage: str, done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        copy(tmp_path / "lib", tmp_path / "to", stop)
    with pytest.raises(ValueError, match="incomplete"):
        retriever.with_library(tmp_path / "to")


def test_an_enormous_k_finds_all_there_is(origin):
    account = Summary(origin, rows=50, kept=50, refused={}, of="molecules")
    assert len(DiskIndex(open_engine(origin), account).find(rows(1), 2**62, None)[0]) == 50


SLOW = """
import sys
from tmr_jax.index import __main__ as index
from tmr_jax.index import copy as index_copy
index_copy.SIZE = 2
sys.exit(index.main(sys.argv[1:]))
"""


@pytest.mark.slow("milvus")
@pytest.mark.parametrize("engine", ["exact", "lance", "milvus"])
def test_killed_at_random_moments(engine, origin, tmp_path, by_eight):
    """A copy survives kills."""
    place = PLACES[engine].format(tmp_path)
    chance, killed = np.random.default_rng(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SLOW, "copy", origin, place])
        limit = time.monotonic() + 120
        while (
            process.poll() is None
            and not (tmp_path / "to.db").exists() | (tmp_path / "to").exists()
        ):
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, "every copy had ended before it was killed"
    copied = copy(origin, place)
    assert copied.sha256 == content(open_engine(origin)) == content(open_engine(place))
