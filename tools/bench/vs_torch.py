"""The training step and text encoding against PyTorch, side by side:

    python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0 transformers numpy
    python -m tools.bench.vs_torch --torch-python torchenv/bin/python

Both programs have the same weights (MiniLM), texts and molecules (ChEBI-20's test pairs), model
(DiffTMR's whole loss, dropout on) and batch size, 32. First loss and gradient norm of one batch
with the same noise must agree. Then the programs take turns; a matrix product of fixed size is
timed before and after each turn. The recipe is the published one: float32, random batches, every
text padded to 256 tokens.

Each ratio compares two turns of one round, so that a slow phase of the machine affects both.
Medians are printed, of rates with the range, of ratios with the lower and upper quartile.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from tmr_jax.config import Experiment, load_experiment
from tmr_jax.data.batching import Composition
from tmr_jax.data.datasets import chebi20
from tmr_jax.data.files import CACHE_FROM, cache_folder
from tmr_jax.data.tables import text_take
from tmr_jax.models.checkpoint import layerwise, new_state, variables
from tmr_jax.models.encode import Encoder
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.pretrained import layout
from tmr_jax.models.run import init_params, with_config
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tmr_jax.train.dataset import TrainingSet, model_and_dataset
from tmr_jax.train.loader import build_loader
from tmr_jax.train.optim import build_optimizer
from tmr_jax.types import Pair
from tools.bench.common import altered, fastest

ENCODE_BATCH = 32  # of every contestant
FORMS = {  # how texts are batched, and the precision of the products
    "tmr_jax, buckets": ("buckets", "bfloat16"),
    "tmr_jax, packed": ("packed", "bfloat16"),
    "tmr_jax, packed, float32": ("packed", "float32"),
}
RECIPE = "recipe"
RIVALS = (RECIPE, "float32, sorted", "bfloat16, sorted", "bfloat16, sorted, compiled")
SQUARE = 2_048  # side of the matrices of the fixed product
TOLERANCE = 1e-3  # relative, of loss and gradients in float32
Ask = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Arguments:
    torch_python: Path
    """Python of an environment with torch and transformers."""
    rounds: int = 5
    """Turns of each contestant."""
    steps: int = 48
    """In a turn of training; the recipe, whose steps are all alike, does a quarter."""
    texts: int = 3200
    """Half of them are a turn of encoding; for the recipe an eighth."""
    contestants: tuple[str, ...] = (*RIVALS, *FORMS)
    """Which forms of the step take part."""


class Turn(NamedTuple):
    rate: float  # pairs or texts a second
    gflops: float  # of the fixed product before and after, mean


# Ours


def experiment(texts: str, precision: str = "bfloat16") -> Experiment:
    """The published row, but MiniLM in place of SciBERT, whose weights no package ships, and one
    noise level at random in a step, as the rival has it."""
    changes = {
        "model.text.source": "minilm",
        "model.hdan.objective": "random_step",
        "train.texts": texts,
        "train.precision": precision,
        "eval.batch_size": ENCODE_BATCH,
    }
    return altered(load_experiment("difftmr_chebi"), changes)


class Contestant:
    """One way to carry the step out, with everything compiled that it needs."""

    def __init__(self, name: str, pairs: list[Pair]) -> None:
        config = experiment(*FORMS[name])
        self.assembly, self.data, weights = model_and_dataset(config, pairs)
        self.plan = self.data.composition.epoch(0, 0)
        pad = self.assembly.tokenizer.pad_token
        first = self.data.batch(self.plan[0], pad)
        self.params = jax.device_get(init_params(self.assembly, first, 0, weights))
        model = self.assembly.model
        self.optimizer = build_optimizer(config.optim, 10_000, self.params, model.groups)
        self.feed = build_loader(self.data, model, self.optimizer, frozenset(), None, pad)
        self.encoder = Encoder(self.assembly, self.params)
        self.compiled = False

    def take(self) -> dict[str, Any]:
        """Resets the state; the first time, compiles every shape of the plan."""
        seconds, pad = 0.0, self.assembly.tokenizer.pad_token
        self._reset()
        if not self.compiled:
            batches = ((rows, self.data.batch(rows, pad)) for rows in self.plan)
            start = time.perf_counter()
            shapes = {str(jax.tree.map(np.shape, batch)): rows for rows, batch in batches}
            for rows in shapes.values():
                self._step(rows)
            seconds, self.compiled = time.perf_counter() - start, True
            self._reset()
        return {"compile_seconds": seconds}

    def _reset(self) -> None:
        params = jax.tree.map(jax.numpy.asarray, self.params)
        self.state = new_state(params, self.optimizer)

    def _step(self, rows: np.ndarray) -> float:
        answer = self.feed(self.state, rows[None], jax.random.key(0))
        self.state = answer.state
        return float(jax.device_get(answer.metrics["loss"])[-1])

    def train(self, first: int, count: int) -> dict[str, Any]:
        rows = [self.plan[i % len(self.plan)] for i in range(first, first + count)]
        start = time.perf_counter()
        losses = [self._step(r) for r in rows]
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "pairs": count * self.plan.shape[1], "loss": losses[-1]}

    def encode(self, texts: int) -> dict[str, Any]:
        table = text_take(self.data.text, np.arange(texts))
        start = time.perf_counter()
        self.encoder.text_rows(table)
        return {"seconds": time.perf_counter() - start, "texts": texts}


def checked(one: Contestant) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Loss and norm of the gradients of a batch in float32 without dropout; the batch and the noise
    that the model drew, for the rival to use."""
    config = one.assembly.config
    rows = np.random.default_rng(0).permutation(len(one.data.ids))[: config.train.batch_size]
    plain = altered(config, {"train.precision": "float32", "train.backward": "autodiff"})
    model = with_config(one.assembly, plain, one.assembly.weights).model
    batch = one.data.batch(rows, one.assembly.tokenizer.pad_token)
    key = jax.random.key(1)

    def loss(params: Any) -> Any:
        return model.apply(variables(params), batch, key, False, method="loss")[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(one.params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradients)))
    # As DiffTMR.loss and objective draw it.
    count, most = len(rows), config.model.hdan.steps
    for_noise, *sides = jax.random.split(key, 3)
    drawn = {
        "check_rows": rows,
        "check_eps": jax.random.normal(for_noise, (count, config.model.dim)),
    }
    for i, side in enumerate(sides):
        split = jax.vmap(jax.random.split)(jax.random.split(side, count))
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 1, most + 1))
        drawn[f"check_k{i}"] = draw(split[:, 0])
        drawn[f"check_x{i}"] = jax.vmap(lambda key: jax.random.normal(key, (count,)))(split[:, 1])
    return {"loss": float(value), "gradient": norm}, jax.device_get(drawn)


# PyTorch's


class Program:
    """tools/bench/torch_worker.py, which reads its inputs from a folder and answers commands."""

    def __init__(self, python: Path, folder: Path) -> None:
        command = [str(python), "-m", "tools.bench.torch_worker", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a worker ended with status {self._process.wait()}; see above")

    def close(self) -> None:
        self._process.terminate()


def write_work(
    folder: Path,
    data: TrainingSet,
    params: Any,
    config: Experiment,
    bert: BertConfig,
    pad: int,
    known: dict[str, np.ndarray],
) -> None:
    """The same texts, molecules, weights and sizes for PyTorch; `known` arrays go with them."""
    size = config.train.batch_size
    steps = len(data.ids) // size
    shuffled = np.random.default_rng(0).permutation(len(data.ids))[: steps * size]
    lengths = np.diff(data.text.offsets)
    by_length = Composition(lengths, size, 0, config.train.pool_batches).epoch(0, 0)
    arrays = {
        "tokens": data.text.tokens,
        "text_offsets": data.text.offsets,
        "nodes": data.mol.nodes[:, 0],
        "senders": data.mol.senders,
        "receivers": data.mol.receivers,
        "node_offsets": data.mol.node_offsets,
        "edge_offsets": data.mol.edge_offsets,
        "text_group": data.text_group,
        "mol_group": data.mol_group,
        "random_plan": shuffled.reshape(steps, -1),
        "sorted_plan": by_length,
        "buckets": np.array(config.train.text_buckets),
        "encode_batch": np.array(config.eval.batch_size),
        "pad": np.array(pad),
        **known,
    }
    np.savez(folder / "work.npz", **arrays)
    flat = jax.tree_util.tree_leaves_with_path(layerwise(params))  # as PyTorch has BERT's layers
    names = ("/".join(str(key.key) for key in path) for path, _ in flat)
    np.savez(folder / "params.npz", **dict(zip(names, (leaf for _, leaf in flat), strict=True)))
    meta = {
        "bert": asdict(bert),
        "bert_names": {
            f"bert.{name}": "/".join(("text_encoder", *slot.path))
            for name, slot in layout(bert).items()
        },
        "dropout": config.model.text.dropout,
        "dim": config.model.dim,
        "width": config.model.graph.width,
        "atoms": len(params["graph_encoder"]["atoms"]["embedding"]),
        "steps": config.model.hdan.steps,
        "gamma": config.model.hdan.gamma,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
    }
    (folder / "meta.json").write_text(json.dumps(meta))


# In turns


def gflops() -> float:
    """Of a float32 product of two squares, best of three."""
    a = np.random.default_rng(0).random((SQUARE, SQUARE), np.float32)
    return 2 * SQUARE**3 / fastest(lambda: np.matmul(a, a)) / 1e9


def turn(ask: Ask, unit: str, **command: Any) -> Turn:
    before = gflops()
    found = ask(**command)
    return Turn(found[unit] / found["seconds"], (before + gflops()) / 2)


def agree(ours: dict[str, float], theirs: dict[str, float]) -> None:
    for what, value in ours.items():
        print(f"{what} of one batch: tmr_jax {value:.6f}, PyTorch {theirs[what]:.6f}", flush=True)
        if not math.isclose(value, theirs[what], rel_tol=TOLERANCE):
            raise SystemExit(f"expected the same {what}; the two programs do different work")


def table(turns: dict[str, list[Turn]], unit: str) -> None:
    """Medians of each contestant, and the ratio of our rates to them."""
    mine = [name for name in FORMS if name in turns]
    against = "".join(f" {name} : this |" for name in mine)
    print(f"| {unit} | {unit} a second, median (range) | fixed product, GFLOP/s |{against}")
    print("|---" * (3 + len(mine)) + "|")
    for name, found in turns.items():
        rates = [t.rate for t in found]
        speed = statistics.median(t.gflops for t in found)
        cells = [f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"]
        cells.append(f"{speed:.0f}")
        for other in mine:
            ratios = [a.rate / b.rate for a, b in zip(turns[other], found, strict=True)]
            low, median, high = np.percentile(ratios, (25, 50, 75))
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)


def main(arguments: Arguments) -> None:
    keep_freed_memory()
    use_compile_cache(cache_folder())
    pairs = [p._replace(split="train") for p in chebi20.load_split("molt5", "test")]
    assert len(pairs) >= CACHE_FROM, "a pool of this size is featurised once"
    contestant = cache(lambda name: Contestant(name, pairs))

    def ours(do: str, name: str, **command: Any) -> dict[str, Any]:
        return getattr(contestant(name), do)(**command)

    with tempfile.TemporaryDirectory() as folder:
        found, known = checked(first := contestant("tmr_jax, buckets"))
        a = first.assembly
        pad = a.tokenizer.pad_token
        write_work(Path(folder), first.data, first.params, a.config, a.bert, pad, known)
        rival = Program(arguments.torch_python, Path(folder))
        print(
            f"jax {jax.__version__} on {jax.default_backend()}, "
            f"torch {rival.hello['torch']}, {rival.hello['threads']} threads"
        )
        agree(found, rival.ask(do="check"))
        training: dict[str, list[Turn]] = {name: [] for name in arguments.contestants}
        encoding: dict[str, list[Turn]] = {name: [] for name in arguments.contestants}
        for number in range(arguments.rounds + 1):  # the first one is to warm up
            for name in arguments.contestants:
                ask = ours if name in FORMS else rival.ask
                one, other = turns(arguments, number, name, ask)
                if number:
                    training[name].append(one)
                    encoding[name].append(other)
        print()
        table(training, "pairs")
        table(encoding, "texts")
        rival.close()


def turns(arguments: Arguments, number: int, name: str, ask: Ask) -> tuple[Turn, Turn]:
    """Of one contestant in one round: training and encoding."""
    taken = ask(do="take", name=name)
    if number == 0 and "compile_seconds" in taken:
        print(f"{name}: all shapes compiled in {taken['compile_seconds']:.0f} s")
    part = 4 if name == RECIPE else 1
    steps, texts = arguments.steps // part, arguments.texts // (2 * part)
    one = turn(ask, "pairs", do="train", name=name, first=number * steps, count=steps)
    other = turn(ask, "texts", do="encode", name=name, texts=texts)
    print(
        f"round {number}, {name}: {one.rate:.1f} pairs/s, {other.rate:.1f} texts/s, "
        f"fixed product {one.gflops:.0f} and {other.gflops:.0f} GFLOP/s",
        flush=True,
    )
    return one, other


if __name__ == "__main__":
    main(tyro.cli(Arguments))
