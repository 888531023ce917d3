"""Pictures of trust in the report; its other parts are tested where they are made, in test_eval."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tmr_jax.eval.ood import slot_record
from tmr_jax.eval.report.page import _reliability, _short, _slot_bars, densities, page

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


def drawing(html):
    """The picture of a figure, which must be sound XML."""
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])


def test_a_page_without_trust_has_no_such_section():
    for found in (page(results(), {}, [], []), page(results(trust=[], slots=None), {}, [], [])):
        assert "Trust" not in found and "Memory bank" not in found


def test_trust_is_a_section_of_three_pictures_for_each_direction_and_pool():
    found = Names(page(results(trust=[trust(), trust("b/test")]), {}, [], []))
    assert found.names.count("svg") == found.names.count("figure") == 6
    for words in (
        "strangeness of text queries: a/test",
        "the 5 nearest validation texts, chosen on a/validation",
        "AUROC 0.990 against unrelated sentences",
        "ECE 0.010 at T 0.0500 of validation, 0.400 at T 1.0000 before",
        "cosines of partners and of strangers: b/test",
        "modality gap 0.700.",
    ):
        assert words in found.text
    parts = page(results(trust=[trust(gap_of_parts=0.9)]), {}, [], [])
    assert "0.900 of the means of words and atoms, 0.700 of embeddings" in parts


def test_names_from_data_are_escaped():
    found = Names(page(results(trust=[trust(BAD)]), {}, [], []))
    assert "script" not in found.names
    assert found.text.count("<script>alert(1)</script>") >= 5


def test_bars_of_reliability_are_as_high_as_the_share_that_is_right():
    svg = drawing(_reliability(calibrated(), "a/test"))
    bars = svg.findall("rect")
    assert [float(bar.get("height")) for bar in bars] == pytest.approx([50, 200])  # none is empty
    assert [t.text for t in svg.findall("text")[:2]] == ["3", "5"]


def test_outlines_are_shares_over_the_range_in_use():
    histogram = {
        "edges": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        "counts": {"few": [0, 1, 1, 0, 0], "many": [0, 25, 25, 50, 0]},
    }
    svg = drawing(densities("title", histogram, ""))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in svg.findall("polyline")
    ]
    left, right = (lines[0][i][0] for i in (0, -1))
    assert lines[1][0][0] == left and lines[1][-1][0] == right
    heights = [{y for _, y in line} for line in lines]
    assert heights == [{10.0, 210.0}, {110.0, 10.0}]  # a half is the highest share of both
    assert [t.text for t in svg.findall("text")][2:] == ["0.10", "0.40"]


def test_dead_slots_are_marked():
    svg = drawing(_slot_bars("title", [2.0, 0.0, 1.0], [1], ""))
    assert [bar.get("style") for bar in svg.findall("rect")] == [None, "fill:var(--b)", None]
    start = np.eye(3)
    record = slot_record(start, start + np.diag([1.0, 0.0, 1.0]), np.array([0.5, 0.0, 0.5]))
    found = Names(page(results(slots=record), {}, [], []))
    assert found.names.count("svg") == 3 and found.text.count("dead slots: 1;") == 1
    history = [{"step": i, "bank/norm_mean": 1.0 + i, "loss_scale": None} for i in range(3)]
    found = Names(page(results(slots=record), {}, [], history))
    assert found.names.count("svg") == 4 and "bank/norm_mean (3)" in found.text


def test_a_bank_that_stood_still_is_drawn():
    assert drawing(_slot_bars("title", [0.0, 0.0], [], "")).findall("rect")


def test_numbers_beside_an_axis_are_short():
    shown = [_short(v) for v in (0.000364, -0.000364, 19.16, 1_234_567.0)]
    assert shown == ["4e-04", "-4e-04", "19.2", "1e+06"]
