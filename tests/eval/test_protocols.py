"""Declarations by name, the rules they carry, and ranks within batches by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tmr_jax.eval.protocols import HOLDER, IDENTITY, PAIR, find
from tmr_jax.eval.scores import QuerySet, within


def test_a_published_pool_knows_its_size() -> None:
    sizes = [
        find(f"chebi20-{name}", "").size for name in ("text2mol/full-33010", "molt5/full-33008")
    ]
    assert sizes == [33_010, 33_008]
    assert [find(f"chebi20-{v}/test-split", "").size for v in ("text2mol", "molt5")] == [3301, 3300]
    assert find("pcdes/file-order", "").size == 3000


@pytest.mark.parametrize(
    ("own", "name", "is_own"),
    [
        ("chebi20-molt5/test-split", "chebi20-text2mol/full-33010", True),
        ("pcdes/file-order", "pcdes/file-order-validation", True),
        ("pcdes/file-order", "pcdes/scaffold", False),
        ("", "chebi20-molt5/test-split", False),
        ("", "open/validation", False),
        ("chebi/test", "chebi/validation", True),
        ("chebi/test", "inbatch-64/chebi/test", True),
        ("table/test", "chebi/test", False),
        ("chebi20-molt5/test-split", "chebi/test", False),
    ],
)
def test_an_own_split_has_the_rule_of_the_literature_and_any_other_the_strict_one(
    own, name, is_own
) -> None:
    found = find(name, own)
    rule = ("molecule or text", "test side") if is_own else ("skeleton", "none")
    assert (found.leakage, found.filter) == rule


def test_batches_are_of_the_own_test_or_of_a_named_pool() -> None:
    found = find("inbatch-64", "pcdes/file-order")
    assert found == find("inbatch-64/pcdes/file-order", "pcdes/file-order")
    assert (found.source, found.batch) == ("pcdes/file-order", 64)
    assert find("inbatch-64/chebi20-molt5/test-split", "").source == "chebi20-molt5/test-split"
    with pytest.raises(ValueError, match="name one: inbatch-64/pcdes/file-order"):
        find("inbatch-64", "")
    with pytest.raises(ValueError, match=r"did you mean .*inbatch-64/chebi20-molt5/test-split"):
        find("inbatch-64/chebi20-molt5/full-33008", "")


def test_short_queries_count_every_holder_and_are_not_cut_into_batches() -> None:
    found = find("chebi20-molt5/clause", "chebi20-molt5/test-split")
    assert (found.relevance, found.size, found.filter) == ((HOLDER,), 3300, "test side")
    assert find("chebi20-molt5/validation-first-sentence", "").relevance == (HOLDER,)
    assert find("chebi20-molt5/test-split", "").relevance == (PAIR, IDENTITY)
    with pytest.raises(ValueError, match="expected a protocol"):
        find("inbatch-64/chebi20-molt5/clause", "")


def test_out_of_domain_names_training_and_test() -> None:
    found = find("ood/pcdes->chebi20", "pcdes/file-order")
    assert found == find("ood/pcdes→chebi20", "")
    assert (found.name, found.trained_on) == ("ood/pcdes→chebi20", "pcdes")
    assert (found.source, found.size) == ("chebi20-molt5/full-33008", 33_008)
    assert (found.leakage, found.filter) == ("skeleton", "none")
    assert find("ood/open→pcdes/filtered", "").filter == "test side"
    with pytest.raises(ValueError, match="expected a protocol"):
        find("ood/pcdes→pcdes", "pcdes/file-order")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean ood/open→pcdes"):
        find("ood/opn->pcdes", "")
    with pytest.raises(ValueError, match="did you mean chebi20-molt5/full-33008"):
        find("chebi20-molt5/full-33080", "")
    with pytest.raises(ValueError, match=r"known: .*table/test"):
        find("?", "")


def test_a_query_meets_the_candidates_of_its_batch_only() -> None:
    # Row i holds the scores of query i; batches are candidates 0-1 and 2-3.
    scores = np.float32([[0.1, 0.5, 0.9, 0.9], [0.9, 0.2, 0, 0], [0.9, 0.9, 0.3, 0.3]])
    target = np.array([0, 1, 3])
    axes, none = np.eye(4, dtype=np.float32), np.zeros((2, 4), int)
    found = QuerySet("t2m", scores, axes, target, np.arange(4), none, target, 2).ranking()
    assert found.greater.tolist() == [1, 1, 0]
    assert found.equal.tolist() == [0, 0, 1]
    assert found.pool_size == 2
    whole = QuerySet("t2m", scores, axes, target, np.arange(4), none, target, 0).ranking()
    assert whole.greater.tolist() == [3, 1, 2] and whole.pool_size == 4


def test_labels_of_a_batch_are_right_in_that_batch_only() -> None:
    scores = np.float32([[0.1, 0.5, 0.9, 0.9], [0.1, 0.2, 0.7, 0.3]])
    target, labels = np.array([0, 3]), np.array([[5, 5, 5, 8]])
    axes, group = np.eye(4, dtype=np.float32), np.arange(4)
    side = QuerySet("t2m", scores, axes, target, group, labels, target, 2)
    found = side.ranking(by_identity=True)
    assert found.greater.tolist() == [0, 1]
    assert within(2, labels[0]).tolist() == [5, 5, 14, 17]
    assert within(0, labels) is labels
