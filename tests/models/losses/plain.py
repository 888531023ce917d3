"""The distance losses by their plain formulas, for autodiff in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def distances(rows, columns):
    squares = jnp.square(rows[:, None] - columns[None]).sum(-1)
    return jnp.sqrt(jnp.maximum(squares, 1e-12))


def triplet(text, mol, duplicate):
    items = jnp.concatenate([text, mol])
    between, own = distances(items, items), jnp.eye(len(text), dtype=bool) | duplicate
    positive = jnp.tile(jnp.diagonal(between[: len(text), len(text) :]), 2)
    negative = ~jnp.tile(own, (2, 2))
    nearest = jnp.min(jnp.where(negative, between, jnp.inf), axis=1)
    return jnp.where(negative.any(1), jnp.maximum(0.0, positive - nearest + 0.3), 0.0).mean()


def second_order(text, mol, kernel, temperature_u2u, temperature_u2c):
    def near(a, b):
        if kernel == "cos":
            a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
            return (1 + a @ b.T) / 2
        return distances(a, b) if kernel == "euclid_pos" else -distances(a, b)

    def divergence(target, model, temperature):
        p, q = (jax.nn.log_softmax(x / temperature, axis=1) for x in (target, model))
        return (jnp.exp(p) * (p - q)).sum(1).mean()

    tt, mm, tm, mt = near(text, text), near(mol, mol), near(text, mol), near(mol, text)
    u2u = divergence(mm, tt, temperature_u2u) + divergence(tt, mm, temperature_u2u)
    fixed_tt, fixed_mm = jax.lax.stop_gradient((tt, mm))
    return u2u, divergence(fixed_mm, tm, temperature_u2c) + divergence(
        fixed_tt, mt, temperature_u2c
    )


def repeated(seed=0, rows=24, dim=300):
    """Texts and molecules of length one, float32: some equal, some that differ by 1e-3 and 1e-5."""
    generator = np.random.default_rng(seed)
    text, mol = generator.normal(size=(2, rows, dim))
    mol += 2 * text  # positives are nearer than negatives
    text[1], mol[3], mol[4], mol[6] = text[0], mol[2], text[5], mol[2]
    text, mol = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, mol))
    text[7] = text[8] + 1e-3 * text[9]
    mol[10] = text[11] + 1e-5 * text[9]
    return text.astype(np.float32), mol.astype(np.float32)


def same_slopes(ours, theirs, arguments):
    """The slopes of both, in float64 to 1e-6 and in float32 to 1e-5 of the greatest."""
    both = tuple(range(len(arguments)))
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in arguments]
        expected, found = (jax.grad(f, both)(*wide) for f in (theirs, ours))
        expected, found = jax.tree.map(np.asarray, (expected, found))
    near = [np.asarray(x) for x in jax.grad(ours, both)(*map(jnp.asarray, arguments))]
    for want, exact, rounded in zip(expected, found, near, strict=True):
        scale = float(np.abs(want).max())
        assert exact.dtype == np.float64 and rounded.dtype == np.float32 and scale > 0
        np.testing.assert_allclose(exact, want, rtol=0, atol=1e-6 * scale)
        np.testing.assert_allclose(rounded, want, rtol=0, atol=1e-5 * scale)


def temporaries(loss, *shapes):
    """Bytes that the compiled slope takes beside its inputs and results; nothing is run."""
    held = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*held).compile()
    return compiled.memory_analysis().temp_size_in_bytes
