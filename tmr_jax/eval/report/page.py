"""report.html of a run: one file without scripts that makes no external requests.

In: the results of an evaluation, the curves of training, and examples of hits and misses. Out: the
page with tables, charts and structures. The templates escape everything that comes from data
(texts, SMILES, names); the page's policy forbids scripts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from tmr_jax.data.drawing import molecule_svg
from tmr_jax.eval.metrics import NAMES, TIES, per_query
from tmr_jax.eval.protocols import HOLDER, PAIR
from tmr_jax.eval.rank import top
from tmr_jax.eval.rerank import PoolReranker, levels, take
from tmr_jax.eval.rerank_steps import Reranked
from tmr_jax.eval.ridge import FINAL
from tmr_jax.eval.scores import Score, number
from tmr_jax.eval.terminal import gap_words, signal_words
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.models.runtime import series
from tmr_jax.types import Pool, Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SHOWN = 5  # candidates drawn for an example of the report
EXAMPLES = 3  # hits, and as many misses, of each direction
LISTED = 10  # candidates of the table and rows of the state's picture
WORDS, ATOMS = 28, 40  # of the heat map; the heaviest words, the first atoms
RANK_EDGES = (1, 2, 6, 11, 21, 51, 101, 501, 1001, 5001)  # first rank of each bar

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 560, 240, 48, 30, 10  # of a chart and its margins, in pixels
CELL = 13  # height of a row of cells
POINTS = 300  # of one curve
# Colours come out as CSS variables of document.jinja, which follow the reader's theme.
COLOURS = ("#2f6fde", "#d9622b", "#2c9a62", "#8a55c7")
INK, DIM, LINE = "#1d2430", "#5d6878", "#d5dae3"
CSS = dict(zip((*COLOURS, INK, DIM, LINE), ("a", "b", "c", "d", "ink", "dim", "line"), strict=True))
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "font.family": "sans-serif",
    "axes.edgecolor": LINE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), DIM),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
}
# What matplotlib adds that a page must not have: a style for all of it, names used twice, notes.
EXTRA = re.compile(
    r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->"
    r'| id="[\w.]+_\d+"| (?:width|height)="[\d.]+pt"',
    re.DOTALL,
)


def templates(*more: jinja2.BaseLoader) -> jinja2.Environment:
    """The templates of this folder and `more`, which may extend `document.jinja`, too."""
    loader = jinja2.ChoiceLoader([*more, jinja2.PackageLoader("tmr_jax.eval", "report")])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["molecule"] = lambda smiles: Markup(molecule_svg(smiles, 240, 180))
    return environment


def page(
    results: dict[str, Any],
    rankings: dict[str, Ranking],
    examples: list[Example],
    history: list[dict[str, Any]],
    worked: WorkedQuery | None = None,
) -> str:
    """The whole document; `rankings` are named by "protocol, direction"."""
    records = results.get("trust") or []
    sections = [
        ("Training", list(_curves(history)), ""),
        ("Ranks", [rank_chart(name, ranking) for name, ranking in rankings.items()], ""),
        *(("Diagnostics", list(_diagnostics(record)), _geometry(record)) for record in records),
        ("Memory bank", list(_slots(results.get("slots"), history)), ""),
    ]
    checkpoint = "step {step} ({which}), SHA-256 {sha256:.16}".format(**results["checkpoint"])
    facts = {"run": results["run"], "checkpoint": checkpoint, "code": results["commit"]}
    if software := results.get("software"):  # runs evaluated before 0.2 have none
        facts["software"] = ", ".join(f"{name} {version}" for name, version in software.items())
    template = templates().get_template("page.jinja")
    return template.render(
        title=f"{results['experiment']}: text-molecule retrieval",
        labels=results["labels"],
        facts=facts | {"command": results["command"], "ties": TIES},
        metrics=NAMES,
        headline=headline(results["scores"]),
        pools=list(_pools(results["scores"])),
        resamples=results["resamples"],
        sections=sections,
        worked=worked,
        hits=[e for e in examples if e.rank <= 1.0],
        misses=[e for e in examples if e.rank > 1.0],
    )


def headline(scores: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Hits@1 of the run's final ranking in its first pool, in each direction, as words."""
    final: dict[str, dict[str, Any]] = {}
    for score in scores:
        ours = score["scorer"] == "model" and score["right"] in (PAIR, HOLDER)
        if ours and score["protocol"] == scores[0]["protocol"] and score["tier"] in FINAL:
            before = final.get(score["direction"], score)
            final[score["direction"]] = max(before, score, key=lambda s: FINAL.index(s["tier"]))
    sides = {"t2m": ("texts", "molecules"), "m2t": ("molecules", "texts")}
    return [
        (
            f"{number('hits@1', one['metrics']['hits@1'])} %",
            "of {queries:,} {0} find their own first among {pool:,} {1}".format(
                *sides[direction], **one
            ),
        )
        for direction, one in final.items()
    ]


def _pools(scores: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of each protocol, and apart from them the facts that all of its rows share."""
    for protocol in dict.fromkeys(score["protocol"] for score in scores):
        own = [score for score in scores if score["protocol"] == protocol]
        shared = [f for f in own[0]["about"] if all(f in score["about"] for score in own)]
        yield {"protocol": protocol, "about": shared, "rows": [_row(s, shared) for s in own]}


def _row(score: dict[str, Any], shared: Sequence[str]) -> dict[str, Any]:
    """Name, facts of its own and cells (value, lower, upper end) of a row."""
    values = {name: (score["metrics"][name], *score["intervals"][name]) for name in NAMES}
    scorer = score["tier"] if score["scorer"] == "model" else score["scorer"]
    return {
        "name": ", ".join(filter(None, (score["direction"], scorer))),
        "right": "" if score["right"] == PAIR else score["right"],
        "about": [fact for fact in score["about"] if fact not in shared],
        "cells": [[number(name, value) for value in values[name]] for name in NAMES],
    }


def _curves(history: list[dict[str, Any]]) -> Iterator[Chart]:
    """Loss and its parts, then validation scores, if the run recorded them."""
    losses = series(history, lambda name: name == "loss" or name.startswith(("loss/", "loss_")))
    metrics = ("hits@1", "mrr", "det/mrr", "fused/mrr")
    watched = {f"{direction}/{name}" for direction in ("t2m", "m2t") for name in metrics}
    scores = series(history, lambda name: name.removeprefix("validation/") in watched)
    for title, points in (("loss by step", losses), ("validation scores by step", scores)):
        if points:
            yield line_chart(title, points)


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
    """The label below a bar, which is too narrow for two long numbers."""
    if low == high:
        return f"{low:,}"
    return f"{low:,}+" if low > 500 else f"{low}-{high}"


def rank_chart(name: str, ranking: Ranking) -> Chart:
    """Bars of how many queries fall into each range of ranks."""
    places, counts = zip(*rank_histogram(ranking), strict=True)
    size = f"{len(ranking.greater):,} queries, pool of {ranking.pool_size:,}, ties {TIES}"
    title = f"rank of the right candidate: {name}"
    return bar_chart(title, counts, size, places, [f"{count:,}" for count in counts])


def _diagnostics(record: dict[str, Any]) -> Iterator[Chart]:
    """OOD scores, reliability and similarities of one evaluated pool."""
    name, ood = record["protocol"], record["ood"]
    aurocs = [f"AUROC {v:.3f} against {other}" for other, v in ood["auroc"].items()]
    signal = f"1 - mean cosine to {signal_words(ood)}, chosen on {record['validation']}"
    title = f"OOD scores of text queries: {name}"
    yield outline_chart(title, ood["histogram"], "; ".join([signal, *aurocs]))
    for one in record["calibration"]:
        yield reliability_chart(one, name)
    kinds = "positive: a text and its molecule; negative: a text and any other molecule"
    yield outline_chart(
        f"cosines of positive and negative pairs: {name}", record["similarity"], kinds
    )


def _geometry(record: dict[str, Any]) -> str:
    name, shape = record["protocol"], record["geometry"]
    return (
        f"{name}: alignment {shape['alignment']:.3f} (mean squared distance of pairs), "
        f"uniformity of texts {shape['uniformity_text']:.3f}, of molecules "
        f"{shape['uniformity_mol']:.3f} (0 to -4, lower is more even), modality gap "
        f"{gap_words(shape)}."
    )


def reliability_chart(one: dict[str, Any], name: str) -> Chart:
    """Fraction of right first places by confidence; bars on the diagonal are calibrated."""
    counts, correct = (np.array(one["bins"][key]) for key in ("count", "correct"))
    used = np.flatnonzero(counts)
    width = 1 / len(counts)

    def paint(axes: Any) -> None:
        bars = axes.bar((used + 0.5) * width, correct[used], 0.9 * width, color=COLOURS[0])
        axes.bar_label(bars, [f"{count:,}" for count in counts[used]])
        axes.plot([0, 1], [0, 1], color=COLOURS[1], lw=1.6)
        axes.set(xlim=(0, 1), ylim=(0, 1.08), xlabel="confidence")

    caption = (
        "fraction of queries whose first candidate is right, by confidence, with their number; "
        f"line: perfect calibration. ECE {one['ece']:.3f} at T {one['temperature']:.4f} of "
        f"validation, {one['ece_before']:.3f} at T {one['temperature_before']:.4f} before"
    )
    return chart(f"reliability: {name}, {one['direction']}", paint, (), caption)


def _slots(record: dict[str, Any] | None, history: list[dict[str, Any]]) -> Iterator[Chart]:
    """How far each slot moved and how sharply it attends, dead ones marked; norms by step."""
    if record is None:
        return
    dead = record["dead"]
    named = f"dead slots: {', '.join(map(str, dead))}" if dead else "no dead slot"
    rule = "dead: moved at most 1 % of the median slot, and its attention is even within 1 %"
    values = {
        "distance that each slot moved in training": record["moved"],
        "norm of each slot": record["norm_end"],
        "sharpness of each slot's attention (0 even, 1 on one part)": record["sharpness"],
    }
    for i, (title, heights) in enumerate(values.items()):
        yield bar_chart(title, heights, "" if i else f"{named}; {rule}", marked=dead)
    if norms := series(history, lambda name: name.startswith("bank/norm_")):
        yield line_chart("norms of the slots by step", norms)


# Examples: hits drawn by the seed, and misses from near to far


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


def choose_examples(
    pool: Pool, text: Encoded, mol: Encoded, scores: list[Score], seed: int
) -> list[Example]:
    """A few hits drawn by the seed, and misses from near to far, in each direction."""
    sides = {
        "t2m": (text, mol, pool.text_target, pool.texts, pool.smiles),
        "m2t": (mol, text, pool.mol_target, pool.smiles, pool.texts),
    }
    examples = []
    for score in scores:
        shown = (score.protocol, score.scorer, score.right) == (pool.protocol, "model", PAIR)
        if not shown or score.stage not in ("", "det"):  # examples show cosines
            continue
        query, candidate, target, queries, contents = sides[score.direction]
        items = np.flatnonzero(target >= 0)
        ranks = per_query(score.ranking)["mr"]
        for i in _chosen(ranks, seed):
            row, right = query.rows[items[i]], int(target[items[i]])
            index, value = top(row[None], candidate.rows, SHOWN)
            best = zip(index[0], value[0], strict=True)
            first = tuple(Candidate(contents[j], float(v), j == right) for j, v in best)
            answer = Candidate(contents[right], float(row @ candidate.rows[right]), True)
            where = score.direction, score.protocol
            examples.append(Example(*where, queries[items[i]], answer, float(ranks[i]), first))
    return examples


def _chosen(ranks: np.ndarray, seed: int) -> list[int]:
    hits = np.flatnonzero(ranks == 1)
    drawn = np.random.default_rng(seed).choice(hits, min(EXAMPLES, len(hits)), replace=False)
    misses = np.argsort(ranks, kind="stable")[len(hits) :]
    places = np.linspace(0, len(misses) - 1, min(EXAMPLES, len(misses))).astype(int)
    return [int(i) for i in (*drawn, *misses[places])]


# One query of a second stage, step by step: what the ranks of the table are computed from


class Row(NamedTuple):
    """A candidate of a worked query."""

    rank: int
    right: bool
    smiles: str
    cells: tuple[str, ...]


class WorkedQuery(NamedTuple):
    text: str
    alpha: float
    rows: list[Row]
    listed: bool  # is the right molecule on the shortlist
    shortlist: int
    charts: list[Chart]


def worked_query(
    pool: Pool,
    text: Encoded,
    mol: Encoded,
    query: int,
    reranker: PoolReranker,
    alpha: float,
    words: list[str],
) -> WorkedQuery:
    """Text `query` of the pool, ranked against its molecules; `words` are its pieces."""
    assert text.side is not None and mol.side is not None, "encode with parts"
    first, place = np.unique(mol.group, return_index=True, return_inverse=True)[1:]
    candidates = take(mol.side, mol.group[first])
    reranked, states = reranker.worked(text.side, candidates, text.group[query])
    one = take(text.side, text.group[[query]])
    target = int(place[pool.text_target[query]])
    smiles = [pool.smiles[i] for i in first]
    head = reranked.item[0, : reranked.clean.shape[1]]
    order = np.argsort(-levels(reranked, "fused", alpha)[0], kind="stable")
    best = reranked.item[0, order[0]]
    similarity = (
        l2_normalize(one.token_embeddings)
        @ l2_normalize(take(candidates, np.array([best])).token_embeddings).T
    )
    rows = candidate_rows(reranked, alpha, target, smiles)
    listed = bool((reranked.item[0] == target).any())
    charts = [
        _heat_map(similarity, reranker.word_weights(one), words, smiles[best]),
        _states(states, head == target),
    ]
    return WorkedQuery(pool.texts[query], alpha, rows, listed, len(order), charts)


def candidate_rows(reranked: Reranked, alpha: float, target: int, smiles: list[str]) -> list[Row]:
    """The first candidates under `fused`, and the right one wherever it came, with the score of
    every part and the place that it gives."""
    every = np.argsort(-levels(reranked, "fused", alpha)[0], kind="stable")
    by_cosine = np.argsort(np.argsort(-reranked.first[0], kind="stable"))
    rows = []
    for rank, column in enumerate(every, 1):
        item = int(reranked.item[0, column])
        if rank > LISTED and item != target:
            continue
        parts = (values[0, column : column + 1] for values in (reranked.local, reranked.clean))
        cells = (
            f"{reranked.first[0, column]:.4f} ({by_cosine[column] + 1})",
            f"{reranked.perturbed[0, column]:.4f} ({column + 1})",
            *("".join(f"{value:.3f}" for value in part) for part in parts),  # of the head only
        )
        rows.append(Row(rank, item == target, smiles[item], cells))
    return rows


def _heat_map(similarity: np.ndarray, weight: np.ndarray, words: list[str], smiles: str) -> Chart:
    """Words by atoms; the words with the most weight, in the order of the sentence."""
    rows = np.sort(np.argsort(-weight, kind="stable")[:WORDS])
    shown = similarity[rows][:, :ATOMS]
    labels = [f"{words[i] if i < len(words) else ''} {100 * weight[i]:.0f}%" for i in rows]
    title = f"cosines of words (weight) and atoms of the best candidate, {smiles[:60]}"
    return cell_chart(title, shown, labels, "atoms, in the order of the featuriser")


def _states(states: np.ndarray, right: np.ndarray) -> Chart:
    """X0_hat of the candidates at every step of the sampler; the last step is the result."""
    order = np.argsort(-states[-1], kind="stable")[:LISTED]
    if right.any() and not right[order].any():
        order = np.append(order[:-1], np.flatnonzero(right)[0])
    labels = [f"{i + 1}{' ✓' if right[i] else ''}" for i in order]
    title = "the denoiser's estimate of each candidate, step by step (rows: places by s1)"
    return cell_chart(title, states[:, order].T, labels, "steps, from noise to the answer")


# Charts as inline SVG, drawn by matplotlib. Strings from data belong into titles, legends and
# captions, which the template escapes; `axes` text is never parsed as mathematics.


class Chart(NamedTuple):
    """A figure of the page."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]  # (CSS colour, label)
    caption: str


def chart(
    title: str,
    paint: Callable[[Axes], None],
    names: Sequence[str] = (),
    caption: str = "",
    height: float = HEIGHT,
    left: float = LEFT,
) -> Chart:
    """What `paint` draws on the axes; `names` are the labels of COLOURS in the legend."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Ids in the SVG are hashes: the same for the same chart, others for another one of the page.
    salted = SETTINGS | {"svg.hashsalt": f"{title} {caption}"}
    with rc_context(salted):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        size = (WIDTH - left - EDGE) / WIDTH, (height - BOTTOM - EDGE) / height
        axes = figure.add_axes((left / WIDTH, BOTTOM / height, *size))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: short(value))
        paint(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    svg = EXTRA.sub("", file.getvalue()[file.getvalue().index("<svg") :])
    for colour, name in CSS.items():
        svg = svg.replace(colour, f"var(--{name})")
    legend = [(f"var(--{CSS[c]})", name) for c, name in zip(COLOURS, names, strict=False)]
    return Chart(title, Markup(svg), legend, caption)


def short(value: float) -> str:
    """A number short enough for an axis label."""
    if 1000 <= abs(value) < 100_000:
        return f"{value:.0f}"  # neighbouring steps stay apart
    plain = f"{value:.3g}"
    return plain if len(plain) < 8 and "e" not in plain else f"{value:.0e}"


def line_chart(title: str, curves: dict[str, list[tuple[float, float]]]) -> Chart:
    """Curves of (step, value), at most as many as there are colours."""
    shown = dict(list(curves.items())[: len(COLOURS)])

    def paint(axes: Axes) -> None:
        for colour, points in zip(COLOURS, shown.values(), strict=False):
            dot = "o" if len(points) == 1 else ""  # a line of one point cannot be seen
            axes.plot(*np.transpose(smoothed(points)), marker=dot, color=colour, lw=1.6, ms=5)

    return chart(title, paint, [f"{n} ({points[-1][1]:.3g})" for n, points in shown.items()])


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of as many neighbours: single steps are noise."""
    block = -(-len(points) // POINTS)
    return [tuple(np.mean(points[i : i + block], 0)) for i in range(0, len(points), block)]


def outline_chart(
    title: str,
    histogram: dict[str, Any],
    caption: str,
    names: Sequence[str] = (),
    dashes: Sequence[Any] = ("-",),
) -> Chart:
    """Histograms over the same `edges`, each as fractions of its own count.

    As many as there are `dashes` share a colour, and one of `names` (default: their own).
    """
    counts = histogram["counts"]
    shares = [np.array(count) / max(sum(count), 1) for count in counts.values()]
    used = np.flatnonzero(sum(shares))
    first, end = used[0], used[-1] + 1
    edges = histogram["edges"][first : end + 1]

    def paint(axes: Axes) -> None:
        for i, share in enumerate(shares):
            colour, dash = COLOURS[i // len(dashes) % len(COLOURS)], dashes[i % len(dashes)]
            axes.stairs(share[first:end], edges, baseline=None, color=colour, ls=dash, lw=1.6)

    names = names or [f"{name} ({sum(count):,})" for name, count in counts.items()]
    return chart(title, paint, names, caption)


def bar_chart(
    title: str,
    heights: Sequence[float],
    caption: str,
    places: Sequence[str] = (),
    labels: Sequence[str] = (),
    marked: Sequence[int] = (),
) -> Chart:
    """Bars with names below (`places`) and labels above; `marked` ones in the second colour.

    Bars without labels get an axis of values.
    """

    def paint(axes: Axes) -> None:
        colours = [COLOURS[i in marked] for i in range(len(heights))]
        bars = axes.bar(range(len(heights)), heights, 0.9, color=colours)
        if labels:
            axes.bar_label(bars, labels)
            axes.yaxis.set_visible(False)
            axes.spines.left.set_visible(False)
        if places:
            axes.set_xticks(range(len(heights)), places)

    return chart(title, paint, (), caption)


def cell_chart(title: str, values: np.ndarray, labels: Sequence[str], below: str) -> Chart:
    """A picture of cells, from transparent at the lowest value to blue at the highest."""
    low, high = float(values.min()), float(values.max())
    height = BOTTOM + EDGE + CELL * len(values)

    def paint(axes: Axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("cells", [COLOURS[0] + "00", COLOURS[0]])
        axes.pcolormesh(values, cmap=colours, edgecolors="none")
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(values)) + 0.5, labels)
        axes.set_xticks([])
        axes.set_xlabel(f"{below}; {low:.3f} to {high:.3f}")

    return chart(title, paint, height=height, left=120)
