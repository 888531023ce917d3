"""The second stage against a plain loop in float64; ties, stages and what must not matter."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from tests.golden import reference_difftmr as reference
from tests.models.layers.test_denoiser import for_reference
from tmr_jax.config import GraphEncoderConfig, HdanConfig, TaprConfig
from tmr_jax.eval import rerank_steps as module
from tmr_jax.eval.rank import rank
from tmr_jax.eval.rerank import Lists, levels
from tmr_jax.eval.rerank_steps import QUERIES, Reranked, Settings, rerank
from tmr_jax.models.difftmr import DiffTMR
from tmr_jax.models.encode import l2_normalize
from tmr_jax.models.layers.bert import BertConfig
from tmr_jax.models.layers.denoiser import HdanWeights
from tmr_jax.types import EncodedCorpus

D, SLOTS = 8, 32
BERT = BertConfig(vocab_size=5, hidden=8, layers=1, heads=2, intermediate=8)
MODEL = DiffTMR(
    BERT, GraphEncoderConfig(), D, "cls", (4,), (), False, "none",
    slots=SLOTS, tapr=TaprConfig(bias=-1.0), hdan=HdanConfig(),
)  # fmt: skip


def parameters(model=MODEL, seed=0):
    """Random numbers for the generator's parameters; the encoders have none here."""
    random = np.random.default_rng(seed)

    def touch(m):
        text, words = np.zeros((1, 1, D), np.float32), np.zeros((1, 3, D), np.float32)
        real = np.ones((1, 1, 3), bool)
        m.perturb(text, text, np.zeros((1, 1, 3), np.float32), real, np.zeros((1, D), np.float32))
        m.word_weights(words, real[0])
        m.t2m(), m.m2t()

    tree = model.init(jax.random.key(0), method=touch)["params"]
    return jax.tree.map(lambda p: np.float32(random.normal(0, 0.1, p.shape)), tree)


def side(items, sizes, seed):
    """Random parts of random numbers, `sizes` being the least and the most."""
    random = np.random.default_rng(seed)
    counts = random.integers(*sizes, items)
    parts = np.float32(random.normal(size=(counts.sum(), D)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pooled, key = np.float32(random.normal(size=(items, D))), random.integers(0, 2**31, items)
    return EncodedCorpus(pooled, parts, offsets, key)


def apply(params, *arrays, method, model=MODEL):
    # Directions and numbers of steps are no arrays: flax hands them on as they are.
    return model.apply({"params": params}, *arrays, method=method)


TEXT, MOL = side(21, (3, 20), 1), side(40, (1, 30), 2)
SETTINGS = Settings(shortlist=12, samples=4, candidates=5, steps=6, noises=1, seed=3)
PARAMS = parameters()


def reranked(direction, text=TEXT, mol=MOL, queries=None, settings=SETTINGS, params=PARAMS):
    queries = np.arange(len((text if direction == "t2m" else mol).pooled))[queries or slice(None)]
    return rerank(apply, params, text, mol, direction, queries, settings)


@pytest.mark.costly("t2m")
@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_eight_devices_refine_as_one_does(direction):
    queries = np.arange(20)
    one, eight = (
        rerank(apply, PARAMS, TEXT, MOL, direction, queries, SETTINGS, devices=devices)
        for devices in ((), jax.devices()[:8])
    )
    np.testing.assert_array_equal(one.item, eight.item)
    for ours, theirs in zip(one, eight, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_wide_tables_and_large_blocks_change_nothing(direction, monkeypatch):
    """What an accelerator is given: rows of 128 numbers, and more queries than a CPU takes."""
    wanted = reranked(direction)
    tables = []
    before = module._Stage.rerank

    def seen(stage, *arrays):
        tables.append((stage._table.shape[1], stage.held))
        return before(stage, *arrays)

    monkeypatch.setattr(module, "plan", lambda: module.Plan(64, 128))
    monkeypatch.setattr(module._Stage, "rerank", seen)
    got = reranked(direction)
    queries = len((TEXT if direction == "t2m" else MOL).pooled)
    assert tables == [(128, 32 if queries == 21 else 64)]
    np.testing.assert_array_equal(got.item, wanted.item)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_on_a_cpu_tables_are_as_wide_as_the_embedding():
    assert module.plan() == (QUERIES, 1)


def products(jaxpr):
    """The precision of every product in a traced function."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_products_of_scores_are_float32_on_every_backend(direction):
    perturb, local, _ = module._programs(apply, direction, SETTINGS.steps)
    query, pool = np.ones((2, D), np.float32), np.ones((2, 3, D), np.float32)
    own, real = np.ones((2, 4, D), np.float32), np.ones((2, 4), bool)
    noise, table = np.ones((4, D), np.float32), np.ones((9, D), np.float32)
    place = np.zeros((2, 3), np.int32)
    if direction == "t2m":
        asked = perturb.trace(PARAMS, query, pool, own, real, noise)
    else:
        asked = perturb.trace(4, PARAMS, query, pool, table, place, place + 3, noise)
    weight = np.ones((2, 4), np.float32)
    segment = place if direction == "t2m" else (place, np.ones((2, 3), np.float32))
    near = local.trace(3, table, place, segment, own, real, weight)
    asked, near = ([*products(one.jaxpr.jaxpr)] for one in (asked, near))
    assert len(asked) == 5 and len(near) == 1  # cosines, radius and three with the noise
    assert {*asked, *near} == {(jax.lax.Precision.HIGHEST,) * 2}


def parts(s, i):
    return np.float64(s.token_embeddings[s.offsets[i] : s.offsets[i + 1]])


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_equals_a_plain_loop_in_float64(direction):
    got = reranked(direction)
    asking, answering = (TEXT, MOL) if direction == "t2m" else (MOL, TEXT)
    noise = np.float64(jax.random.normal(jax.random.key(SETTINGS.seed), (SETTINGS.samples, D)))
    weights = HdanWeights(**PARAMS[direction])
    assert got.item.shape == (len(asking.pooled), 12) and got.clean.shape[1] == 5
    for q in (0, 3, 20):
        s0 = np.float64(l2_normalize(asking.pooled) @ l2_normalize(answering.pooled).T)[q]
        best = np.argsort(-s0)[:12]
        s1, moved, local = {}, {}, {}
        for c in best:
            i, j = (q, c) if direction == "t2m" else (c, q)
            words, atoms = parts(TEXT, i), parts(MOL, j)
            mask, goal = np.ones(len(words), bool), np.float64(MOL.pooled[j])
            cosines = reference.coupling(goal, words, mask, SLOTS)
            wide = {k: np.float64(v) for k, v in PARAMS["coupling"].items()}
            radius = reference.radius(cosines, mask, "matrix", wide)
            s1[c], f = reference.best_of(np.float64(TEXT.pooled[i]), goal, radius, noise)
            moved[c] = reference.perturbed(goal, radius, noise[f])
            f = reference.word_weights(words, mask, word_parameters())
            local[c] = reference.local_score(words, mask, atoms, np.ones(len(atoms), bool), f)
        order = sorted(best, key=lambda c: -s1[c])
        assert got.item[q].tolist() == order
        np.testing.assert_allclose(got.perturbed[q], [s1[c] for c in order], atol=1e-5)
        np.testing.assert_allclose(got.first[q], [s0[c] for c in order], atol=1e-5)
        head = order[:5]
        np.testing.assert_allclose(got.local[q], [local[c] for c in head], atol=1e-5)
        u = [moved[c] if direction == "t2m" else np.float64(answering.pooled[c]) for c in head]
        predict = partial(reconstructed, weights, np.float64(asking.pooled[q]), np.array(u), local)
        state = np.float64(start(direction, asking, answering, q, head))
        wanted = reference.ddim(partial(predict, head), state, 50, SETTINGS.steps)
        np.testing.assert_allclose(got.clean[q], wanted[0], atol=1e-5)


def word_parameters():
    inner, outer = (PARAMS["word_weights"][k] for k in ("inner", "outer"))
    found = {"W1": inner["kernel"], "b1": inner["bias"], "W2": outer["kernel"], "b2": outer["bias"]}
    return {name: np.float64(value) for name, value in found.items()}


def reconstructed(weights, query, u, local, head, x, k):
    r, real = np.array([[local[c] for c in head]]), np.ones((1, len(head)), bool)
    arrays = (query[None], u[None], r, x, np.array([k]), real)
    return reference.hdan(for_reference(weights), *arrays, gamma=0.4)[1]


def start(direction, asking, answering, q, head):
    """The noise of each pair, from the hashes of its two inputs."""
    own = jax.random.fold_in(jax.random.key(SETTINGS.seed), direction == "t2m")
    own = jax.random.fold_in(jax.random.split(own, 1)[0], asking.key[q])
    keys = [jax.random.fold_in(own, k) for k in answering.key[head]]
    return np.array([[jax.random.normal(k, ()) for k in keys]])


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_order_of_candidates_and_of_queries_does_not_matter(direction):
    random = np.random.default_rng(5)
    orders = random.permutation(len(TEXT.pooled)), random.permutation(len(MOL.pooled))
    before = reranked(direction)
    after = reranked(direction, shuffled(TEXT, orders[0]), shuffled(MOL, orders[1]))
    asks, answers = orders if direction == "t2m" else orders[::-1]
    assert (answers[after.item] == before.item[asks]).all()
    for name in ("first", "perturbed", "local", "clean"):
        a, b = getattr(before, name)[asks], getattr(after, name)
        np.testing.assert_allclose(a, b, atol=1e-5)


def shuffled(s, order):
    chosen = np.concatenate([np.arange(s.offsets[i], s.offsets[i + 1]) for i in order])
    offsets = np.concatenate([[0], np.cumsum(np.diff(s.offsets)[order])])
    tokens, key = s.token_embeddings[chosen], s.key[np.array(order)]
    return EncodedCorpus(s.pooled[order], tokens, offsets, key)


def test_texts_of_other_candidates_change_no_score_of_a_query():
    """A molecule is perturbed by the query, never by a caption of its own."""
    other = side(21, (3, 20), 9)
    before = reranked("t2m")
    for q in (0, 7):
        kept = shuffled(TEXT, [q])
        mixed = joined(kept, other)
        after = rerank(apply, PARAMS, mixed, MOL, "t2m", np.array([0]), SETTINGS)
        assert (after.item[0] == before.item[q]).all()
        np.testing.assert_allclose(after.perturbed[0], before.perturbed[q], atol=1e-6)
        np.testing.assert_allclose(after.clean[0], before.clean[q], atol=1e-5)


def joined(a, b):
    offsets = np.concatenate([a.offsets, a.offsets[-1] + b.offsets[1:]])
    return EncodedCorpus(
        np.concatenate([a.pooled, b.pooled]),
        np.concatenate([a.token_embeddings, b.token_embeddings]),
        offsets,
        np.concatenate([a.key, b.key]),
    )


def test_how_many_are_asked_at_once_does_not_matter():
    whole = reranked("t2m")
    alone = reranked("t2m", queries=slice(4, 5))
    assert len(whole.item) > QUERIES and (alone.item[0] == whole.item[4]).all()
    np.testing.assert_allclose(alone.clean[0], whole.clean[4], atol=1e-5)


def searched(direction, number):
    """A question of its own and a shortlist of its own, in which twins leave 9 to 12 inputs."""
    asked, pool = side(1, (10, 16), number), side(9 + number % 4, (10, 30), 100 + number)
    sides = (asked, pool) if direction == "t2m" else (pool, asked)
    return rerank(apply, PARAMS, *sides, direction, np.array([0]), SETTINGS)


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_searches_compile_nothing_new_after_the_first_few(direction):
    programs = *module._programs(apply, direction, SETTINGS.steps), module._weigher(apply)
    for number in range(8):
        searched(direction, number)
    before = [program._cache_size() for program in programs]
    for number in range(8, 24):
        searched(direction, number)
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize("direction", ["t2m", "m2t"])
def test_what_fills_up_a_shortlist_changes_nothing(direction):
    asked, pool = side(3, (3, 20), 1), side(9, (1, 30), 2)
    sides = (asked, pool) if direction == "t2m" else (pool, asked)
    exact, filled = (
        rerank(
            apply, PARAMS, *sides, direction, np.arange(3),
            dataclasses.replace(SETTINGS, shortlist=shortlist),
        )
        for shortlist in (9, 12)
    )  # fmt: skip
    np.testing.assert_array_equal(exact.item, filled.item)
    for ours, theirs in zip(exact, filled, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_one_question_is_worked_on_once(monkeypatch):
    shapes = []
    before = module._Stage._query_tokens

    def seen(stage, queries):
        shapes.append(len(queries))
        return before(stage, queries)

    monkeypatch.setattr(module._Stage, "_query_tokens", seen)
    for count in (1, 3, 20):
        reranked("t2m", queries=slice(0, count))
    assert shapes == [1, 4, 16, 16]


def made(s1, x0, item=None):
    s1, x0 = np.float32([s1]), np.float32([x0])
    item = np.arange(s1.shape[1])[None] if item is None else np.array([item])
    return Reranked(item, s1, s1, x0, x0)


def test_levels_of_a_hand_made_shortlist():
    found = made([0.9, 0.8, 0.7, 0.7, 0.2], [0.1, 0.6, 0.3])
    assert levels(found, "tapr").tolist() == [[3, 2, 1, 1, 0]]
    # s1 + X0_hat: 1.0, 1.4, 1.0; the head stays before the rest
    assert levels(found, "fused", 1.0)[0].argsort()[::-1].tolist()[0] == 1
    assert levels(found, "fused", 1.0)[0, [0, 2]].min() > levels(found, "fused", 1.0)[0, 3:].max()
    assert levels(found, "x0").tolist() == [[2, 4, 3, 1, 0]]
    tie = made([0.9, 0.8, 0.7], [0.5, 0.5, 0.5])
    assert levels(tie, "x0").tolist() == [[2, 1, 0]]  # ties of X0_hat go by s1


def test_no_alpha_lets_a_candidate_leave_its_tier():
    found = reranked("t2m")
    for alpha in (0.0, 1.0, 1e6):
        level = levels(found, "fused", alpha)
        assert (level[:, :5].min(1) > level[:, 5:].max(1)).all()


def test_alpha_of_zero_is_tapr_and_one_candidate_is_stage_one():
    """Levels keep the denoised head before the rest."""
    found = reranked("t2m")
    assert (levels(found, "fused", 0.0) == levels(found, "tapr")).all()
    one = reranked("t2m", settings=dataclasses.replace(SETTINGS, candidates=1))
    for stage in ("fused", "x0"):
        assert (levels(one, stage, 1.0).argmax(1) == 0).all()


@pytest.mark.parametrize("stage", ["tapr", "fused", "x0"])
def test_ranks_equal_counting_in_a_full_order(stage):
    found = reranked("t2m")
    query, candidate = l2_normalize(TEXT.pooled), l2_normalize(MOL.pooled)
    random = np.random.default_rng(8)
    target, count = random.integers(0, 40, 21), random.integers(1, 4, 40)
    level = levels(found, stage, 0.5)
    lists = Lists(found, query, candidate, target, count)
    got = lists.ranking(stage, 0.5)
    assert got.pool_size == count.sum()
    for q in range(21):
        scores = np.float64(query[q] @ candidate.T) - 10  # below any level
        scores[found.item[q]] = level[q]
        ahead, level_with = scores > scores[target[q]], scores == scores[target[q]]
        assert got.greater[q] == count[ahead].sum()
        assert got.equal[q] == count[level_with].sum() - 1
    inside = [t in row for t, row in zip(target, found.item, strict=True)]
    head = [t in row[:5] for t, row in zip(target, found.item, strict=True)]
    np.testing.assert_array_equal(lists.reached(), np.transpose([inside, head]))


def test_without_perturbation_tapr_ranks_as_the_cosine():
    model = MODEL.clone(tapr=TaprConfig(mode="off"))
    plain = partial(apply, model=model)
    target = np.arange(21)
    found = rerank(plain, parameters(model), TEXT, MOL, "t2m", target, SETTINGS)
    np.testing.assert_allclose(found.perturbed, found.first, atol=1e-5)
    query, candidate = l2_normalize(TEXT.pooled), l2_normalize(MOL.pooled)
    got = Lists(found, query, candidate, target, np.ones(40, int)).ranking("tapr")
    assert (got.greater == rank(query, candidate, target).greater).all()


def test_the_test_of_foreign_captions_fails_for_candidates_moved_by_their_own():
    """The leak of T-MASS's released evaluation, which exists only in this test."""
    other = side(21, (3, 20), 9)
    noise = jax.random.normal(jax.random.key(SETTINGS.seed), (SETTINGS.samples, D))

    def scores(captions, query):
        found = []
        for j in range(21):  # molecule j is summed up with caption j, whatever is asked
            words = l2_normalize(
                captions.token_embeddings[captions.offsets[j] : captions.offsets[j + 1]]
            )
            cosines = (words @ l2_normalize(MOL.pooled[j : j + 1]).T).T[:, None]
            real = np.ones(cosines.shape, bool)
            s1, _ = apply(
                PARAMS, query[None, None], MOL.pooled[None, j : j + 1], cosines, real, noise,
                method="perturb",
            )  # fmt: skip
            found.append(float(s1[0, 0]))
        return np.array(found)

    query = TEXT.pooled[0]
    foreign = joined(shuffled(TEXT, [0]), shuffled(other, range(1, 21)))
    assert np.abs(scores(TEXT, query) - scores(foreign, query))[1:].max() > 1e-3
