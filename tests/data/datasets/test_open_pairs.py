"""open: rows that no test set knows, in versions that stay what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tmr_jax.data import DataConfig, load_pairs, load_pairs_with_report
from tmr_jax.data.datasets import chebi, open_build, open_pairs, table
from tmr_jax.data.datasets.open_pairs import REPEATED
from tmr_jax.data.download import MissingPart, Part
from tmr_jax.data.overlap import digest
from tmr_jax.data.readers import read_table
from tmr_jax.types import Pair

PAIRS = """source\tSMILES\teval_skeletons\tdescription
a\tOCC\t\tan alcohol
a\tCC\tmt\tan alkane
a\tCCC\tct\tan alkane
b\tCCCC\tmt,pv\ta butane
"""
CAPTIONS = """CID\tSMILES\teval_skeletons\ttext_version\tdescription
7\tCCO\t\tmolt5\tan alcohol
8\tOC\t\tmolt5\tan alcohol
9\tCN\tct pv\tmolt5\tan amine
10\tCS\t\ttext2mol\tmethanethiol is a thiol
"""


def put(folder: Path, part: Part, content: str) -> Part:
    """A file with this content in place of the part, pinned like it."""
    path = folder / part.set / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, newline="")
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return part._replace(sha256=sha256, git_blob="", size=0)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TMR_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path / "cache"))
    pairs = put(tmp_path, open_build.PAIRS, PAIRS)
    for module in (open_build, open_pairs):
        monkeypatch.setattr(module, "PAIRS", pairs)
    recovered = put(tmp_path, open_build.RECOVERED, CAPTIONS)
    monkeypatch.setattr(open_build, "RECOVERED", recovered)
    more = [Pair("CHEBI:1", "an alkane", "CC", "train"), Pair("CHEBI:2", "alkane", "CC", "train")]
    monkeypatch.setattr(chebi, "train_pairs", lambda kinds: more)
    return tmp_path


def test_version_1_is_the_table_without_flagged_rows(toy) -> None:
    pairs, report = open_pairs.load("1")
    assert pairs == [
        Pair("1", "an alcohol", "OCC", "train"),
        Pair("2", "an alkane", "CC", "train"),
    ]
    assert (report.rows, report.kept, report.dropped) == (4, 2, 2)
    assert [p.id for p in open_pairs.load("unseen")[0]] == ["4"]


def test_version_2_adds_chebi_and_captions_of_one_wording_each_pair_once(toy) -> None:
    pairs, report = open_pairs.load("2")
    assert pairs[:2] == open_pairs.load("1")[0]
    # CC is an alkane already, and CCO, however it is written, an alcohol
    assert pairs[2:] == [
        Pair("CHEBI:2", "alkane", "CC", "train"),
        Pair("chebi20-8", "an alcohol", "CO", "train"),
    ]
    assert report.refused == {open_pairs.REPEATED: 2}
    assert report.rows == report.kept + report.dropped + 2 == 8
    assert load_pairs(DataConfig(name="open")) == pairs  # the default


def test_a_text_of_an_evaluation_is_left_out_but_of_version_1(toy, monkeypatch) -> None:
    (toy / open_pairs.DROPPED).write_text(f"{digest('An alcohol.')}\n")
    monkeypatch.setattr(chebi, "FOLDER", toy)
    pairs, report = open_pairs.load("2")
    assert [p.text for p in pairs] == ["an alkane", "alkane"]
    assert (report.rows, report.kept, report.dropped, report.refused) == (8, 2, 4, {REPEATED: 2})
    assert [p.text for p in open_pairs.load("1")[0]] == ["an alcohol", "an alkane"]


def test_licensed_takes_stated_licences_and_no_flag_of_pubchem324k(toy, monkeypatch) -> None:
    monkeypatch.setattr(open_pairs, "LICENSED", ("a", open_pairs.CHEBI))
    pairs, report = open_pairs.load("licensed")
    assert [p.id for p in pairs] == ["1", "CHEBI:1", "CHEBI:2"]  # CC of the table is flagged mt
    assert report.rows == report.kept + report.dropped + sum(report.refused.values()) == 8
    assert report.sources == [
        {"source": "a", "licence": "not recorded", "rows": 1},
        {"source": "chebi", "licence": "CC BY 4.0 (ChEBI)", "rows": 2},
    ]


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out of 1, 2, public, licensed, unseen; got 'molt5'"):
        load_pairs(DataConfig(name="open", version="molt5"))


def test_without_the_table_it_says_where_to_put_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    with pytest.raises(MissingPart, match=r"pairs\.tsv of open_pairs.*TMR_JAX_DATA.*public"):
        load_pairs_with_report(DataConfig(name="open"))


def digest_of(pairs: list[Pair]) -> str:
    return hashlib.sha256("\n".join("\t".join(p) for p in pairs).encode()).hexdigest()


@pytest.fixture(scope="module")
def first() -> tuple[list[Pair], table.Report]:
    return open_pairs.load("1")


@pytest.mark.costly
@pytest.mark.real_data
def test_no_training_row_carries_a_flag_of_a_test_set(first) -> None:
    pairs, report = first
    assert len(pairs) == 16_872
    # as the data set without versions had them
    assert digest_of(pairs).startswith("eb0363a5682ee631")
    assert {p.split for p in pairs} == {"train"}
    assert (report.rows, report.dropped, report.refused) == (31_920, 15_048, {})
    path = open_pairs.locate(open_pairs.PAIRS)
    marks = {str(c.row): c.values[0] for c in read_table(path, ["eval_skeletons"])}
    assert not any(flag in marks[p.id] for p in pairs for flag in open_pairs.EVALUATED)


@pytest.mark.costly
@pytest.mark.real_data
def test_unseen_rows_are_those_that_only_the_validation_of_pcdes_keeps_out(first) -> None:
    pairs, report = load_pairs_with_report(DataConfig(name="open", version="unseen"))
    assert len(pairs) == 1_410 and report.kept + report.dropped == 31_920
    assert digest_of(pairs).startswith("3737744650cb9b48")
    assert not {p.id for p in first[0]} & {p.id for p in pairs}
    path = open_pairs.locate(open_pairs.PAIRS)
    marks = {str(c.row): c.values[0] for c in read_table(path, ["eval_skeletons"])}
    assert all("pv" in marks[p.id] for p in pairs)
    assert not any(flag in marks[p.id] for p in pairs for flag in ("cv", "ct", "pt"))


@pytest.mark.slow
@pytest.mark.real_data
def test_the_second_version_is_the_first_and_more(first) -> None:
    pairs, report = load_pairs_with_report(DataConfig(name="open", version="2"))
    table = [p for p in pairs if p.id.isdigit()]
    left_out = [p for p in first[0] if p not in set(table)]
    assert [p for p in first[0] if p not in set(left_out)] == table == pairs[:16_841]
    assert len(left_out) == 31  # texts of an evaluation, most of one schedule of the DEA
    assert sum(p.id.startswith("CHEBI:") for p in pairs) == 3_874
    assert sum(p.id.startswith("chebi20-") for p in pairs) == 972
    assert report.kept == len(pairs) == len({p.id for p in pairs}) == 21_687
    assert report.refused == {open_pairs.REPEATED: 72}
    assert report.splits == {"train": 21_687}
