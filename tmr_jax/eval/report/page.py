"""report.html of a run: one file that opens anywhere, without any other file or address.

In: the results of `tmr_jax.eval`, the run's metrics.jsonl, and examples of hits and misses. Out: a
page with curves, rank histograms, the table, and structures, all inline. Whatever came from data
(texts, SMILES, names) is escaped; the page's policy forbids scripts altogether.
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.eval.metrics import NAMES, TIES
from tmr_jax.eval.ood import gap_words, signal_words
from tmr_jax.types import Ranking

RANK_EDGES = (1, 2, 6, 11, 21, 51, 101, 501, 1001, 5001)  # first rank of each bar
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 240, 48, 30  # of a chart, in its own units
POINTS = 300  # of one curve
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)")


class Candidate(NamedTuple):
    content: str  # a SMILES or a text
    score: float
    right: bool


class Example(NamedTuple):
    """One query with its right answer and the best scored candidates."""

    direction: str  # t2m or m2t
    protocol: str
    query: str
    answer: Candidate
    rank: float  # expected under random order of ties
    top: tuple[Candidate, ...]


def page(
    results: dict[str, Any],
    rankings: dict[str, Ranking],
    examples: list[Example],
    history: list[dict[str, Any]],
    worked: str = "",
) -> str:
    """The whole document; `rankings` are named by "protocol, direction", `worked` is HTML."""
    title = escape(f"{results['experiment']}: text-molecule retrieval")
    parts = [
        f"<header><h1>{title}</h1>{_facts(results)}</header>",
        section("Scores", _table(results["scores"]) + _explanation(results)),
        section("Training", _curves(history)),
        section("Ranks", "".join(_histogram(n, r) for n, r in rankings.items())),
        section("Trust", "".join(map(_trust, results.get("trust") or []))),
        section("Memory bank", _slots(results.get("slots"), history)),
        section("One query, part by part", worked),
        section("Hits", _examples([e for e in examples if e.rank <= 1.0])),
        section("Misses", _examples([e for e in examples if e.rank > 1.0])),
    ]
    return HEAD.format(title=title, style=STYLE) + "\n".join(parts) + "\n</main></body></html>\n"


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; an unfinished last line (a killed run) is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def series(history: list[dict[str, Any]], keep: Any) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) of every finite number whose name passes `keep`."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in history:
        step = row.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and keep(name) and is_number and math.isfinite(value):
                found.setdefault(name, []).append((float(step), float(value)))
    return found


def rank_histogram(ranking: Ranking) -> list[tuple[str, int]]:
    """How many queries have their expected rank in each range; ranges end at the pool's size."""
    ranks = 1 + ranking.greater + ranking.equal / 2
    edges = [e for e in RANK_EDGES if e <= ranking.pool_size] + [ranking.pool_size + 1]
    # A tie puts an expected rank between two whole ones: 1.5 counts with 2.
    counts = np.histogram(np.ceil(ranks), edges)[0]
    return [
        (_range(low, high - 1), int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _range(low: int, high: int) -> str:
    """As a label below its bar, which is too narrow for two long numbers."""
    if low == high:
        return f"{low:,}"
    return f"{low:,}+" if low > 500 else f"{low}-{high}"


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _facts(results: dict[str, Any]) -> str:
    checkpoint = results["checkpoint"]
    facts = {
        "run": results["run"],
        "checkpoint": f"step {checkpoint['step']} ({checkpoint['which']}), "
        f"SHA-256 {checkpoint['sha256'][:16]}",
        "code": results["commit"],
        "command": results["command"],
        "ties": TIES,
    }
    rows = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    labels = "".join(f'<p class="label">{escape(text)}</p>' for text in results["labels"])
    return f"{labels}<dl>{''.join(rows)}</dl>"


def _table(scores: list[dict[str, Any]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in NAMES)
    rows = "".join(_row(score) for score in scores)
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">protocol, direction</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(score: dict[str, Any]) -> str:
    cells = []
    for name in NAMES:
        low, high = (number(name, value) for value in score["intervals"][name])
        value = number(name, score["metrics"][name])
        cells.append(f"<td><b>{value}</b><br><small>{low} to {high}</small></td>")
    about = "<br>".join(escape(line) for line in score["about"])
    name = escape(score_name(score))
    return f'<tr><th scope="row">{name}<br><small>{about}</small></th>{"".join(cells)}</tr>'


def score_name(score: dict[str, Any]) -> str:
    """Protocol, direction and, of a model with a second stage, tier."""
    return ", ".join(filter(None, (score["protocol"], score["direction"], score["tier"])))


def number(name: str, value: float) -> str:
    """A metric as printed: Hits@k in per cent, MRR as a share, MR as a rank."""
    if name.startswith("hits"):
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "mrr" else f"{value:,.1f}"


def _explanation(results: dict[str, Any]) -> str:
    return (
        "<p>Hits@k in per cent; below each value its 95 % bootstrap interval over queries "
        f"({results['resamples']:,} resamples). Exactly one candidate is right for a query "
        "unless a line says otherwise. The twin ceiling is the highest Hits@1 that any ranking can "
        "expect when some candidates are one and the same model input. A molecule is also in "
        "training where one there has the same InChIKey block 1 (connectivity).</p>"
    )


def _curves(history: list[dict[str, Any]]) -> str:
    """Loss and its parts, then validation scores, where the run recorded them."""
    losses = series(history, lambda name: name == "loss" or name.startswith(("loss/", "loss_")))
    one_stage = ("t2m/hits@1", "t2m/mrr", "m2t/hits@1", "m2t/mrr")
    tiers = (f"{d}/{t}/mrr" for d in ("t2m", "m2t") for t in ("det", "fused"))
    watched = (*one_stage, *tiers)
    checks = series(history, lambda name: name.removeprefix("validation/") in watched)
    charts = [("loss by step", losses), ("validation scores by step", checks)]
    return "".join(_lines(title, points) for title, points in charts if points)


def _lines(title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    """A line chart as inline SVG."""
    shown = {n: smoothed(curves[n]) for n in list(curves)[: len(COLOURS)]}
    every = np.array([point for points in shown.values() for point in points])
    (x0, low), (x1, high) = every.min(0), every.max(0)
    x_span, y_span = (x1 - x0) or 1.0, (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / x_span * (WIDTH - LEFT - 10)
        return f"{across:.1f},{10 + (high - y) / y_span * (HEIGHT - BOTTOM - 10):.1f}"

    lines, legend = [], []
    for colour, (name, points) in zip(COLOURS, shown.items(), strict=False):
        path = " ".join(place(*point) for point in points)
        lines.append(f'<polyline points="{path}" style="stroke:{colour}"/>')
        if len(points) == 1:  # a line of one point cannot be seen
            x, y = path.split(",")
            lines.append(f'<circle cx="{x}" cy="{y}" r="3" style="fill:{colour}"/>')
        last = f"{curves[name][-1][1]:.3g}"
        legend.append(f'<span><i style="background:{colour}"></i>{escape(name)} ({last})</span>')
    marks = _axis_labels((low, high), [f"{x0:,.0f}", f"step {x1:,.0f}"])
    return figure(title, "".join(lines) + marks, "".join(legend))


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of as many neighbours: single steps are noise."""
    block = -(-len(points) // POINTS)
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _axis_labels(y: tuple[float, float], x: list[str]) -> str:
    base = HEIGHT - BOTTOM
    return (
        f'<path d="M{LEFT} 10V{base}H{WIDTH - 10}" class="axis"/>'
        f'<text x="{LEFT - 6}" y="18" text-anchor="end">{_short(y[1])}</text>'
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">{_short(y[0])}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">{x[0]}</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 10}" text-anchor="end">{x[1]}</text>'
    )


def _histogram(name: str, ranking: Ranking) -> str:
    """Bars of how many queries fall in each range of ranks."""
    bars = rank_histogram(ranking)
    most = max(count for _, count in bars) or 1
    step = (WIDTH - 20) / len(bars)
    drawn = []
    for i, (label, count) in enumerate(bars):
        height = count / most * (HEIGHT - BOTTOM - 30)
        left, top = 10 + i * step, HEIGHT - BOTTOM - height
        middle = f'x="{left + step / 2:.1f}" text-anchor="middle"'
        drawn.append(
            f'<rect x="{left + 2:.1f}" y="{top:.1f}" width="{step - 4:.1f}" height="{height:.1f}"/>'
            f'<text {middle} y="{top - 4:.1f}">{count:,}</text>'
            f'<text {middle} y="{HEIGHT - 12}">{label}</text>'
        )
    size = f"{len(ranking.greater):,} queries, pool of {ranking.pool_size:,}, ties {TIES}"
    return figure(f"rank of the right candidate: {name}", "".join(drawn), escape(size))


def _trust(record: dict[str, Any]) -> str:
    """Strangeness, reliability and similarities of one tested pool, in pictures and a line each."""
    name, strange, shape = record["protocol"], record["ood"], record["geometry"]
    aurocs = [f"AUROC {v:.3f} against {other}" for other, v in strange["auroc"].items()]
    figures = [
        densities(
            f"strangeness of text queries: {name}",
            strange["histogram"],
            f"1 - mean cosine to {signal_words(strange)}, chosen on {record['validation']}; "
            + "; ".join(aurocs),
        ),
        *(_reliability(one, name) for one in record["calibration"]),
        densities(
            f"cosines of partners and of strangers: {name}",
            record["similarity"],
            "positive: a text and its molecule; negative: a text and any other molecule",
        ),
    ]
    return f"{''.join(figures)}<p>{escape(_shape_words(name, shape))}</p>"


def _shape_words(name: str, shape: dict[str, Any]) -> str:
    return (
        f"{name}: alignment {shape['alignment']:.3f} (mean squared distance of partners), "
        f"uniformity of texts {shape['uniformity_text']:.3f}, of molecules "
        f"{shape['uniformity_mol']:.3f} (0 to -4, lower is better spread), modality gap "
        f"{gap_words(shape)}."
    )


def densities(title: str, histogram: dict[str, Any], caption: str) -> str:
    """Outlines of histograms over the same edges, each as shares of its own count."""
    counts = histogram["counts"]
    shares = {name: np.array(c) / max(sum(c), 1) for name, c in counts.items()}
    used = np.flatnonzero(sum(shares.values()))
    inside = slice(used[0], used[-1] + 1)
    ends = np.array(histogram["edges"])[used[0] : used[-1] + 2]
    most = max(float(share.max()) for share in shares.values())
    across = LEFT + (ends - ends[0]) / (ends[-1] - ends[0]) * (WIDTH - LEFT - 10)
    base = HEIGHT - BOTTOM
    lines, legend = [], []
    for i, (name, share) in enumerate(shares.items()):
        colour = COLOURS[i % len(COLOURS)]
        heights = np.repeat(base - share[inside] / most * (base - 10), 2)
        steps = zip(np.repeat(across, 2)[1:-1], heights, strict=True)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
        lines.append(f'<polyline points="{path}" style="stroke:{colour}"/>')
        label = escape(f"{name} ({sum(counts[name]):,})")
        legend.append(f'<span><i style="background:{colour}"></i>{label}</span>')
    marks = _axis_labels((0.0, most), [f"{ends[0]:.2f}", f"{ends[-1]:.2f}"])
    return figure(title, "".join(lines) + marks, f"{''.join(legend)}<br>{escape(caption)}")


def _reliability(one: dict[str, Any], name: str) -> str:
    """Share of right first places by confidence; bars on the diagonal are what they claim."""
    bins, base = one["bins"], HEIGHT - BOTTOM
    step, height = (WIDTH - LEFT - 10) / len(bins["count"]), base - 10
    drawn = []
    for i, (count, correct) in enumerate(zip(bins["count"], bins["correct"], strict=True)):
        if not count:
            continue
        left, tall = LEFT + i * step, correct * height
        drawn.append(
            f'<rect x="{left + 1:.1f}" y="{base - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}"/><text x="{left + step / 2:.1f}" y="{base - tall - 1:.1f}" '
            f'text-anchor="middle">{count:,}</text>'
        )
    diagonal = f'<polyline points="{LEFT},{base} {WIDTH - 10},10" style="stroke:var(--b)"/>'
    caption = (
        f"share of queries whose first candidate is right, by confidence, with their number; "
        f"line: as sure as right. ECE {one['ece']:.3f} at T {one['temperature']:.4f} of "
        f"validation, {one['ece_before']:.3f} at T {one['temperature_before']:.4f} before"
    )
    marks = _axis_labels((0.0, 1.0), ["0", "confidence 1"])
    title = f"reliability: {name}, {one['direction']}"
    return figure(title, "".join(drawn) + diagonal + marks, escape(caption))


def _slots(record: dict[str, Any] | None, history: list[dict[str, Any]]) -> str:
    """How far each slot moved and how sharply it reads, dead ones marked; norms by step."""
    if record is None:
        return ""
    dead = record["dead"]
    named = f"dead slots: {', '.join(map(str, dead))}" if dead else "no dead slot"
    rule = "dead: moved at most 1 % of the median slot, and its attention is even within 1 %"
    charts = {
        "distance that each slot moved in training": record["moved"],
        "norm of each slot": record["norm_end"],
        "sharpness of each slot's attention (0 even, 1 on one part)": record["sharpness"],
    }
    said = [f"{named}; {rule}"] + [""] * (len(charts) - 1)
    shown = zip(charts.items(), said, strict=True)
    bars = (_slot_bars(title, values, dead, text) for (title, values), text in shown)
    norms = series(history, lambda name: name.startswith("bank/norm_"))
    return "".join(bars) + (_lines("norms of the slots by step", norms) if norms else "")


def _short(value: float) -> str:
    """A number that fits beside an axis."""
    plain = f"{value:.3g}"
    return plain if len(plain) < 8 else f"{value:.0e}"


def _slot_bars(title: str, values: list[float], dead: list[int], caption: str) -> str:
    most, base = max(values) or 1.0, HEIGHT - BOTTOM
    step, drawn = (WIDTH - LEFT - 10) / len(values), []
    for i, value in enumerate(values):
        tall = max(value, 0.0) / most * (base - 10)
        colour = ' style="fill:var(--b)"' if i in dead else ""
        drawn.append(
            f'<rect x="{LEFT + i * step + 1:.1f}" y="{base - tall:.1f}" '
            f'width="{step - 2:.1f}" height="{tall:.1f}"{colour}/>'
        )
    marks = _axis_labels((0.0, most), ["slot 0", f"slot {len(values) - 1}"])
    return figure(title, "".join(drawn) + marks, escape(caption))


def figure(title: str, drawing: str, caption: str) -> str:
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{drawing}</svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _examples(examples: list[Example]) -> str:
    return "".join(_example(example) for example in examples)


def _example(example: Example) -> str:
    asked, answered = ("text", "molecule") if example.direction == "t2m" else ("molecule", "text")
    rank = f"{example.rank:,.1f}".removesuffix(".0")
    candidates = "".join(
        _card(f"{place}. score {c.score:.3f}", c, answered)
        for place, c in enumerate(example.top, 1)
    )
    right = _card(f"right: rank {rank}, score {example.answer.score:.3f}", example.answer, answered)
    return (
        f"<article><h3>{escape(example.protocol)}, {example.direction}: rank {rank}</h3>"
        f'<div class="query">{_content(example.query, asked)}</div>'
        f'<div class="cards">{right}{candidates}</div></article>'
    )


def _card(caption: str, candidate: Candidate, kind: str) -> str:
    mark = " right" if candidate.right else ""
    return (
        f'<div class="card{mark}"><p>{escape(caption)}{" ✓" if candidate.right else ""}</p>'
        f"{_content(candidate.content, kind)}</div>"
    )


def _content(content: str, kind: str) -> str:
    if kind == "text":
        return f'<p class="text">{escape(content)}</p>'
    return (
        f'<div class="molecule">{molecule_svg(content, 240, 180)}</div>'
        f"<code>{escape(content)}</code>"
    )


HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title><style>{style}</style></head><body><main>
"""

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--paper:#fff;--soft:#f2f4f8;--line:#d5dae3;
--dim:#5d6878;--a:#2f6fde;--b:#d9622b;--c:#2c9a62;--d:#8a55c7}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf2;--paper:#12161d;--soft:#1c222c;
--line:#343d4b;--dim:#9aa6b8;--a:#6fa0ff;--b:#ff9a66;--c:#5fd09a;--d:#c199f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.2rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:.95rem;margin:.4rem 0}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem 1rem;margin:.5rem 0;font-size:.85rem}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.label{display:inline-block;margin:.2rem .4rem .2rem 0;padding:.15rem .6rem;border-radius:1rem;
background:var(--b);color:var(--paper);font-size:.85rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .5rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child{text-align:left;min-width:16rem;font-weight:600}
td{white-space:nowrap}small{color:var(--dim);font-weight:400}
figure{display:inline-block;width:100%;max-width:520px;margin:0 .5rem 1rem 0;vertical-align:top}
figure svg{width:100%;height:auto;background:var(--soft);border-radius:.5rem}
figure text{font-size:11px;fill:var(--dim)}figure rect{fill:var(--a)}
polyline{fill:none;stroke-width:1.8}.axis{fill:none;stroke:var(--line)}
figcaption{font-size:.8rem;color:var(--dim)}figcaption span{margin-right:1rem}
figcaption i{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.3em}
article{background:var(--soft);border-radius:.6rem;padding:.6rem .8rem;margin:0 0 1rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.6rem}
.card{background:var(--paper);border:2px solid var(--line);border-radius:.5rem;padding:.4rem;
font-size:.8rem;min-width:0}
.card.right{border-color:var(--c)}.card p{margin:0 0 .3rem;color:var(--dim)}
.card p.text,.query p.text{color:var(--ink);overflow-wrap:anywhere}
.card p.text{max-height:12rem;overflow-y:auto}
.molecule{background:#fff;border-radius:.3rem;max-width:240px}
.molecule svg{width:100%;height:auto;display:block}
code{font-size:.72rem;overflow-wrap:anywhere;color:var(--dim);display:block;max-height:4.5rem;
overflow-y:auto}
"""
