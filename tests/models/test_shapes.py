"""The shapes that models and losses give, worked out from those of a batch: nothing is run."""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest

from tmr_jax.models.checkpoint import STATISTICS, variables
from tmr_jax.models.layers.denoiser import (
    Form,
    Hdan,
    Times,
    all_levels,
    at_time,
    denoise,
    levels_kl,
    prepare,
    sample,
)
from tmr_jax.models.losses import (
    batch_hard_triplet,
    clean_rows,
    critic_loss,
    denoising_kl,
    distances,
    duplicate_mask,
    generator_loss,
    gradient_penalty,
    info_nce,
    second_order_losses,
)

PAIRS, TOKENS, DIM = 6, 16, 24  # of the toy batch


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("name", ["dual", "difftmr", "mbank", "dual packed", "difftmr packed"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_of_a_model(name, platform, check_lowering):
    model, params, batch = check_lowering.built(check_lowering.experiment(name), platform)
    key = jax.random.key(0)
    drops = {"rngs": {"dropout": key}}

    def of(method, *given):
        def run(params, *given):
            found = model.apply(
                variables(params), *given, method=method, mutable=STATISTICS, **drops
            )
            return found[0]  # the running statistics of a BatchNorm beside it

        return jax.eval_shape(run, params, *given)

    text, mol = of("encode_text", batch.text), of("encode_molecule", batch.mol)
    chex.assert_shape([text.pooled, mol.pooled], (PAIRS, DIM))
    chex.assert_shape(text.tokens, (PAIRS, TOKENS, DIM))
    chex.assert_shape(text.mask, (PAIRS, TOKENS))
    chex.assert_shape(mol.nodes, (len(mol.node_graph), DIM))
    chex.assert_shape(of("similarity", text, mol), (PAIRS, PAIRS))
    loss, metrics = of("loss", batch, key)
    chex.assert_shape([loss, *metrics.values()], ())
    assert loss.dtype == jnp.float32
    if name.startswith("difftmr"):
        chex.assert_shape(of("local_scores", text, mol), (PAIRS, PAIRS))
        pairs = floats(3, 1, DIM), floats(3, 5, DIM), floats(3, 5, TOKENS)
        mask, noise = jax.ShapeDtypeStruct((3, 5, TOKENS), bool), floats(7, DIM)
        scores, moved = of("perturb", *pairs, mask, noise)
        chex.assert_shape(scores, (3, 5))
        chex.assert_shape(moved, (3, 5, DIM))
        asked = floats(3, DIM), floats(3, 5, DIM), floats(3, 5), floats(2, 3, 5)
        for direction in ("t2m", "m2t"):
            found = jax.eval_shape(
                lambda p, *x, way=direction: model.apply(p, way, *x, 4, method="reconstruct"),
                variables(params),
                *asked,
            )
            chex.assert_shape(found, (4, 3, 5))


def test_of_losses():
    rows, scores = floats(PAIRS, DIM), floats(PAIRS, PAIRS)
    group = jax.ShapeDtypeStruct((PAIRS,), jnp.int32)
    same = jax.eval_shape(duplicate_mask, group, group)
    chex.assert_shape(same, (PAIRS, PAIRS))
    for loss in (info_nce, batch_hard_triplet):
        given = (scores, same) if loss is info_nce else (rows, rows, same)
        value, parts = jax.eval_shape(loss, *given)
        chex.assert_shape([value, *parts.values()], ())
    for kernel in ("euclid_pos", "euclid_neg", "cos"):
        settings = {"kernel": kernel, "temperature_u2u": 0.1, "temperature_u2c": 0.1}
        values = jax.eval_shape(partial(second_order_losses, **settings), rows, rows)
        chex.assert_shape(values, ())
    chex.assert_shape(jax.eval_shape(distances, rows, floats(9, DIM)), (PAIRS, 9))
    goal = jax.eval_shape(clean_rows, same)
    chex.assert_shape(goal, (PAIRS, PAIRS))
    chex.assert_shape(jax.eval_shape(denoising_kl, goal, scores), (PAIRS,))


def test_of_the_adversary_s_losses():
    def critic(rows):
        return rows.sum(1)

    rows = floats(PAIRS, DIM)
    chex.assert_shape(jax.eval_shape(lambda x: generator_loss(critic, x), rows), ())
    chex.assert_shape(jax.eval_shape(lambda x: gradient_penalty(critic, x), rows), ())
    value, parts = jax.eval_shape(
        lambda a, b: critic_loss(critic, a, b, jax.random.key(0)), rows, rows
    )
    chex.assert_shape([value, *parts.values()], ())


@pytest.mark.parametrize("shared", [True, False])
def test_of_the_denoiser(shared):
    """Three queries among five candidates, which are theirs alone or shared by all."""
    form = Form(steps=50)
    weights = jax.eval_shape(lambda: Hdan(DIM).init_with_output(jax.random.key(0))[0])
    candidates = floats(1 if shared else 3, 5, DIM)
    mask = jax.ShapeDtypeStruct((1, 5), bool)
    pairs = jax.eval_shape(
        lambda *x: prepare(*x, form), weights, floats(3, DIM), candidates, floats(3, 5), mask
    )
    chex.assert_shape(pairs.hidden, (3, 5, 2 * DIM))
    chex.assert_shape(pairs.key, candidates.shape)
    chex.assert_shape(pairs.value, (1, 5, 2 * DIM) if shared else (3, 5, DIM))
    step = jax.ShapeDtypeStruct((1,), jnp.int32)
    times: Times = jax.eval_shape(lambda *x: at_time(*x, form), weights, pairs, step)
    chex.assert_shape(pairs.attention, (3, 5))
    chex.assert_shape(times.attention, (1 if shared else 3, 5))
    state = floats(3, 5)
    found = jax.eval_shape(lambda *x: denoise(*x, form), weights, pairs, times, state)
    chex.assert_shape(found, (3, 5))
    trace, seen = jax.eval_shape(lambda *x: sample(*x, form, 4), weights, pairs, state)
    chex.assert_shape(trace, (4, 3, 5))
    assert seen is None
    steps = jax.ShapeDtypeStruct((50,), jnp.int32)
    level = jax.eval_shape(
        lambda *x: all_levels(*x, form), weights, pairs, steps, floats(50, 3, 5), state
    )
    chex.assert_shape(level, (3,))
    given = pairs.hidden, floats(50, 3, 2 * DIM), floats(50, 3, 5), floats(2 * DIM), state
    chex.assert_shape(jax.eval_shape(levels_kl, *given), (3,))
