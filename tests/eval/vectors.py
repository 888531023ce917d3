"""Rows of length one, whose cosines can be worked out by hand."""

import numpy as np

from tmr_jax.models.encode import l2_normalize

AXES = np.eye(4, dtype=np.float32)


def on_circle(*degrees):
    turn = np.deg2rad(degrees)
    return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)


def random_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return l2_normalize(rows.astype(np.float32))
