"""DiffTMR's losses against float64, and the leaks that its printed equations have."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.golden import reference_difftmr as reference
from tests.models.layers.test_denoiser import for_reference
from tmr_jax.config import (
    FeatureConfig,
    GraphEncoderConfig,
    HdanConfig,
    ModelConfig,
    TaprConfig,
    TrainConfig,
)
from tmr_jax.models import difftmr
from tmr_jax.models.difftmr import DiffTMR, best_of, objective
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.layers.denoiser import Form, Hdan, HdanWeights, prepare
from tmr_jax.models.run import build_model
from tmr_jax.types import EncodedBatch, MolOut, TextOut

pytestmark = pytest.mark.usefixtures("optimized")

B, D, SLOTS = 8, 16, 12
BERT = BertConfig(vocab_size=5, hidden=8, layers=1, heads=2, intermediate=8)


def model(hdan=HdanConfig(), tapr=TaprConfig(), dim=D):  # noqa: B008 - frozen dataclasses
    return DiffTMR(
        BERT, GraphEncoderConfig(), dim, "cls", (4,), (), False, "none",
        slots=SLOTS, tapr=tapr, hdan=hdan,
    )  # fmt: skip


def features(seed=0, size=B, dim=D, alike=False):
    """Random words and atoms; with `alike` a molecule's embedding says which text is its own."""
    random = np.random.default_rng(seed)
    counts, lengths = random.integers(1, 6, size), random.integers(2, SLOTS, size)
    tokens = np.float32(random.normal(size=(size, SLOTS, dim)))
    mask = np.arange(SLOTS) < lengths[:, None]
    nodes = np.float32(random.normal(size=(counts.sum() + 3, dim)))
    of_graph = np.append(np.repeat(np.arange(size), counts), [size] * 3)
    pooled = np.float32(random.normal(size=(size, dim)))
    if alike:
        pooled = 0.5 * pooled + tokens[:, 0]
    group = np.arange(size)
    text = TextOut(tokens[:, 0], tokens, mask)
    return EncodedBatch(text, MolOut(pooled, nodes, of_graph.astype(np.int32)), group, group)


def loss(m, params, batch, key):
    return m.apply({"params": params}, batch, key, method="loss")


def spread(params, seed=1):
    """Random parameters, biases too."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(random.normal(0, 0.2, p.shape)), params)


@pytest.mark.costly
@pytest.mark.parametrize("anchor", ["paired", "pairwise"])
def test_losses_equal_a_float64_forward_of_the_equations(anchor):
    m, batch = model(tapr=TaprConfig(anchor=anchor)), features()
    batch = batch._replace(mol_group=np.array([0, 0, *range(2, B)]))  # molecules 0 and 1 are one
    params = spread(m.init(jax.random.key(0), batch)["params"])
    key = jax.random.key(7)
    _, parts = loss(m, params, batch, key)

    for_noise, for_t2m, for_m2t = jax.random.split(key, 3)
    noise = np.float64(jax.random.normal(for_noise, (B, D)))
    wide = jax.tree.map(np.float64, params)
    tokens, mask = np.float64(batch.text.tokens), batch.text.mask
    texts, goals = np.float64(batch.text.pooled), np.float64(batch.mol.pooled)
    moved = np.zeros((B, B, D))
    for i in range(B):
        for j in range(B):
            own = j if anchor == "paired" else i
            c = reference.coupling(goals[j], tokens[own], mask[own], SLOTS)
            radius = reference.radius(c, mask[own], "matrix", wide["coupling"])
            moved[i, j] = reference.perturbed(goals[j], radius, noise[j])
    scores = np.array([[cosine(texts[i], moved[i, j]) for j in range(B)] for i in range(B)])
    duplicate = np.zeros((B, B), bool)
    duplicate[0, 1] = duplicate[1, 0] = True
    logits = np.where(duplicate, -np.inf, np.exp(np.float64(params["log_scale"])) * scores)
    wanted = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    np.testing.assert_allclose(parts["loss/dis"], wanted, rtol=1e-5)

    inner, outer = (wide["word_weights"][n] for n in ("inner", "outer"))
    mlp = {"W1": inner["kernel"], "b1": inner["bias"], "W2": outer["kernel"], "b2": outer["bias"]}
    local = np.zeros((B, B))
    for i in range(B):
        f = reference.word_weights(tokens[i], mask[i], mlp)
        for j in range(B):
            atoms = np.float64(batch.mol.nodes[batch.mol.node_graph == j])
            real = np.ones(len(atoms), bool)
            local[i, j] = reference.local_score(tokens[i], mask[i], atoms, real, f)
    target = (duplicate | np.eye(B, dtype=bool)) / (duplicate.sum(1, keepdims=True) + 1)
    t2m = generative(wide["t2m"], texts, moved, local, target, for_t2m)
    shared = np.broadcast_to(texts, (B, B, D))
    m2t = generative(wide["m2t"], goals, shared, local.T, target, for_m2t)
    np.testing.assert_allclose(parts["loss/gen_t2m"], t2m, rtol=1e-4)
    np.testing.assert_allclose(parts["loss/gen_m2t"], m2t, rtol=1e-4)


@pytest.mark.slow
def test_without_weight_the_generator_is_there_and_learns_nothing():
    m, batch = model(HdanConfig(weight=0.0)), features()
    params = spread(m.init(jax.random.key(0), batch)["params"])
    whole = model().init(jax.random.key(0), batch)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, whole)
    value, parts = loss(m, params, batch, jax.random.key(7))
    _, others = loss(model(), params, batch, jax.random.key(7))
    assert "loss/gen_t2m" not in parts and float(value) == float(others["loss/dis"])
    slopes = jax.grad(lambda p: loss(m, p, batch, jax.random.key(7))[0])(params)
    for name in ("t2m", "m2t", "word_weights"):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(slopes[name]))
    half = loss(model(HdanConfig(weight=0.5)), params, batch, jax.random.key(7))[0]
    gen = others["loss/gen_t2m"] + others["loss/gen_m2t"]
    np.testing.assert_allclose(half, others["loss/dis"] + 0.5 * gen, rtol=1e-6)


def cosine(a, b):
    return a @ b / (max(np.linalg.norm(a), 1e-8) * max(np.linalg.norm(b), 1e-8))


def cross_entropy(logits):
    top = logits.max(1, keepdims=True)
    return np.mean(top[:, 0] + np.log(np.exp(logits - top).sum(1)) - np.diagonal(logits))


def generative(weights, query, u, local, target, key):
    """L_Gen of one direction under `random_step`, with the keys of `objective`."""
    drawn = [jax.random.split(own) for own in jax.random.split(key, B)]
    k = np.array([jax.random.randint(for_step, (), 1, 51) for for_step, _ in drawn])
    noise = np.float64([jax.random.normal(for_noise, (B,)) for _, for_noise in drawn])
    level = reference.alpha_bar(50)[k][:, None]
    x, real = np.sqrt(level) * target + np.sqrt(1 - level) * noise, np.ones((B, B), bool)
    named = for_reference(HdanWeights(**weights))
    p, _ = reference.hdan(named, query, u, local, x, k, real, gamma=0.4)
    return reference.kl(target, 100 * p, real).mean()


def test_a_dual_encoders_parameters_fit_in_and_only_the_generator_is_new():
    m, batch = model(), features()
    assert set(m.init(jax.random.key(0), batch)["params"]) == DiffTMR.generator | {"log_scale"}


def slope_in_molecules(share, which, params, batch):
    m = model(HdanConfig(gradient=share))

    def part(pooled):
        whole = batch._replace(mol=batch.mol._replace(pooled=pooled))
        return loss(m, params, whole, jax.random.key(3))[1][which]

    return jax.grad(part)(jnp.asarray(batch.mol.pooled))


@pytest.mark.costly
@pytest.mark.parametrize("which", ["loss/gen_t2m", "loss/gen_m2t"])
def test_the_generators_gradient_reaches_the_features_by_its_share(which):
    batch = features()
    params = spread(model().init(jax.random.key(0), batch)["params"])
    none, part, full = (slope_in_molecules(s, which, params, batch) for s in (0.0, 0.25, 1.0))
    assert bool((none == 0).all()) and bool((jnp.abs(full) > 0).any())
    np.testing.assert_allclose(part, 0.25 * full, rtol=1e-3, atol=1e-5)


@pytest.mark.slow("random_step", "unrolled")
@pytest.mark.costly
@pytest.mark.parametrize("kind", ["random_step", "all_steps", "unrolled"])
def test_every_objective_is_a_mean_kl_with_a_gradient(kind):
    m, batch = model(HdanConfig(objective=kind, steps=6)), features()
    params = m.init(jax.random.key(0), batch)["params"]

    def total(p):
        return loss(m, p, batch, jax.random.key(3))[0]

    value, slope = jax.jit(jax.value_and_grad(total))(params)
    assert 0 < float(value) < 20
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slope))
    for name in ("t2m", "m2t", "word_weights", "coupling"):
        assert any(bool((jnp.abs(g) > 0).any()) for g in jax.tree.leaves(slope[name])), name


@pytest.mark.costly
def test_all_steps_is_the_mean_of_the_single_steps():
    form = Form(steps=4)
    w = Hdan(D).init_with_output(jax.random.key(0))[0]
    random = np.random.default_rng(0)
    q, u = (jnp.float32(random.normal(size=s)) for s in ((B, D), (1, B, D)))
    pairs = prepare(w, q, u, jnp.zeros((B, B)), jnp.ones((1, B), bool), form)
    keys = jax.random.split(jax.random.key(2), B)
    got = objective("all_steps", w, pairs, jnp.eye(B), keys, form)
    for_noise = [jax.random.split(key)[1] for key in keys]
    levels = reference.alpha_bar(4)
    wanted = []
    for k in range(1, 5):
        drawn = [jax.random.normal(jax.random.fold_in(key, k), (B,)) for key in for_noise]
        noise = np.float64(drawn)
        x = np.sqrt(levels[k]) * np.eye(B) + np.sqrt(1 - levels[k]) * noise
        u_all, real = np.broadcast_to(np.float64(u), (B, B, D)), np.ones((B, B), bool)
        named, r = for_reference(w), np.zeros((B, B))
        p, _ = reference.hdan(named, np.float64(q), u_all, r, x, np.full(B, k), real, gamma=0.4)
        wanted.append(reference.kl(np.eye(B), 100 * p, real))
    np.testing.assert_allclose(got, np.mean(wanted, axis=0), rtol=1e-5)


@pytest.mark.slow("unrolled", "random_step")
@pytest.mark.costly
@pytest.mark.parametrize("kind", ["random_step", "all_steps", "unrolled"])
def test_a_block_of_queries_at_a_time_is_all_of_them(kind, monkeypatch):
    """Where the pairs of a large batch would fill the memory."""
    m, batch = model(HdanConfig(objective=kind, steps=3)), features()
    params = m.init(jax.random.key(0), batch)["params"]
    counts = []
    sizes = difftmr.block_count

    def counted(count, width, room):
        counts.append(sizes(count, width, room))
        return counts[-1]

    monkeypatch.setattr(difftmr, "block_count", counted)

    def found(m):
        counts.clear()

        def total(p):
            return loss(m, p, batch, jax.random.key(3))[0]

        return jax.value_and_grad(total)(params)

    whole, slope = found(m)
    assert set(counts) == {1}
    monkeypatch.setattr(difftmr, "BLOCK", 2 * D * B)  # one query's pairs
    cut, other = found(m.copy(level_block=2 * D * B))
    assert B in counts
    np.testing.assert_allclose(cut, whole, rtol=1e-5)
    size = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(slope)))
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * size)


# Fresh random features at every step, so that nothing can be memorised

N, WIDE, STEPS = 16, 32, 400
CHANCE = np.log(N)


def trained(step_loss, params, rate=3e-3):
    """Mean loss of the last steps of a short training with fresh features for every step."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, STEPS))

    def step(carry, key):
        params, state = carry
        value, slope = jax.value_and_grad(step_loss)(params, key)
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(jax.random.key(5), STEPS)))
    _, losses = run((params, optimizer.init(params)))
    return float(losses[-40:].mean())


def drawn(key):
    """Query, candidates, state noise: independent of one another."""
    a, b, c = jax.random.split(key, 3)
    return (
        jax.random.normal(a, (N, WIDE)),
        jax.random.normal(b, (N, WIDE)),
        jax.random.normal(c, (N, N)),
    )


def at_step(k, w, key, form):
    """KL of our network at noise level k; the positive stands on the diagonal."""
    from tmr_jax.models.layers.denoiser import alpha_bar, at_time, denoise, log_clean
    from tmr_jax.models.losses import denoising_kl

    q, u, noise = drawn(key)
    pairs = prepare(w, q, u[None], jnp.zeros((N, N)), jnp.ones((1, N), bool), form)
    level = alpha_bar(50)[k]
    x = np.sqrt(level) * jnp.eye(N) + np.sqrt(1 - level) * noise
    p = denoise(w, pairs, at_time(w, pairs, jnp.array([k]), form), x, form)
    return denoising_kl(jnp.eye(N), log_clean(p, pairs.mask)).mean()


def fresh():
    return Hdan(WIDE).init_with_output(jax.random.key(0))[0]


@pytest.mark.costly
def test_a_pure_noise_state_leaves_the_loss_at_chance():
    assert trained(partial(at_step, 50, form=Form()), fresh()) > CHANCE - 0.05


@pytest.mark.costly
def test_an_almost_clean_state_identifies_the_positive():
    assert trained(partial(at_step, 1, form=Form()), fresh()) < 0.25 * CHANCE


def printed(w, key, depthwise):
    """The equations as printed, on the batch: q, K and V in rows, DWC(V) as `depthwise` has it."""
    q, u, x = drawn(key)
    keys, values = u @ w.key, u @ w.value
    attention = jax.nn.softmax((q @ w.query) @ keys.T, -1)
    read = ((attention + x) @ values) @ w.out
    joint = 0.6 * depthwise(read, values, w)  # [N queries, N candidates, D]
    both = jnp.concatenate([joint, jnp.broadcast_to(u[None], joint.shape)], -1)
    p = jax.nn.relu(both @ w.inner) @ w.outer + attention
    return p


def diagonal_loss(p):
    return -jnp.diagonal(jax.nn.log_softmax(100 * p, -1)).mean()


def row_aligned(read, values, w):
    """Value row i goes to query i, which is its own positive."""
    return jnp.broadcast_to((read + values * w.depth[None])[:, None], (N, N, WIDE))


def of_candidate(read, values, w):
    return read[:, None] + (values * w.depth[None])[None]


@pytest.mark.costly
def test_the_depthwise_term_by_query_row_leaks_the_label():
    """The very test above fails for the equation as it is printed."""
    w = fresh()._replace(depth=jnp.ones(WIDE))
    assert trained(lambda w, k: diagonal_loss(printed(w, k, row_aligned)), w) < CHANCE - 0.5
    assert trained(lambda w, k: diagonal_loss(printed(w, k, of_candidate)), w) > CHANCE - 0.05


@pytest.mark.costly
def test_a_positive_at_index_zero_with_a_kernel_of_three_leaks_the_label():
    """Zero padding marks the border, and the border is where the positive stands."""

    def wide_kernel(read, values, w):
        around = jnp.pad(values + w.depth_bias[None], ((1, 1), (0, 0)))
        mixed = around[:-2] * w.lift[None] + around[1:-1] * w.depth[None]
        return read[:, None] + (mixed + around[2:] * w.lift_bias[None])[None]

    def at_zero(w, key, depthwise):
        return -jax.nn.log_softmax(100 * printed(w, key, depthwise), -1)[:, 0].mean()

    w = fresh()._replace(
        **dict.fromkeys(("depth", "lift", "lift_bias", "depth_bias"), jnp.ones(WIDE))
    )
    assert trained(partial(at_zero, depthwise=wide_kernel), w) < CHANCE - 0.3
    assert trained(partial(at_zero, depthwise=of_candidate), w) > CHANCE - 0.05


@pytest.mark.slow("paired")
@pytest.mark.costly
@pytest.mark.parametrize("anchor", ["paired", "pairwise"])
def test_the_path_through_tapr_stays_at_chance_with_full_gradients(anchor):
    """The same where the candidates are perturbed by texts and L_Gen trains Theta as well."""
    tapr = TaprConfig(bias=0.0, anchor=anchor)
    m = model(HdanConfig(gradient=1.0), tapr, WIDE)
    start = m.init(jax.random.key(0), features(0, N, WIDE))["params"]

    def step_loss(params, key):
        one, two, three, four = jax.random.split(key, 4)
        tokens = jax.random.normal(one, (N, SLOTS, WIDE))
        text = TextOut(tokens[:, 0], tokens, jnp.ones((N, SLOTS), bool))
        atoms = jax.random.normal(two, (3 * N, WIDE))
        of_graph = jnp.repeat(jnp.arange(N), 3)
        mol = MolOut(jax.random.normal(three, (N, WIDE)), atoms, of_graph)
        group = jnp.arange(N)
        _, parts = loss(pure_noise(m), params, EncodedBatch(text, mol, group, group), four)
        return parts["loss/gen_t2m"] + parts["loss/gen_m2t"]

    assert trained(step_loss, start) > 2 * CHANCE - 0.1


def pure_noise(m):
    """The model with a single noise level that nothing of the clean row is left in."""
    return m.clone(hdan=HdanConfig(steps=1, gradient=m.hdan.gradient))


# Does best-of-F gain without a leak? A toy (docs/papers.md#perturbation-anchor)

POOL, CLUSTERS = 400, 40


def toy(seed=0):
    random = np.random.default_rng(seed)
    centre = random.normal(size=(CLUSTERS, 300))[random.integers(0, CLUSTERS, POOL)]
    mol = centre + 0.6 * random.normal(size=(POOL, 300))
    text = mol + 4.5 * random.normal(size=(POOL, 300))
    return text, mol, random


def test_best_of_fifteen_gains_nothing_without_a_leak_and_much_with_one():
    text, mol, random = toy()
    noise = random.normal(size=(15, 300))
    radius = 0.3
    plain = hits(unit_rows(text) @ unit_rows(mol).T)
    honest = scored(text, mol, radius, noise)
    own = random.normal(size=(15, POOL, 300))  # every molecule keeps what fits its own text best
    moved = mol[None] + radius * own
    fit = (unit_rows(text)[None] * unit_rows(moved)).sum(-1)
    leaky = np.take_along_axis(moved, fit.argmax(0)[None, :, None], 0)[0]
    assert 0.3 < plain < 0.9
    assert abs(hits(honest) - plain) <= 0.03
    assert hits(unit_rows(text) @ unit_rows(leaky).T) >= plain + 0.10


def scored(text, mol, radius, noise):
    """Best of F with the same noise for all candidates, as the package has it."""
    run = jax.jit(
        lambda t, g: best_of(t[:, None], g, jnp.full(g.shape, radius), jnp.float32(noise))[0]
    )
    blocks = (text[i : i + 20] for i in range(0, POOL, 20))
    return np.concatenate([run(t, np.broadcast_to(mol, (20, *mol.shape))) for t in blocks])


def unit_rows(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def hits(scores):
    return float((scores.argmax(1) == np.arange(POOL)).mean())


def test_a_gpu_takes_larger_blocks_of_all_levels():
    """It starts kernels for every level of every block."""
    train, sizes = TrainConfig(), ((4,), (3,))
    blocks = [
        build_model(ModelConfig(name="difftmr"), FeatureConfig(), train, BERT, *sizes, backend)
        for backend in ("cpu", "tpu", "gpu")
    ]
    assert [16 * m.level_block for m in blocks[:2]] == [blocks[2].level_block] * 2


@pytest.mark.costly
def test_devices_do_not_talk_while_the_levels_go_by():
    """Each has its own queries: one sum, and its gradients once, whatever the number of levels."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    hdan = HdanConfig(steps=5, objective="all_steps")
    own, several = (model(hdan).clone(level_block=2 * B * D, mesh=m) for m in (None, mesh))
    batch = features()
    params = spread(own.init(jax.random.key(0), batch)["params"])
    weights, pooled, goal = params["m2t"], jnp.asarray(batch.mol.pooled), jnp.eye(B)
    shares = NamedSharding(mesh, P("data"))

    def slopes(m):
        def total(weights, query, candidates):
            of = HdanWeights(**weights), query, candidates[None], goal, goal, jax.random.key(1)
            return m.apply({"params": params}, *of, method="_generate")

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))

    inputs = weights, jax.device_put(pooled, shares), jnp.asarray(batch.text.pooled)
    chex.assert_trees_all_close(
        slopes(several)(*inputs), slopes(own)(*inputs), rtol=1e-4, atol=1e-5
    )
    text = slopes(several).lower(*inputs).compile().as_text()
    loops = re.findall(r"^%?[\w.\-]*(?:body|region)[\s\S]*?^}", text, re.MULTILINE)
    assert loops and not any("all-reduce" in loop or "all-gather" in loop for loop in loops)
    assert "all-reduce" in text


def test_a_block_has_rows_of_every_device():
    rows = np.arange(192).reshape(96, 2)
    blocks = difftmr.dealt(rows, 3, 16)  # of 32 rows each, two from every 16th of all
    assert blocks.shape == (3, 32, 2)
    assert [set(block[:, 0] // 2 // 6) for block in blocks] == [set(range(16))] * 3
    np.testing.assert_array_equal(difftmr.dealt(rows, 3, 1), rows.reshape(3, 32, 2))
