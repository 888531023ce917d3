"""The toy table of MODELS.md 5.1, with the denoiser of this package: python tools/toy_denoiser.py

Synthetic features, D = 64, 32 queries and candidates, T = 50, Adam 1e-3 with cosine decay, fresh
features at every step. What MODELS.md has, of one seed, is printed beside it; its toy is not
described to the last number (steps of training, how informative features are made), so figures
agree in kind. Its S = 1 columns were run with the single step labelled k = 1; here it is k = T
(A1.6). The samplers' last column has S = 50 of three seeds: where raw p lies is not trained, since
the loss knows differences only, so whether `clamp` cuts everything off is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from tmr_jax.models.layers.denoiser import (
    Form,
    Hdan,
    HdanWeights,
    alpha_bar,
    at_time,
    denoise,
    log_clean,
    prepare,
    sample,
)
from tmr_jax.models.layers.pooling import unit
from tmr_jax.models.losses.diffusion import denoising_kl

N, D, T, STEPS = 32, 64, 50, 1500
NOISE = 3.2  # of a text around its molecule: cosine alone is right for about two in three
LEVELS = jnp.asarray(alpha_bar(T), jnp.float32)
SAMPLES = (1, 5, 10, 50)
SEEDS = (0, 1, 2)
REAL = jnp.ones((1, N), bool)


def features(key: jax.Array, informative: bool) -> tuple[jax.Array, jax.Array]:
    """Queries and candidates [N, D]; row i belongs to row i where they are informative at all."""
    a, b = jax.random.split(key)
    candidates = jax.random.normal(a, (N, D))
    noise = jax.random.normal(b, (N, D))
    return (candidates + NOISE * noise if informative else noise), candidates


def pairs_of(w: HdanWeights, query: jax.Array, candidates: jax.Array, form: Form) -> Any:
    return prepare(w, query, candidates[None], unit(query) @ unit(candidates).T, REAL, form)


def loss(w: HdanWeights, key: jax.Array, informative: bool, step: int, form: Form) -> jax.Array:
    """KL where the states are at noise level `step`; 0: at a random one for each row."""
    a, b, c = jax.random.split(key, 3)
    query, candidates = features(a, informative)
    k = jax.random.randint(b, (N,), 1, T + 1) if step == 0 else jnp.array([step])
    level = LEVELS[k][:, None]
    x = jnp.sqrt(level) * jnp.eye(N) + jnp.sqrt(1 - level) * jax.random.normal(c, (N, N))
    pairs = pairs_of(w, query, candidates, form)
    p = denoise(w, pairs, at_time(w, pairs, k, form), x, form)
    return denoising_kl(jnp.eye(N), log_clean(p, REAL)).mean()


def printed_loss(w: HdanWeights, key: jax.Array) -> jax.Array:
    """The printed equation: row i of DWC(V) goes to query i, whose positive is candidate i."""
    query, candidates = features(key, False)
    values = candidates @ w.value
    attention = jax.nn.softmax((query @ w.query) @ (candidates @ w.key).T, -1)
    x = jax.random.normal(jax.random.fold_in(key, 1), (N, N))
    joint = ((attention + x) @ values) @ w.out + values * w.depth[None]
    shape = (N, N, D)
    both = [jnp.broadcast_to(joint[:, None], shape), jnp.broadcast_to(candidates[None], shape)]
    p = jax.nn.relu(jnp.concatenate(both, -1) @ w.inner) @ w.outer + attention
    return denoising_kl(jnp.eye(N), log_clean(p, REAL)).mean()


def train(objective: Callable, w: HdanWeights, seed: int = 0) -> tuple[HdanWeights, float, float]:
    """Weights, first loss, mean of the last 100."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, STEPS))

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        w, state = carry
        value, slope = jax.value_and_grad(objective)(w, key)
        updates, state = optimizer.update(slope, state, w)
        return (optax.apply_updates(w, updates), state), value

    keys = jax.random.split(jax.random.key(1 + seed), STEPS)
    (w, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, keys))((w, optimizer.init(w)))
    return w, float(losses[0]), float(losses[-100:].mean())


def fresh(fan_in: bool = False, seed: int = 0) -> HdanWeights:
    w = Hdan(D).init_with_output(jax.random.key(seed))[0]
    if not fan_in:
        return w
    wide = {n: p * (50 * p.shape[0] ** -0.5) for n, p in w._asdict().items() if p.ndim == 2}
    return w._replace(**wide, outer=w.outer * 50 * (2 * D) ** -0.5)


def top1(w: HdanWeights, form: Form, samples: int) -> float:
    """Share of 2,048 fresh queries whose X0_hat is largest at their own candidate."""

    def right(key: jax.Array) -> jax.Array:
        query, candidates = features(key, True)
        noise = jax.random.normal(jax.random.fold_in(key, 1), (N, N))
        clean = sample(w, pairs_of(w, query, candidates, form), noise, form, samples)[0][-1]
        return (clean.argmax(-1) == jnp.arange(N)).mean()

    return float(jax.jit(jax.vmap(right))(jax.random.split(jax.random.key(9), 64)).mean())


def cosine_top1() -> float:
    def right(key: jax.Array) -> jax.Array:
        query, candidates = features(key, True)
        return ((unit(query) @ unit(candidates).T).argmax(-1) == jnp.arange(N)).mean()

    return float(jax.vmap(right)(jax.random.split(jax.random.key(9), 64)).mean())


def main() -> None:
    table = Table(title=f"log N = {np.log(N):.3f}; {STEPS} steps; cosine top-1 {cosine_top1():.3f}")
    for name in ("set-up", "here", "MODELS.md 5.1", "here, S = 50 by seed"):
        table.add_column(name)
    outside, inside = Form(), Form(state="inside")
    _, _, last = train(partial(loss, informative=False, step=T, form=outside), fresh())
    table.add_row("independent features, k = T", f"{last:.2f}", "3.48")
    _, _, last = train(printed_loss, fresh())
    table.add_row("the same, DWC(V) by query row, as printed", f"{last:.3f}", "0.001")
    for form, old in ((outside, "0.000"), (inside, "0.185")):
        _, _, last = train(partial(loss, informative=False, step=1, form=form), fresh())
        table.add_row(f"independent features, k = 1, X_k {form.state}", f"{last:.3f}", old)
    informed = {}
    for form in (outside, inside):
        goal = partial(loss, informative=True, step=0, form=form)
        informed[form.state], (first, last) = [], (0.0, 0.0)
        for seed in SEEDS:
            w, *ends = train(goal, fresh(seed=seed), seed)
            informed[form.state].append(w)
            first, last = ends if seed == SEEDS[0] else (first, last)
        if form is outside:
            table.add_row(
                "informative, N(0, .02^2), first > last", f"{first:.1f} > {last:.2f}", "4.5 > 1.07"
            )
            _, first, last = train(goal, fresh(fan_in=True))
            table.add_row(
                "informative, fan-in, first > last", f"{first:.0f} > {last:.1f}", "128 > 17"
            )
    known = {
        ("outside", "simplex"): ".658 / .663 / .663 / .663",
        ("outside", "clamp"): ".130 / .031 / .031 / .055",
        ("inside", "simplex"): ".488 / .636 / .642 / .644",
        ("inside", "clamp"): ".488 / .653 / .653 / .653",
    }
    for (state, clean), old in known.items():
        form = Form(state=state, clean=clean)
        one, *others = informed[state]
        found = [f"{top1(one, form, s):.3f}"[1:] for s in SAMPLES]
        last = [found[-1], *(f"{top1(w, form, SAMPLES[-1]):.3f}"[1:] for w in others)]
        name = f"sampler, X_k {state}, {clean}: S = 1 / 5 / 10 / 50"
        table.add_row(name, " / ".join(found), old, ", ".join(last))
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)


if __name__ == "__main__":
    main()
