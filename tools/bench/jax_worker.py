"""The project's training step and text encoding, timed for tools/bench/vs_torch.py.

Reads a JSON command per line of standard input and prints a JSON answer. At the start it writes the
inputs of the PyTorch worker into the folder: work.npz, params.npz and meta.json.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tmr_jax.config import DataConfig, Experiment, load_experiment
from tmr_jax.data.batching import Composition
from tmr_jax.data.files import CACHE_FROM, cache_folder
from tmr_jax.data.pools import load_pool
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
from tools.bench.common import altered

POOL = "chebi20-molt5/test-split"
ENCODE_BATCH = 32  # of every contestant
FORMS = {  # how texts are batched, and the precision of the products
    "tmr_jax, buckets": ("buckets", "bfloat16"),
    "tmr_jax, packed": ("packed", "bfloat16"),
    "tmr_jax, packed, float32": ("packed", "float32"),
}


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


def pairs_of_pool() -> list[Pair]:
    pool = load_pool(POOL, DataConfig(name="chebi20", version="molt5"))
    asked = [(i, j) for i, j in enumerate(pool.text_target) if j >= 0]
    return [Pair(str(i), pool.texts[i], pool.smiles[j], "train") for i, j in asked]


def write_checked(folder: Path, one: Contestant) -> dict[str, Any]:
    """What the rival reads; returns loss and norm of the gradients of a batch with known noise."""
    rows = np.random.default_rng(0).permutation(len(one.data.ids))
    rows = rows[: one.assembly.config.train.batch_size]
    found, drawn = checked(one, rows)
    known = {"check_rows": rows, **{f"check_{name}": value for name, value in drawn.items()}}
    a = one.assembly
    write_work(folder, one.data, one.params, a.config, a.bert, a.tokenizer.pad_token, known)
    return found


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


def checked(one: Contestant, rows: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Loss in float32 without dropout, and the noise that the model drew, for the rival to use."""
    config = one.assembly.config
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
    drawn = {"eps": jax.random.normal(for_noise, (count, config.model.dim))}
    for i, side in enumerate(sides):
        split = jax.vmap(jax.random.split)(jax.random.split(side, count))
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 1, most + 1))
        drawn[f"k{i}"] = draw(split[:, 0])
        drawn[f"x{i}"] = jax.vmap(lambda key: jax.random.normal(key, (count,)))(split[:, 1])
    return {"loss": float(value), "gradient": norm}, jax.device_get(drawn)


def main() -> None:
    keep_freed_memory()
    use_compile_cache(cache_folder())
    folder = Path(sys.argv[1])
    pairs = pairs_of_pool()
    assert len(pairs) >= CACHE_FROM, "a pool of this size is featurised once"
    contestant = cache(lambda name: Contestant(name, pairs))
    check = write_checked(folder, contestant("tmr_jax, buckets"))
    hello = {"jax": jax.__version__, "backend": jax.default_backend(), "check": check}
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        one = contestant(command.pop("name"))
        print(json.dumps(getattr(one, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
