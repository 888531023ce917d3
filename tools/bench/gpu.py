"""Speed on an accelerator, in a few minutes: python -m tools.bench.gpu

Self-contained: random weights of SciBERT's size, texts of ChEBI-20's lengths, random molecules; no
data set and no network. It prints, each with its target for an H200:

- the training step, all of DiffTMR's loss with dropout, batch 512: pairs a second and MFU on real
  tokens, texts packed and in buckets;
- one layer's attention over packed rows, forward and backward, in each form;
- the published schedule: batch 32, how long 60 epochs of 26,408 pairs take;
- the ratio to PyTorch's best options on the same card (with --torch-python);
- evaluation of 33,010 candidates in both directions, F = 15, S = 50, K1 = 256, K = 32;
- molecules a second through the graph encoder, from features.

--shrunk runs a toy model, for a test on CPU.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from tmr_jax.config import Experiment, load_experiment
from tmr_jax.data.batching import (
    Composition,
    declare_rows,
    declare_shapes,
    encode_batches_mol,
    pack,
)
from tmr_jax.data.files import cache_folder
from tmr_jax.data.tables import MolTable, TextTable
from tmr_jax.eval.rerank import PoolReranker, settings_of
from tmr_jax.models.checkpoint import STATISTICS, TrainState, joined, new_state, variables, without
from tmr_jax.models.encode import Encoded, l2_normalize
from tmr_jax.models.layers.attention import Form, Segments
from tmr_jax.models.layers.attention import attention as attend
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.run import build_model
from tmr_jax.models.runtime import use_compile_cache
from tmr_jax.train.dataset import TrainingSet
from tmr_jax.train.loader import build_loader
from tmr_jax.train.log import Throughput, sentence
from tmr_jax.train.optim import build_adversary, build_optimizer
from tmr_jax.train.step import SINGLE_DEVICE, Sharding, train_step
from tmr_jax.types import EncodedCorpus
from tools.bench.common import altered, fastest, seconds

SCIBERT = BertConfig(31_090, 768, 12, 12, 3_072, pooler=False)
TOY = BertConfig(50, 16, 2, 2, 32, max_positions=64, pooler=False)
EPOCHS, PAIRS = 60, 26_408  # of the published schedule on ChEBI-20
VOCABULARY = 5_000  # atom environments
say = partial(print, flush=True)


@dataclass(frozen=True)
class Arguments:
    shrunk: bool = False
    """A toy model and few repeats."""
    torch_python: Path | None = None
    """Python of an environment with torch and transformers: also prints the ratio to PyTorch."""


class Sizes(NamedTuple):
    bert: BertConfig
    width: int  # of a row of packed texts, and the longest text
    pairs: int
    large: int  # batch
    small: int
    steps: int  # timed
    pool: int
    queries: int


FULL = Sizes(SCIBERT, 256, 26_408, 512, 32, 96, 33_010, 3_301)
SHRUNK = Sizes(TOY, 32, 64, 16, 8, 4, 40, 8)


# Random inputs


def texts(count: int, size: Sizes, seed: int) -> TextTable:
    """Lengths as those of ChEBI-20 in word pieces: mean 85, deviation 43, up to a row."""
    random = np.random.default_rng(seed)
    mean = 85 * size.width / 256
    spread = np.sqrt(np.log(1 + (43 / 85) ** 2))
    lengths = random.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    lengths = np.clip(lengths.round(), 8, size.width).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = random.integers(5, size.bert.vocab_size, offsets[-1]).astype(np.int32)
    return TextTable(tokens, offsets, np.zeros(count, bool))


def molecules(count: int, seed: int) -> MolTable:
    """Chains with a few rings, of 30 atoms on average, every atom an environment of its own."""
    random = np.random.default_rng(seed)
    sizes = np.clip(random.lognormal(3.3, 0.45, count).round(), 1, 150).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    bonds = [_bonds(int(n), random) for n in sizes]
    edges = np.concatenate([[0], np.cumsum([b.shape[1] for b in bonds])])
    ends = np.concatenate(bonds, axis=1).astype(np.int32)
    atoms = int(offsets[-1])
    return MolTable(
        nodes=random.integers(1, VOCABULARY, (atoms, 1)).astype(np.int32),
        edges=np.zeros((int(edges[-1]), 0), np.uint8),
        senders=ends[0],
        receivers=ends[1],
        motif=np.concatenate([np.arange(n) for n in sizes]).astype(np.int32),
        counts=np.zeros((count, 0), np.uint8),
        node_offsets=offsets.astype(np.int64),
        edge_offsets=edges.astype(np.int64),
        key=random.integers(0, 256, (count, 16)).astype(np.uint8),
    )


def _bonds(atoms: int, random: np.random.Generator) -> np.ndarray:
    """Both directions, int [2, e]."""
    chain = np.stack([np.arange(atoms - 1), np.arange(1, atoms)])
    rings = random.integers(0, atoms, (2, atoms // 8))
    rings = rings[:, rings[0] != rings[1]]
    one = np.concatenate([chain, rings], axis=1)
    return np.concatenate([one, one[::-1]], axis=1)


def side(items: int, parts: np.ndarray, dim: int, seed: int) -> EncodedCorpus:
    """Random embeddings of items with so many words or atoms each."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(parts)]).astype(np.int64)
    pooled = random.normal(size=(items, dim)).astype(np.float32)
    tokens = random.normal(size=(int(offsets[-1]), dim)).astype(np.float32)
    return EncodedCorpus(pooled, tokens, offsets, random.integers(0, 2**31, items))


# The model and its data


def experiment(texts: str, batch: int, width: int, kind: str = "difftmr") -> Experiment:
    """The published experiment in bfloat16. `kind`: dual, difftmr, difftmr_random or mbank."""
    name = kind.removesuffix("_random")
    base = load_experiment("mbank_chebi" if name == "mbank" else "difftmr_chebi")
    objective = "all_steps" if kind == name else "random_step"
    changes = {
        "train.texts": texts,
        "train.batch_size": batch,
        "train.text_buckets": [*(n for n in base.train.text_buckets if n < width), width],
        "train.precision": "bfloat16",
        "model.name": name,
        "model.hdan.objective": objective,
        "features.max_tokens": width,
    }
    return altered(base, changes)


class Work(NamedTuple):
    config: Experiment
    model: Any
    data: TrainingSet


def work(
    size: Sizes, how: str, batch: int, config: Experiment | None = None, backend: str = ""
) -> Work:
    """Model and random data of `config` (default: DiffTMR), built for `backend` (default: this)."""
    config = config or experiment(how, batch, size.width)
    text, mol = texts(size.pairs, size, 0), molecules(size.pairs, 1)
    lengths = np.diff(text.offsets)
    composition = Composition(
        lengths, batch, size.width if how == "packed" else 0, config.train.pool_batches
    )
    planned = composition.sample()
    shapes = declare_shapes(mol, config.train.text_buckets, batch, planned)
    if how == "packed":
        rows = declare_rows(lengths, planned, size.width)
        shapes = shapes._replace(text=(size.width,), rows=rows)
    each = np.arange(size.pairs, dtype=np.int32)
    ids = tuple(map(str, each))
    data = TrainingSet(ids, text, mol, each, each, composition, shapes, [])
    sizes = size.bert, (VOCABULARY,), ()
    model = build_model(config.model, config.features, config.train, *sizes, backend)
    return Work(config, model, data)


def parameters(task: Work, shapes: bool = False) -> dict[str, Any]:
    """Random ones; `shapes`: only their shapes."""
    few = task.data.composition.epoch(0, 0)[0][:2]
    one = task.data._replace(shapes=declare_shapes(task.data.mol, task.data.shapes.text, 2))
    init: Any = partial(jax.eval_shape, task.model.init) if shapes else jax.jit(task.model.init)
    return joined(init(jax.random.key(0), one.batch(few, 0)))


def trainer(task: Work) -> tuple[Any, TrainState]:
    """The loader that takes training steps, and the state before the first."""
    params = parameters(task)
    optimizer = build_optimizer(task.config.optim, 10_000, params, task.model.groups)
    loader = build_loader(task.data, task.model, optimizer, frozenset(), None, 0)
    return loader, new_state(params, optimizer)


def step_of(
    config: Experiment, model: Any, params: Any, sharding: Sharding = SINGLE_DEVICE
) -> tuple[Any, Any]:
    """The training step, and the shapes of its state for parameters that may be shapes, too."""
    rivals = model.adversary
    rival = build_adversary(config.optim) if rivals else None
    trained = without(params, rivals | {STATISTICS})
    optimizer = build_optimizer(config.optim, 10_000, trained, model.groups)
    state = jax.eval_shape(lambda p: new_state(p, optimizer, frozenset(), rival, rivals), params)
    return train_step(model, optimizer, frozenset(), rival, sharding), state


# Measurements


def train(task: Work, calls: int) -> dict[str, Any]:
    """Runs `calls` calls after those that compile; rates."""
    loader, state = trainer(task)
    plan, key = task.data.composition.epoch(0, 0), jax.random.key(0)
    clock = Throughput(1, jax.devices()[0].device_kind)
    per_call = min(loader.per_call, len(plan))
    waiting: list[Any] = []
    start = 0
    for number in range(calls + 2):
        start = start if start + per_call <= len(plan) else 0
        answer = loader(state, plan[start : start + per_call], key)
        state, start = answer.state, start + per_call
        if answer.compiled is not None:
            clock.compiled(answer.compiled)
        waiting.append(answer)
        if number == 1 or answer.compiled is not None:  # the queue is full, or was emptied
            _ready(waiting.pop(0), clock, pause=True)
        elif len(waiting) > 2:
            _ready(waiting.pop(0), clock)
    while waiting:
        _ready(waiting.pop(0), clock)
    return clock.summary()


def _ready(answer: Any, clock: Throughput, pause: bool = False) -> None:
    jax.block_until_ready(answer.metrics)
    if pause:
        clock.pause()
    clock.done(answer.work)


def step(size: Sizes, torch_python: Path | None) -> None:
    rates = {}
    for how in ("packed", "buckets"):
        found = train(work(size, how, size.large), max(size.steps // 16, 2))
        rates[how] = found["pairs_per_second"]
        say(f"step, batch {size.large}, {how}: {sentence(found)}")
    say("  target: MFU 45 %, which is about 10,000 pairs/s on an H100")
    if torch_python is None:
        say("PyTorch: not compared without --torch-python; target: 1.3 times")
        return
    for name, rate in torch_rates(size, torch_python).items():
        ratio = max(rates.values()) / rate
        say(f"PyTorch, {name}: {rate:,.0f} pairs/s; tmr_jax is {ratio:.2f} times as fast")
    say("  target: 1.3 times")


def torch_rates(size: Sizes, python: Path) -> dict[str, float]:
    """Pairs a second of PyTorch's best options on the same card, texts, molecules and weights."""
    from tools.bench.vs_torch import RIVALS, Program, write_work

    task, rates = work(size, "buckets", size.large), {}
    with tempfile.TemporaryDirectory() as place:
        folder, params = Path(place), jax.device_get(parameters(task))
        write_work(folder, task.data, params, task.config, size.bert, 0, {})
        worker = Program(python, folder)
        for name in (name for name in RIVALS if name.startswith("bfloat16")):
            worker.ask(do="take", name=name)
            worker.ask(do="train", name=name, first=0, count=max(size.steps // 8, 2))
            found = worker.ask(do="train", name=name, first=0, count=max(size.steps // 4, 2))
            rates[name] = found["pairs"] / found["seconds"]
        worker.close()
    return rates


def attention(size: Sizes) -> None:
    """Rows of packed texts as a batch has them, bfloat16, forward and backward."""
    c = size.bert
    lengths = np.diff(texts(size.large, size, 5).offsets)
    row, start, rows = pack(lengths, size.width)
    segment = np.full((rows, size.width), -1)  # padding reads padding
    for i, (r, first) in enumerate(zip(row, start, strict=True)):
        segment[r, first : first + lengths[i]] = i
    segments = Segments(jnp.asarray(segment), jnp.asarray(segment))
    shape = (rows, size.width, 3 * c.hidden)
    qkv = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    seed = jax.random.bits(jax.random.key(1), (2,), jnp.uint32)
    ways: dict[str, tuple[Form, float]] = {
        "float32 probabilities, with dropout": ("plain", 0.1),
        "low memory, with dropout": ("low_memory", 0.1),
        "low memory, no dropout": ("low_memory", 0.0),
        "cuDNN, no dropout": ("cudnn", 0.0),
    }
    for name, (form, rate) in ways.items():

        def read(qkv: jax.Array, form: Form = form, rate: float = rate) -> jax.Array:
            return attend(qkv, segments, seed, c.heads, form, rate).sum()

        gradient = jax.jit(jax.grad(read))
        try:
            taken = fastest(lambda g=gradient: jax.block_until_ready(g(qkv)), 5)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            say(f"attention, {name}: not available ({str(error).splitlines()[0][:80]})")
            continue
        say(f"attention, {name}: {taken * 1e3:.2f} ms a layer")


def schedule(size: Sizes) -> None:
    found = train(work(size, "packed", size.small), max(size.steps // 8, 2))
    minutes = EPOCHS * (PAIRS // size.small) * size.small / found["pairs_per_second"] / 60
    say(
        f"batch {size.small}: {sentence(found)}\n"
        f"  {EPOCHS} epochs of {PAIRS:,} pairs would take {minutes:.1f} minutes; target: 5"
    )


def second_stage(task: Work, *parts: np.ndarray) -> tuple[PoolReranker, Encoded, Encoded]:
    """The reranker, and random texts and molecules with that many words or atoms each."""
    loaded: Any = SimpleNamespace(model=task.model, config=task.config)
    dim = task.config.model.dim
    sides = [side(len(p), p, dim, i) for i, p in enumerate(parts)]
    text, mol = (Encoded(l2_normalize(s.pooled), np.arange(len(s.pooled)), s) for s in sides)
    return PoolReranker(loaded, parameters(task), settings_of(task.config)), text, mol


def evaluation(size: Sizes) -> None:
    lengths = np.diff(texts(size.pool, size, 2).offsets)
    atoms = np.diff(molecules(size.pool, 3).node_offsets)
    reranker, text, mol = second_stage(work(size, "packed", size.small), lengths, atoms)
    each = np.arange(size.pool)
    target = np.where(each < size.queries, each, -1)

    def both() -> None:
        for direction in ("t2m", "m2t"):
            reranker.lists(text, mol, direction, target).ranking("fused", 0.2)

    asked = f"{size.queries:,} queries each way among {size.pool:,}"
    for attempt in ("with compilation", "again"):
        say(f"evaluation, {asked}: {seconds(both):.1f} s {attempt}")
    say("  target: 10 s")


def graphs(size: Sizes) -> None:
    """Times the way from integer features, batched beforehand, to embeddings."""
    task = work(size, "packed", size.small)
    params = jax.device_put(parameters(task))
    mol = molecules(size.pool, 4)

    @jax.jit
    def encode(params: Any, batch: Any) -> jax.Array:
        return task.model.apply(variables(params), batch, method="encode_molecule").pooled

    batches = [batch for _, batch in encode_batches_mol(mol, min(2_048, size.pool))]
    taken = fastest(lambda: jax.block_until_ready([encode(params, b) for b in batches]))
    rate = size.pool / taken
    say(f"graph encoder: {rate:,.0f} molecules/s from features; target: 500,000")


def product() -> float:
    """TFLOP/s of a bfloat16 product of two squares: the most that the card reaches."""
    side = 8_192 if jax.default_backend() != "cpu" else 512
    a = jnp.ones((side, side), jnp.bfloat16)
    multiply = jax.jit(lambda x: x @ x * jnp.bfloat16(1e-4))

    def ten() -> None:
        x = a
        for _ in range(10):
            x = multiply(x)
        jax.block_until_ready(x)

    return 10 * 2 * side**3 / fastest(ten, 1) / 1e12


def main(arguments: Arguments) -> None:
    use_compile_cache(cache_folder())
    size = SHRUNK if arguments.shrunk else FULL
    kind = jax.devices()[0].device_kind
    say(f"jax {jax.__version__} on {kind}; a large product: {product():.3g} TFLOP/s")
    step(size, arguments.torch_python)
    for part in (attention, schedule, evaluation, graphs):
        part(size)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
