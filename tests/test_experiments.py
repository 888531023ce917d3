"""Every experiment loads, says what it is, builds, and takes a step when shrunk."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tyro

from tmr_jax.config import Experiment, from_json, load_experiment, to_json
from tmr_jax.data.pools import PROTOCOLS
from tmr_jax.eval.evaluate import default_protocols
from tmr_jax.eval.leakage import own_test
from tmr_jax.eval.protocols import find
from tmr_jax.models.run import init_params
from tmr_jax.table.__main__ import run_of
from tmr_jax.table.plan import PUBLISHED, load_table

FILES = sorted(
    p for p in (Path(__file__).parent.parent / "experiments").glob("*.py") if p.stem != "__init__"
)
TABLES = sorted(
    p for p in (FILES[0].parent / "tables").glob("*.py") if p.stem not in ("__init__", PUBLISHED)
)
LINES = ("Paper:", "Run:", "Hardware:", "Result:", "Differs:")
TINY = load_experiment(str(Path(__file__).parent / "experiments" / "tiny.py"))

BATCHES: dict[tuple, Any] = {}

each = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


@each
def test_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    said = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    starts = [line.split(" ")[0] for line in said[2:] if line.split(" ")[0] in LINES]
    assert starts == list(LINES), "after a title and an empty line: the five lines, in order"
    run = next(line for line in said if line.startswith("Run:"))
    assert f"EXP={path.stem}" in run


@each
def test_is_the_same_after_json_and_names_pools_that_exist(path: Path) -> None:
    config = load_experiment(path.stem)
    assert from_json(to_json(config)) == config
    measured = default_protocols(config)  # those it names, or its own data set's test pool
    own = own_test(config.data, config.data)
    assert measured and {find(name, own).source for name in measured} <= set(PROTOCOLS)
    assert config.features.max_tokens <= max(config.train.text_buckets)


def shrunk(config: Experiment) -> Experiment:
    """Its own features, kinds of encoder and optimiser, on tiny data and a tiny text encoder."""
    text = dataclasses.replace(
        config.model.text, source=TINY.model.text.source, init="random", revision=""
    )
    graph = dataclasses.replace(config.model.graph, width=16, layers=1)
    return dataclasses.replace(
        config,
        data=TINY.data,
        features=dataclasses.replace(config.features, max_tokens=TINY.features.max_tokens),
        model=dataclasses.replace(config.model, dim=16, text=text, graph=graph),
        train=dataclasses.replace(
            config.train, batch_size=8, epochs=1, text_buckets=TINY.train.text_buckets
        ),
    )


def tiny_assembly(config: Experiment) -> tuple[Any, Any]:
    """Assembly and first batch."""
    from tmr_jax.data import load_pairs
    from tmr_jax.data.batching import make_batch
    from tmr_jax.models.run import assemble_for_training

    assembly, data, _ = assemble_for_training(config, load_pairs(config.data))
    rows, groups = np.arange(config.train.batch_size), (data.text_group, data.mol_group)
    pad = assembly.tokenizer.pad_token
    return assembly, make_batch(rows, data.text, data.mol, *groups, data.shapes, pad)


@each
def test_takes_one_step(path: Path) -> None:
    """Not compiled: single operations are compiled once for all files, a step for each of them."""
    from tmr_jax.models.state import STATISTICS, new_state, without
    from tmr_jax.train.optim import build_adversary, build_optimizer
    from tmr_jax.train.step import train_step

    config = shrunk(load_experiment(path.stem))
    assembly, batch = tiny_assembly(config)
    with jax.disable_jit():
        params = init_params(assembly, batch, config.train.seed)
        rivals = assembly.model.adversary
        freezes = config.train.freeze == "text"
        frozen = frozenset({"text_encoder"} if freezes else ())
        if freezes:  # states in the place of ids, zeros where there is no token
            mask = np.asarray(batch.text.mask)
            states = np.random.default_rng(0).normal(size=(*mask.shape, assembly.bert.hidden))
            states = np.float32(states * mask[..., None])
            batch = batch._replace(text=batch.text._replace(tokens=states))
        trained = without(params, frozen | rivals | {STATISTICS})
        optimizer = build_optimizer(config.optim, 100, trained)
        adversary = build_adversary(config.optim) if rivals else None
        step = train_step(assembly.model, optimizer, frozen, adversary)
        state = new_state(params, optimizer, frozen, adversary, rivals)
        state, metrics = step(state, batch, jax.random.key(0))
    assert np.isfinite(float(metrics["loss"])) and int(metrics["skipped"]) == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, state.params)
    assert any(jax.tree.leaves(moved["text_encoder"])) != freezes
    assert any(jax.tree.leaves(moved["graph_encoder"]))


def batch_of(config: Experiment) -> Any:
    """A batch of the experiment's own features, made once for all that have the same."""
    features = dataclasses.astuple(config.features)
    if features not in BATCHES:
        BATCHES[features] = tiny_assembly(config)[1]
    return BATCHES[features]


@each
def test_builds_in_full_size(path: Path) -> None:
    """Shapes only, of parameters and loss: nothing is computed, and no weights are needed."""
    from tmr_jax.data.features.atoms import EDGE_SIZES, NODE_SIZES
    from tmr_jax.models.build import build_model
    from tmr_jax.models.layers.bert import BertConfig

    config = load_experiment(path.stem)
    batch = batch_of(shrunk(config))
    hidden = 384 if config.model.text.source == "minilm" else 768
    bert = BertConfig(vocab_size=31_090, hidden=hidden, layers=2, heads=12, intermediate=4 * hidden)
    morgan = config.features.molecule == "morgan1"
    sizes = ((1000,), ()) if morgan else (NODE_SIZES, EDGE_SIZES)
    model = build_model(config.model, config.features, config.train, bert, *sizes)

    def build(key: Any) -> Any:
        """Parameters and loss in one: the loss touches all of them."""
        keys = {"params": key, "dropout": key}
        return model.init_with_output(keys, batch, key, True, method="loss")

    (value, parts), shapes = jax.eval_shape(build, jax.random.key(0))
    assert value.shape == () and parts["loss"].shape == ()
    projection = shapes["params"]["text_projection"]["kernel"]
    assert projection.shape == (hidden, config.model.dim)


# Tables


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_table_asks_for_what_there_is(path: Path) -> None:
    """Its experiments, words of training and of evaluation, and pools all exist; nothing is run."""
    from tmr_jax.eval.__main__ import Arguments as Evaluation
    from tmr_jax.table.__main__ import jobs
    from tmr_jax.train.__main__ import parse

    table = load_table(path.stem)
    assert len(table.seeds) >= 3
    configs = {
        job.run: parse(["--exp", job.experiment, *job.overrides]).config
        for job in jobs(table, Path("runs"))
        if job.seed == table.seeds[0]
    }
    for row in (row for row in table.rows if row.experiment):
        config = configs[run_of(row, table.seeds[0], Path("runs"))]
        default = Evaluation(Path("run"), data=config.data, refine=config.eval.refine)
        told = tyro.cli(Evaluation, args=list(row.eval_overrides), default=default)
        ranked = told.protocol or default_protocols(config)
        assert row.protocol in ranked
        assert find(row.protocol, "").name == row.protocol
        assert not row.tier or config.model.name == "difftmr"


def test_every_row_file_is_a_line_of_a_table() -> None:
    """Or what the rows of one start with."""
    asked = {row.experiment for path in TABLES for row in load_table(path.stem).rows} - {""}
    starts = {load_experiment(name).train.start for name in asked}
    assert "ablation_start_open" in starts
    files = {path.stem for path in FILES}
    assert files - asked - starts == {"quickstart"}  # of the first README lines


OURS = {
    "ablation_open": {
        "the triplet is better than InfoNCE",
        "statistics of each modality help",
        "second-order losses help a dual encoder",
        "second-order losses help DiffTMR",
    },
    "bank": {"the triplet is better than InfoNCE"},
}


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_papers_are_credited_with_what_they_say(path: Path) -> None:
    said = {claim.text for claim in load_table(path.stem).claims if claim.source == "ours"}
    assert said == OURS.get(path.stem, set())


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("ablation_open", "the triplet helps", ("ablation_mbank_no_triplet_open", "")),
        ("bank", "the triplet helps", ("mbank_chebi_no_triplet", "")),
        ("ablation_open", "the generator helps", ("ablation_difftmr_no_generator_open", "tapr")),
    ],
)
def test_what_helps_was_trained_without(name: str, text: str, changed: tuple[str, str]) -> None:
    table = load_table(name)
    claim = next(c for c in table.claims if c.text == text)
    without = next(r for r in table.rows if r.label == claim.worse)
    assert (without.experiment, without.tier) == changed


def test_one_run_of_difftmr_is_shown_at_each_of_its_stages() -> None:
    rows = load_table("ablation_open").rows
    tiers = {r.label: r.tier for r in rows if r.experiment == "ablation_difftmr_open"}
    assert tiers == {
        "difftmr": "",
        "difftmr, before the generator": "tapr",
        "difftmr, first stage alone": "det",
    }


def test_labels_of_open_pairs_say_the_budget() -> None:
    for row in load_table("open").rows:
        told = load_experiment(row.experiment).train
        assert f"({told.epochs} epochs" in row.label
        assert told.start or told.texts in row.label
        assert ("one encoder for all seeds" in row.label) == bool(told.start)
