"""The table of scores in a terminal."""

from tmr_jax.eval.metrics import NAMES, TIES
from tmr_jax.eval.protocols import CLEAN, IDENTITY, PAIR
from tmr_jax.eval.ridge import BASELINE, PIECES_BASELINE
from tmr_jax.eval.terminal import WIDTH, table_lines


def score(protocol, direction, right=PAIR, stage="", pool=33_008, **more):
    values = dict(zip(NAMES, (0.5123, 0.7, 0.8, 0.9, 0.6, 1_234.5), strict=True))
    return {
        "protocol": protocol,
        "direction": direction,
        "scorer": "model",
        "tier": stage,
        "right": right,
        "pool": pool,
        "ties": TIES,
        "seed": 3,
        "labels": [],
        "model_over": None,
        "metrics": values,
        "intervals": {name: (value, value) for name, value in values.items()},
        **more,
    }


def results(*scores):
    checkpoint = {"which": "best", "step": 7, "sha256": "0"}
    return {"experiment": "e", "checkpoint": checkpoint, "scores": scores, "resamples": 1000}


def test_a_score_is_one_line_and_columns_are_aligned():
    scores = [score("pcdes/scaffold", d, pool=p) for d, p in (("t2m", 64), ("m2t", 33_008))]
    _, head, first, second, *legend = table_lines(results(*scores))
    assert len(head) == len(first) == len(second) <= WIDTH
    assert first.split() == [
        *("pcdes/scaffold", "t2m", "pair", "64"),
        *("51.2", "70.0", "80.0", "90.0", "0.600", "1,234.5", "51.2-51.2"),
    ]
    assert "1,000 resamples" in legend[0]
    assert legend[1:] == [f"right, pair: {PAIR}", f"ties: {TIES}; seed 3"]


def test_long_names_of_every_kind_fit_100_columns():
    protocols = ("inbatch-64/chebi20-text2mol/test-split", "chebi20-text2mol/full-33010")
    rights = (PAIR, IDENTITY, CLEAN)
    scores = [score(p, "t2m", right, "fused") for p in protocols for right in rights]
    _, *rows = table_lines(results(*scores))[: 2 + len(scores)]
    assert {len(row) for row in rows} == {len(rows[0])} and len(rows[0]) <= WIDTH
    assert rows[1].startswith("...") and "chebi20-text2mol/test-split t2m fused" in rows[1]
    assert rows[4].split()[:4] == ["chebi20-text2mol/full-33010", "t2m", "fused", "pair"]


def test_the_gain_over_each_ridge_is_below_the_table():
    gain = {"mrr": [0.1234, 0.1, 0.15]}
    scores = [score("chebi/test", "t2m", scorer=BASELINE, model_over=gain)]
    scores.append(score("chebi/test", "t2m", scorer=PIECES_BASELINE))  # the model has no such rank
    lines = [line for line in table_lines(results(*scores)) if "over" in line]
    assert lines == ["MRR over ridge words, chebi/test, t2m: +0.1234 (+0.1000 to +0.1500)"]


def test_what_a_reader_must_know_is_below_the_table():
    found = table_lines(
        results(score("chebi20-molt5/test-split", "t2m", labels=["open-pairs training"]))
    )
    assert found[-1] == "note: open-pairs training"
