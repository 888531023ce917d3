"""open_pairs: 16,872 rows that no test set knows, so that one run may be tested on all of them."""

from __future__ import annotations

import pytest

from tmr_jax.data import DataConfig, load_pairs_with_report
from tmr_jax.data.datasets import open_pairs
from tmr_jax.data.download import MissingPart
from tmr_jax.data.readers import read_table


def test_without_the_table_it_says_where_to_put_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMR_JAX_CACHE", str(tmp_path))
    with pytest.raises(MissingPart, match=r"pairs\.tsv of open_pairs.*TMR_JAX_DATA"):
        load_pairs_with_report(DataConfig(name="open"))


@pytest.mark.costly
@pytest.mark.real_data
def test_no_training_row_carries_a_flag_of_a_test_set() -> None:
    pairs, report = load_pairs_with_report(DataConfig(name="open"))
    assert len(pairs) == 16_872
    assert {p.split for p in pairs} == {"train"}
    assert (report.rows, report.dropped, report.refused) == (31_920, 15_048, {})
    path = open_pairs.locate(open_pairs.PAIRS)
    marks = {str(c.row): c.values[0] for c in read_table(path, ["eval_skeletons"])}
    assert not any(flag in marks[p.id] for p in pairs for flag in open_pairs.EVALUATED)


@pytest.mark.costly
@pytest.mark.real_data
def test_unseen_rows_are_those_that_only_the_validation_of_pcdes_keeps_out() -> None:
    first = {p.id for p in load_pairs_with_report(DataConfig(name="open"))[0]}
    pairs, report = load_pairs_with_report(DataConfig(name="open", version="unseen"))
    assert len(pairs) == 1_410 and report.kept + report.dropped == 31_920
    assert not first & {p.id for p in pairs}
    path = open_pairs.locate(open_pairs.PAIRS)
    marks = {str(c.row): c.values[0] for c in read_table(path, ["eval_skeletons"])}
    assert all("pv" in marks[p.id] for p in pairs)
    assert not any(flag in marks[p.id] for p in pairs for flag in ("cv", "ct", "pt"))
