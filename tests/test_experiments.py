"""Every experiment loads, says what it is, builds, and takes a step when shrunk."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tyro

from tmr_jax.config import Experiment, from_json, load_experiment, to_json
from tmr_jax.data.pools import POOLS
from tmr_jax.eval.evaluate import default_protocols
from tmr_jax.eval.leakage import own_test
from tmr_jax.eval.protocols import find
from tmr_jax.models.run import init_params
from tmr_jax.table.plan import PUBLISHED, load_table
from tmr_jax.train.__main__ import parse

FILES = sorted(
    p for p in (Path(__file__).parent.parent / "experiments").glob("*.py") if p.stem != "__init__"
)
LOADED = {
    path.stem: load_table(path.stem)
    for path in sorted((FILES[0].parent / "tables").glob("*.py"))
    if path.stem not in ("__init__", PUBLISHED)
}
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
    assert measured and {find(name, own).source for name in measured} <= set(POOLS)
    assert config.features.max_tokens <= max(config.train.text_buckets)


def shrunk(config: Experiment) -> Experiment:
    """Its own features, kinds of encoder and optimiser, on tiny data and a tiny text encoder."""
    text = dataclasses.replace(config.model.text, source=TINY.model.text.source, init="random")
    graph = dataclasses.replace(config.model.graph, width=16, layers=1)
    hdan = dataclasses.replace(config.model.hdan, steps=4)  # noise levels
    return dataclasses.replace(
        config,
        data=TINY.data,
        features=dataclasses.replace(config.features, max_tokens=TINY.features.max_tokens),
        model=dataclasses.replace(config.model, dim=16, text=text, graph=graph, hdan=hdan),
        train=dataclasses.replace(
            config.train, batch_size=8, epochs=1, text_buckets=TINY.train.text_buckets
        ),
    )


def tiny_assembly(config: Experiment) -> tuple[Any, Any]:
    """TrainedModel and first batch."""
    from tmr_jax.data import load_pairs
    from tmr_jax.data.batching import make_batch
    from tmr_jax.train.dataset import model_and_dataset

    assembly, data, _ = model_and_dataset(config, load_pairs(config.data))
    rows, groups = np.arange(config.train.batch_size), (data.text_group, data.mol_group)
    pad = assembly.tokenizer.pad_token
    return assembly, make_batch(rows, data.text, data.mol, *groups, data.shapes, pad)


@pytest.mark.slow("_open", "_chebi", "_pcdes", "smoke_")  # make table NAME=smoke trains those
@pytest.mark.costly
@each
def test_takes_one_step(path: Path) -> None:
    take_one_step(load_experiment(path.stem))


def take_one_step(config: Experiment) -> None:
    """Not compiled: single operations are compiled once for all files, a step for each of them."""
    from tmr_jax.models.checkpoint import STATISTICS, new_state, without
    from tmr_jax.train.optim import build_adversary, build_optimizer
    from tmr_jax.train.step import train_step

    config = shrunk(config)
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
        optimizer = build_optimizer(config.optim, 100, trained, assembly.model.groups)
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
    build_in_full_size(load_experiment(path.stem))


def build_in_full_size(config: Experiment) -> None:
    """Shapes only, of parameters and loss: nothing is computed, and no weights are needed."""
    from tmr_jax.data.features.graph import EDGE_SIZES, NODE_SIZES
    from tmr_jax.models.layers.bert import BertConfig
    from tmr_jax.models.run import build_model

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

Args = tuple[str, ...]
PLANNED = json.loads((Path(__file__).parent / "experiments" / "table_rows.json").read_text("utf-8"))
RUNS = {  # every run of every table, by its arguments: a name for the test
    args: f"{name}, {row.label}"
    for name, table in LOADED.items()
    for row in table.rows
    if row.experiment and row.train_args
    for args in [("--exp", row.experiment, *row.train_args)]
}


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by the path of each field; of paths, what follows the repository's."""
    leaves: dict[str, Any] = {}
    for key, value in fields.items():
        leaves |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    root = f"{Path(__file__).parents[1]}/"
    return {k: v.removeprefix(root) if isinstance(v, str) else v for k, v in leaves.items()}


def settings(config: Experiment) -> dict[str, Any]:
    return flat(json.loads(to_json(config)))


@pytest.mark.parametrize("name", PLANNED["tables"])
def test_a_table_plans_the_same_runs_with_the_same_settings(name: str) -> None:
    """As it did when each variant was a file: table_rows.json holds what differs from the defaults
    of config.py, by experiment, and from the experiment, by row."""
    table, planned = LOADED[name], PLANNED["tables"][name]
    assert list(table.seeds) == planned["seeds"]
    rows = {row.label: row for row in table.rows if row.experiment}
    assert rows.keys() == planned["rows"].keys()
    for label, row in rows.items():
        expected = planned["rows"][label]
        assert (row.experiment, row.run_name) == (expected["experiment"], expected["run"])
        assert (row.protocol, row.tier) == (expected["protocol"], expected.get("tier", ""))
        assert list(row.eval_overrides) == expected.get("eval", [])
        base = settings(Experiment()) | PLANNED["experiments"][row.experiment]
        config = parse(["--exp", row.experiment, *row.train_args]).config
        assert settings(config) == base | expected.get("changes", {}), label


@pytest.mark.slow
@pytest.mark.parametrize("args", RUNS, ids=RUNS.get)
def test_a_row_takes_one_step(args: Args) -> None:
    take_one_step(parse(list(args)).config)


@pytest.mark.parametrize("args", RUNS, ids=RUNS.get)
def test_a_row_builds_in_full_size(args: Args) -> None:
    config = parse(list(args)).config
    assert from_json(to_json(config)) == config
    build_in_full_size(config)


@pytest.mark.parametrize("name", LOADED)
def test_a_table_asks_for_what_there_is(name: str) -> None:
    """Its arguments of evaluation and its pools exist; nothing is run."""
    from tmr_jax.eval.__main__ import Arguments as Evaluation

    table = LOADED[name]
    assert len(table.seeds) >= 3
    for row in (row for row in table.rows if row.experiment):
        config = parse(["--exp", row.experiment, *row.train_args]).config
        default = Evaluation(Path("run"), data=config.data, refine=config.eval.refine)
        evaluation = tyro.cli(Evaluation, args=list(row.eval_overrides), default=default)
        assert row.protocol in (evaluation.protocol or default_protocols(config))
        assert find(row.protocol, "").name == row.protocol
        tiers = {"difftmr": ("tapr", "fused", "x0")}.get(config.model.name, ())
        tiers += ("facts",) * config.train.facts
        assert not row.tier or row.tier in (tiers and ("det", *tiers))


def test_runs_of_one_name_have_one_configuration() -> None:
    """Tables may share a folder of runs."""
    args: dict[str, tuple[str, Args]] = {}
    for row in (row for table in LOADED.values() for row in table.rows if row.experiment):
        same = args.setdefault(row.run_name, (row.experiment, row.train_args))
        assert same == (row.experiment, row.train_args), row.label


def test_every_experiment_is_a_row_of_a_table() -> None:
    """Or what the rows of one start with."""
    rows = {row.experiment for table in LOADED.values() for row in table.rows} - {""}
    starts = {load_experiment(name).train.start for name in rows}
    assert "ablation_start_open" in starts
    assert {path.stem for path in FILES} - rows - starts == {"quickstart", "weights"}


OURS = {
    "ablation_open": {
        "the triplet is better than InfoNCE",
        "statistics of each modality help",
        "second-order losses help a dual encoder",
        "second-order losses help DiffTMR",
    },
    "bank": {"the triplet is better than InfoNCE"},
    "best_open": {"facts help"},
}


@pytest.mark.parametrize("name", LOADED)
def test_papers_are_credited_with_their_own_claims(name: str) -> None:
    ours = {claim.text for claim in LOADED[name].claims if claim.source == "ours"}
    assert ours == OURS.get(name, set())


@pytest.mark.parametrize(
    ("name", "text", "override", "tier"),
    [
        ("ablation_open", "the triplet helps", ("--model.bank.first-order", "none"), ""),
        ("bank", "the triplet helps", ("--model.bank.first-order", "none"), ""),
        ("ablation_open", "the generator helps", ("--model.hdan.weight", "0"), "tapr"),
    ],
)
def test_what_helps_is_compared_with_its_absence(
    name: str, text: str, override: Args, tier: str
) -> None:
    claim = next(c for c in LOADED[name].claims if c.text == text)
    without = next(r for r in LOADED[name].rows if r.label == claim.worse)
    assert (without.overrides, without.tier) == (override, tier)


def test_one_run_of_difftmr_is_shown_at_each_of_its_stages() -> None:
    rows = LOADED["ablation_open"].rows
    tiers = {r.label: r.tier for r in rows if r.run_name == "ablation_difftmr_open"}
    assert tiers == {
        "difftmr": "",
        "difftmr, before the generator": "tapr",
        "difftmr, first stage alone": "det",
    }


def test_labels_of_open_pairs_state_the_budget() -> None:
    for row in LOADED["open"].rows:
        train = load_experiment(row.experiment).train
        assert f"({train.epochs} epochs" in row.label
        assert train.start or train.texts in row.label
        assert ("one encoder for all seeds" in row.label) == bool(train.start)
