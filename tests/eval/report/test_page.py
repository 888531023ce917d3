"""The charts and sections of the report; tests/eval/test_main.py reads whole reports."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tmr_jax.eval.analysis import slot_record
from tmr_jax.eval.metrics import NAMES
from tmr_jax.eval.protocols import IDENTITY, PAIR
from tmr_jax.eval.report.page import (
    Row,
    WorkedQuery,
    bar_chart,
    cell_chart,
    headline,
    line_chart,
    outline_chart,
    page,
    rank_histogram,
    reliability_chart,
    short,
    smoothed,
)
from tmr_jax.models.runtime import read_metrics, series
from tmr_jax.types import Ranking

BAD = "</p><script>alert(1)</script>\"'&"


def results(**more):
    return {
        "experiment": "amines",
        "run": "runs/amines",
        "command": "",
        "commit": "",
        "labels": [],
        "checkpoint": {"which": "best", "step": 1, "sha256": "0"},
        "scores": [],
        "resamples": 10,
        **more,
    }


def calibrated():
    bins = {"count": [3, 0, 5], "confidence": [0.2, 0.0, 0.9], "correct": [0.25, 0.0, 1.0]}
    return {
        "direction": "t2m",
        "temperature": 0.05,
        "temperature_before": 1.0,
        "ece": 0.01,
        "ece_before": 0.4,
        "bins": bins,
    }


def trust(protocol="a/test", gap_of_parts=None):
    return {
        "protocol": protocol,
        "validation": "a/validation",
        "ood": {
            "reference": "validation texts",
            "neighbours": 5,
            "threshold": 0.3,
            "auroc": {"unrelated sentences": 0.99},
            "histogram": {
                "edges": [0.0, 0.1, 0.2, 0.3],
                "counts": {protocol: [4, 0, 0], "unrelated sentences": [0, 0, 2]},
            },
        },
        "calibration": [calibrated()],
        "geometry": {
            "alignment": 0.5,
            "uniformity_text": -2.0,
            "uniformity_mol": -1.0,
            "modality_gap": 0.7,
            "gap_of_parts": gap_of_parts,
        },
        "similarity": {
            "edges": [-1.0, 0.0, 1.0],
            "counts": {f"positive, {protocol}": [0, 4], f"negative, {protocol}": [6, 6]},
        },
    }


class Names(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.names, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


def shapes(chart, colour):
    """Corners of every path of a colour, from left to right, with y upwards."""
    svg = ElementTree.fromstring(chart.svg)  # it must be sound XML
    paths = [e for e in svg.iter() if e.tag.endswith("}path") and colour in e.get("style", "")]
    corners = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", e.get("d")) for e in paths]
    return [np.array([(float(x), -float(y)) for x, y in path]) for path in corners]


def heights(chart, colour="var(--a)"):
    return [float(np.ptp(path[:, 1])) for path in shapes(chart, colour)]


def test_a_page_without_trust_has_no_such_section():
    for found in (page(results(), {}, [], []), page(results(trust=[], slots=None), {}, [], [])):
        assert "Diagnostics" not in found and "Memory bank" not in found


def score(direction, tier="det", right=PAIR, scorer="model", protocol="a/test", hits=0.5):
    values = dict.fromkeys(NAMES, hits)
    return {
        "protocol": protocol,
        "direction": direction,
        "tier": tier,
        "right": right,
        "scorer": scorer,
        "queries": 10,
        "pool": 1200,
        "metrics": values,
        "intervals": dict.fromkeys(NAMES, (0.0, 1.0)),
        "about": ["pool 1,200", f"fact of {tier}"],
    }


def test_the_headline_is_of_the_final_ranking_in_the_first_pool():
    scores = [
        score("t2m", hits=0.25),
        score("t2m", "facts", hits=0.75),
        score("t2m", "facts", IDENTITY, hits=1.0),
        score("m2t", hits=0.1),
        score("t2m", "", scorer="ridge", hits=0.9),
        score("m2t", "facts", protocol="b/test", hits=0.9),
    ]
    words = " ".join(Names(page(results(scores=scores), {}, [], [])).text.split())
    assert "75.0 % of 10 texts find their own first among 1,200 molecules" in words
    assert "10.0 % of 10 molecules find their own first among 1,200 texts" in words
    assert words.count("find their own first") == 2
    assert headline([]) == []


def test_what_all_rows_of_a_protocol_say_is_printed_once():
    rows = [score("t2m"), score("m2t"), score("t2m", "facts"), score("t2m", right=IDENTITY)]
    found = Names(page(results(scores=rows), {}, [], []))
    assert found.text.count("pool 1,200") == 1
    assert found.text.count("fact of det") == 3 and found.text.count("fact of facts") == 1
    assert f"right: {IDENTITY}" in found.text and f"right: {PAIR}" not in found.text


def test_diagnostics_are_a_section_of_three_pictures_for_each_direction_and_pool():
    found = Names(page(results(trust=[trust(), trust("b/test")]), {}, [], []))
    assert found.names.count("svg") == found.names.count("figure") == 6
    for words in (
        "OOD scores of text queries: a/test",
        "the 5 nearest validation texts, chosen on a/validation",
        "AUROC 0.990 against unrelated sentences",
        "ECE 0.010 at T 0.0500 of validation, 0.400 at T 1.0000 before",
        "cosines of positive and negative pairs: b/test",
        "modality gap 0.700.",
    ):
        assert words in found.text
    parts = page(results(trust=[trust(gap_of_parts=0.9)]), {}, [], [])
    assert "0.900 of the means of words and atoms, 0.700 of embeddings" in parts


def test_names_from_data_are_escaped():
    found = Names(page(results(trust=[trust(BAD)]), {}, [], []))
    assert "script" not in found.names
    assert found.text.count("<script>alert(1)</script>") >= 5


def test_a_worked_query_marks_the_right_molecule_or_says_that_it_is_not_listed():
    rows = [Row(1, True, "CCC", ("", "", "", ""))]
    work = WorkedQuery("an alkane", 0.1, rows, listed=False, shortlist=20, charts=[])
    text = page(results(), {}, [], [], work)
    assert "1 ✓<code>CCC</code>" in text and "not on the shortlist of 20" in text
    assert "not on the shortlist" not in page(results(), {}, [], [], work._replace(listed=True))


def test_bars_of_reliability_are_as_high_as_the_share_that_is_right():
    chart = reliability_chart(calibrated(), "a/test")
    low, high = heights(chart)  # none is empty
    assert low == pytest.approx(high / 4, rel=1e-3)
    assert 0 <= chart.svg.index(">3<") < chart.svg.index(">5<")


def test_outlines_are_shares_over_the_range_in_use():
    histogram = {
        "edges": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        "counts": {"few": [0, 1, 1, 0, 0], "many": [0, 25, 25, 50, 0]},
    }
    chart = outline_chart("title", histogram, "")
    few, many = (shapes(chart, f"stroke: var(--{name})")[0] for name in "ab")
    assert few[0, 0] == many[0, 0] and few[-1, 0] == many[-1, 0]
    assert np.ptp(few[:, 1]) == pytest.approx(2 * np.ptp(many[:, 1]), rel=1e-3)  # a half; a quarter
    assert [label for _, label in chart.legend] == ["few (2)", "many (100)"]


def test_dead_slots_are_marked():
    chart = bar_chart("title", [2.0, 0.0, 1.0], "", marked=[1])
    assert [len(shapes(chart, f"fill: var(--{name})")) for name in "ab"] == [2, 1]
    start = np.eye(3)
    record = slot_record(start, start + np.diag([1.0, 0.0, 1.0]), np.array([0.5, 0.0, 0.5]))
    found = Names(page(results(slots=record), {}, [], []))
    assert found.names.count("svg") == 3 and found.text.count("dead slots: 1;") == 1
    history = [{"step": i, "bank/norm_mean": 1.0 + i, "loss_scale": None} for i in range(3)]
    found = Names(page(results(slots=record), {}, [], history))
    assert found.names.count("svg") == 4 and "bank/norm_mean (3)" in found.text


def test_a_bank_that_stood_still_is_drawn():
    assert len(shapes(bar_chart("title", [0.0, 0.0], ""), "fill: var(--a)")) == 2


def test_numbers_beside_an_axis_are_short():
    shown = [short(v) for v in (0.000364, -0.000364, 19.16, 1014, 1_234_567.0)]
    assert shown == ["4e-04", "-4e-04", "19.2", "1014", "1e+06"]


def test_labels_are_text_and_no_mathematics():
    labels = [BAD, "$x_1$"]
    chart = cell_chart(BAD, np.array([[0.0, 1.0], [1.0, 0.5]]), labels, "below")
    texts = "".join(ElementTree.fromstring(chart.svg).itertext())
    assert BAD in texts and "$x_1$" in texts


def test_history_skips_what_a_killed_run_left_and_what_is_no_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"st', encoding="utf-8")
    assert series(read_metrics(path), lambda name: name == "loss") == {"loss": [(1.0, 2.0)]}
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_long_curve_is_drawn_as_means_and_a_short_one_as_it_is():
    short = [(1.0, 3.0), (2.0, 5.0)]
    assert smoothed(short) == short
    long = [(float(i), float(i % 2)) for i in range(600)]
    assert len(smoothed(long)) == 300
    assert smoothed(long)[1] == (2.5, 0.5)


def test_rank_histogram_counts_every_query_once():
    ranking = Ranking(np.array([0, 0, 4, 9, 29]), np.array([0, 1, 0, 0, 0]), 30)
    bars = dict(rank_histogram(ranking))
    assert bars == {"1": 1, "2-5": 2, "6-10": 1, "11-20": 0, "21-30": 1}
    far = Ranking(np.array([700]), np.array([0]), 33_008)
    assert [name for name, count in rank_histogram(far) if count] == ["501+"]


def test_a_curve_of_one_point_is_seen():
    assert "<use" in line_chart("title", {"loss": [(526.0, 0.366)]}).svg
    assert "<use" not in line_chart("title", {"loss": [(1.0, 0.3), (2.0, 0.2)]}).svg
