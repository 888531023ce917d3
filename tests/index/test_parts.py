"""An index that several machines build in parts: joined, its bytes are those of one build."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tmr_jax
from tests.index.test_main import CSV, LINES, TEXTS, content
from tmr_jax.data.files import hold
from tmr_jax.index import __main__ as index
from tmr_jax.index import build as index_build
from tmr_jax.index import exact
from tmr_jax.index.build import Part, Source, build
from tmr_jax.index.copy import copy
from tmr_jax.index.exact import ExactEngine, shard_places
from tmr_jax.index.index import open_index
from tmr_jax.index.parts import join

FILES = {
    "my.smi": "\n".join([*LINES, "CCO again", "[Na+].CC([O-])=O the salt again", "bad", "C"]),
    "my.csv": CSV + "OCC,f,,6\nCCN,g,z,\n[NH3+]CC,h,2024-01-01,1\nCCO,i,,\n",
    "my.txt": "\n".join([*TEXTS, "An alcohol.", "A  salt."]),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of 4 rows, chunks of 2."""
    monkeypatch.setattr(index_build, "SHARD", 4)
    monkeypatch.setattr(index_build, "CHUNK", 2)


@pytest.fixture(scope="module")
def model(tiny_run):
    return tmr_jax.load(tiny_run).model


def source_of(folder: Path, name: str = "my.smi") -> Source:
    path = folder / name
    path.write_text(FILES[name] + "\n")
    return Source(path, name_column="id" if name == "my.csv" else "")


def build_parts(source: Source, out: Path, model, of: int) -> list[index_build.BuildReport]:
    """Builds all parts, the last first."""
    return [build(source, out, model, part=Part(i, of)) for i in range(of, 0, -1)]


def stop_at(wanted: int):
    def stop(done: int, total: int | None) -> None:
        if done == wanted:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("of", [2, 5])  # with 5, some parts have no shard
@pytest.mark.parametrize("name", FILES)
def test_joined_parts_are_the_bytes_of_one_build(name, of, model, tmp_path):
    source, out, whole = source_of(tmp_path, name), tmp_path / "lib", tmp_path / "whole"
    once = build(source, whole, model)
    parts = build_parts(source, out, model, of)
    assert sum(part.rows for part in parts) == once.rows
    assert sum(part.kept for part in parts) == once.kept
    assert sum(sum(part.refused.values()) for part in parts) == sum(once.refused.values())
    assert sum(part.duplicates for part in parts) < once.duplicates  # some are across parts
    seen = []
    assert join(out, lambda *done: seen.append(done)) == once
    assert seen[-1] == (once.shards, once.shards)
    assert content(out) == content(whole) and not (out / exact.PARTS).exists()
    assert join(out) == once._replace(made=0)  # a job that is started again
    assert content(out) == content(whole)


def test_parts_are_built_at_the_same_time(model, tmp_path):
    source, out, seen = source_of(tmp_path), tmp_path / "lib", []

    def meanwhile(done: int, total: int | None) -> None:
        seen.append((done, total))
        build(source, out, model, part=Part(2, 2))

    build(source, out, model, meanwhile, part=Part(1, 2))
    assert seen == [(4, 8), (8, 8)]  # rows 0 to 3 and 8 to 11 of 15
    assert join(out) == build(source, tmp_path / "whole", model)
    assert content(out) == content(tmp_path / "whole")


def test_a_killed_part_is_resumed(model, tmp_path):
    source, out = source_of(tmp_path), tmp_path / "lib"
    build(source, out, model, part=Part(2, 2))
    with pytest.raises(KeyboardInterrupt):
        build(source, out, model, stop_at(4), part=Part(1, 2))
    with pytest.raises(ValueError, match=r"got 1 \(part 1 is incomplete\).* with --part 1/2$"):
        join(out)
    report = build(source, out, model, part=Part(1, 2))
    assert (report.made, report.shards) == (1, 2)
    build(source, tmp_path / "whole", model)
    join(out)
    assert content(out) == content(tmp_path / "whole")


def test_a_killed_join_is_resumed_and_loses_no_part(model, tmp_path):
    source, out = source_of(tmp_path), tmp_path / "lib"
    build_parts(source, out, model, 2)
    with pytest.raises(KeyboardInterrupt):
        join(out, lambda done, total: stop_at(2)(done, total))
    assert len(shard_places(out)) == 2 and len([*(out / exact.PARTS).iterdir()]) == 2
    with pytest.raises(ValueError, match="incomplete one; run the tmr index, tmr index join or"):
        open_index(out, model)
    assert build(source, out, model, part=Part(1, 2)).made == 0
    assert join(out).made == 2
    build(source, tmp_path / "whole", model)
    assert content(out) == content(tmp_path / "whole")


def test_missing_and_damaged_parts_are_named(model, tmp_path):
    source, out = source_of(tmp_path), tmp_path / "lib"
    with pytest.raises(ValueError, match=r"expected parts .*, got none; .* --part 1/N"):
        join(out)
    build(source, out, model, part=Part(1, 3))
    build(source, out, model, part=Part(2, 3))
    rows = shard_places(Part(2, 3).folder(out))[0] / exact.ROWS
    rows.write_bytes(b"\0" + rows.read_bytes()[1:])
    said = (
        r"expected 3 complete parts in .*, got 1 \(part 2 shard 000001 rows.f32 differs from what "
        r"was written; part 3 is missing\); .* with --part 2/3, --part 3/3"
    )
    with pytest.raises(ValueError, match=said):
        join(out)
    assert not (out / exact.HEAD).exists()
    assert build(source, out, model, part=Part(2, 3)).made == 1
    shutil.rmtree(shard_places(Part(1, 3).folder(out))[1])
    build(source, out, model, part=Part(3, 3))
    with pytest.raises(ValueError, match=r"\(part 1 shard 000003 is missing\)"):
        join(out)


def test_parts_of_another_index_are_refused(model, tmp_path):
    source, out, other = source_of(tmp_path), tmp_path / "lib", tmp_path / "other"
    build(source, out, model, part=Part(1, 2))
    before = content(out)
    with pytest.raises(ValueError, match=r"another in 1-of-2 \(part: .I/2. there, .I/3. now\)"):
        build(source, out, model, part=Part(2, 3))
    with pytest.raises(ValueError, match=rf"{model.checkpoint}.* there, .*{'0' * 64}.* now"):
        build(source, out, model._replace(checkpoint="0" * 64), part=Part(2, 2))
    assert build(source, out, model._replace(run="elsewhere"), part=Part(1, 2)).made == 0
    source.path.write_text("CCO\n")
    with pytest.raises(ValueError, match=r"another in 1-of-2 \(source: .*same file"):
        build(source, out, model, part=Part(2, 2))
    assert content(out) == before
    build(source, other, model, part=Part(2, 2))  # on a machine whose folder is not shared
    shutil.copytree(Part(2, 2).folder(other), Part(2, 2).folder(out))
    with pytest.raises(ValueError, match=r"expected parts of one index .*source: "):
        join(out)
    assert not (out / exact.HEAD).exists()


def test_parts_are_neither_searched_nor_built_over(model, tmp_path):
    source, out = source_of(tmp_path), tmp_path / "lib"
    build_parts(source, out, model, 2)
    with pytest.raises(ValueError, match=rf"got parts of one; join them: tmr index join {out}$"):
        open_index(out, model)
    part = Part(2, 2).folder(out)
    with pytest.raises(ValueError, match="got part 2 of 2; join all of them: tmr index join OUT"):
        open_index(part, model)
    with pytest.raises(ValueError, match="got part 2 of 2"):
        copy(part, tmp_path / "copy")
    with pytest.raises(ValueError, match="new or empty folder"):
        build(source, out, model)
    join(out)
    before = content(out)
    with pytest.raises(ValueError, match="new or empty folder"):
        build(source, out, model, part=Part(1, 2))
    assert content(out) == before and open_index(out, model).count(None) == 12


def test_a_strange_file_among_the_parts_is_not_removed(model, tmp_path):
    source, out = source_of(tmp_path), tmp_path / "lib"
    build_parts(source, out, model, 1)
    (out / exact.PARTS / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"expected nothing but parts in .*, got thesis.tex; move"):
        join(out)
    assert (out / exact.PARTS / "thesis.tex").read_text() == "mine"
    (out / exact.PARTS / "thesis.tex").unlink()
    assert join(out).kept == 12


def test_no_valid_row_in_some_part_or_in_any(model, tmp_path):
    source = source_of(tmp_path)
    source.path.write_text("bad\n" * 4 + "CCO\n")
    assert [part.kept for part in build_parts(source, tmp_path / "lib", model, 2)] == [1, 0]
    assert join(tmp_path / "lib").refused == {"unparsable": 4}
    source.path.write_text("bad\n" * 5)
    build_parts(source, tmp_path / "none", model, 2)
    with pytest.raises(ValueError, match="at least one molecule, got none of 5 rows"):
        join(tmp_path / "none")


def test_by_the_program(tiny_run, tmp_path, capsys):
    path, out = source_of(tmp_path, "my.csv").path, tmp_path / "lib"
    words = ["--run", str(tiny_run), "--library", str(path), "--out", str(out)]
    assert index.main([*words, "--part", "2/2"]) == 0
    assert f"part 2 of 2; after the last: tmr index join {out}" in capsys.readouterr().out
    assert index.main(["check", str(Part(2, 2).folder(out))]) == 0
    assert index.main(["join", str(out)]) == 2
    assert "part 1 is missing" in capsys.readouterr().err
    assert index.main([*words, "--part", "1/2"]) == 0
    with hold(out / "lock"):
        assert index.main(["join", str(out)]) == 3
    capsys.readouterr()
    assert index.main(["join", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"8 molecules of 9 rows in {out}; " in said and "columns of the file: " in said
    assert index.main(["check", str(out)]) == 0
    assert ExactEngine(out).get([5], ["pIC50"]) is not None


@pytest.mark.parametrize(
    "part", ["", "/4", "0/4", "5/4", "x", "1", "1/", "-1/4", "1/4/2", "1/0", "²/4"]
)
def test_a_wrong_part_is_refused(part, tmp_path, capsys):
    words = ["--library", str(tmp_path / "no.smi"), "--out", str(tmp_path / "lib")]
    assert index.main([*words, f"--part={part}"]) == 2
    assert f"expected --part I/N with I from 1 to N, got {part!r}" in capsys.readouterr().err


def test_a_part_is_no_update(tmp_path, capsys):
    words = ["--library", str(tmp_path / "no.smi"), "--out", str(tmp_path / "lib")]
    assert index.main([*words, "--part", "1/2", "--update"]) == 2
    assert "expected --part or --update, got both" in capsys.readouterr().err
