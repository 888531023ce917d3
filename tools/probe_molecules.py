"""What a molecule encoder is worth while the text encoder is frozen: minutes instead of an hour.

    TMR_JAX_DATA=DIR python tools/probe_molecules.py --exp det_open --train.epochs 4 \
        --model.graph.readout mean_mlp

Takes the words of tmr_jax.train. Reads every text once with the pretrained text encoder (mean of
its states), then trains the molecule encoder and one linear layer on those vectors with the
experiment's optimiser and batches; prints ranks on the validation pool after every epoch. The
figures compare with one another only.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tmr_jax.config import GraphEncoderConfig
from tmr_jax.data import load_pairs_with_report
from tmr_jax.data.batching import encode_batches_mol, encode_batches_text, mol_batch
from tmr_jax.data.cache import cache_folder
from tmr_jax.data.pools import load_pool, validation_protocol
from tmr_jax.data.tables import TextTable, molecule_table, text_table
from tmr_jax.eval.metrics import metrics
from tmr_jax.eval.rank import rank
from tmr_jax.models.dual_encoder import MAX_LOG_SCALE, GraphEncoder
from tmr_jax.models.encode import encode
from tmr_jax.models.layers.bert import Bert, stacked
from tmr_jax.models.layers.pooling import masked_mean, unit
from tmr_jax.models.losses.contrastive import info_nce, same_pair
from tmr_jax.models.run import TrainedModel
from tmr_jax.models.runtime import keep_freed_memory, use_compile_cache
from tmr_jax.train.__main__ import parse
from tmr_jax.train.dataset import model_and_dataset
from tmr_jax.train.loop import Plan
from tmr_jax.train.optim import build_optimizer


class Probe(nn.Module):
    graph_encoder: GraphEncoder
    graph: GraphEncoderConfig
    dim: int

    def setup(self) -> None:
        self.projection, self.norm = nn.Dense(self.dim), nn.LayerNorm()
        self.log_scale = self.param("log_scale", lambda _: jnp.log(1 / 0.07))

    def text(self, vectors):
        return unit(self.norm(self.projection(vectors)))

    def mol(self, mol, train=False):
        return unit(self.graph_encoder(mol, train).pooled)

    def __call__(self, vectors, mol, duplicate, train=True):
        scale = jnp.exp(jnp.clip(self.log_scale, None, MAX_LOG_SCALE))
        return info_nce(scale * self.text(vectors) @ self.mol(mol, train).T, duplicate)[0]


def frozen(assembly: TrainedModel, weights: dict, table: TextTable) -> np.ndarray:
    """Mean of the pretrained states of every text, float32 [n, hidden]."""
    config = assembly.config
    bert = Bert(assembly.bert, jnp.dtype(config.train.precision), "autodiff")
    weights = stacked(weights)

    @jax.jit
    def read(text):
        states = bert.apply({"params": weights}, text.tokens, text.mask, deterministic=True)
        return masked_mean(states.astype(jnp.float32), text.mask)

    pad = assembly.tokenizer.pad_token
    batches = encode_batches_text(table, 64, config.train.text_buckets, pad)
    return encode(read, batches, len(table.offsets) - 1, assembly.bert.hidden)


def main() -> None:
    config = parse(sys.argv[1:]).config
    keep_freed_memory()
    use_compile_cache(cache_folder())
    pairs, _ = load_pairs_with_report(config.data)
    assembly, data, weights = model_and_dataset(config, pairs)
    assert weights is not None, "a frozen text encoder needs pretrained weights"
    pool = load_pool(validation_protocol(config.data), config.data)
    candidates, kept, _ = molecule_table(pool.smiles, config.features.molecule, "none")
    asks = np.flatnonzero(np.isin(pool.text_target, kept))
    target = np.searchsorted(kept, pool.text_target[asks])
    queries = text_table(
        [pool.texts[i] for i in asks], assembly.tokenizer, config.features.max_tokens
    )
    vectors, asked = (frozen(assembly, weights, t) for t in (data.text, queries))

    built = assembly.model
    encoder = GraphEncoder(
        built.graph, built.dim, built.node_sizes, built.edge_sizes, False, "none", built.dtype,
        built.backward,
    )  # fmt: skip
    model = Probe(encoder, built.graph, built.dim)
    plan = Plan(config, data)

    def batch(step: int):
        rows = plan.rows(step, 1)[0]
        mol = mol_batch(rows, data.mol, data.shapes.nodes, data.shapes.edges)
        return vectors[rows], mol, same_pair(data.text_group[rows], data.mol_group[rows])

    params = jax.jit(model.init)(
        {"params": jax.random.key(config.train.seed), "dropout": jax.random.key(0)}, *batch(0)
    )["params"]
    optimizer = build_optimizer(config.optim, plan.total, params, {})
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance(params, state, inputs, key):
        def loss(p):
            return model.apply({"params": p}, *inputs, rngs={"dropout": key})

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    read_mol = jax.jit(lambda p, mol: model.apply({"params": p}, mol, method="mol"))
    losses, start = [], time.perf_counter()
    for step in range(plan.total):
        key = jax.random.fold_in(jax.random.key(config.train.seed), step)
        params, state, value = advance(params, state, batch(step), key)
        losses.append(float(value))
        if (step + 1) % plan.epoch_steps:
            continue
        text = model.apply({"params": params}, asked, method="text")
        batches = encode_batches_mol(candidates, 64)
        mol = encode(partial(read_mol, params), batches, len(kept), built.dim)
        found = metrics(rank(np.asarray(text), mol, target))
        first, tenth = (100 * found[f"hits@{k}"] for k in (1, 10))
        print(
            f"epoch {(step + 1) // plan.epoch_steps}: loss {np.mean(losses):.3f}, {pool.protocol} "
            f"t2m hits@1 {first:.1f} hits@10 {tenth:.1f} mrr {found['mrr']:.3f}, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
        losses = []


if __name__ == "__main__":
    main()
