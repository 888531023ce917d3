"""Train steps as they are handed to TPU's compiler; `tools/check_versions.py` lowers more of them
at the oldest JAX."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "check_lowering.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_lowering", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lowered(tool):
    kept: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in kept:
            kept[name] = tool.lowered(name)
        return kept[name]

    return of


@pytest.mark.parametrize("name", ["dual", "difftmr", "mbank packed"])
def test_a_train_step_lowers_for_tpu(name, lowered):
    assert "stablehlo.dot_general" in lowered(name)


def test_the_loop_over_all_50_noise_levels_is_in_the_step(tool, lowered):
    """DiffTMR as published: the KL at each of T = 50 levels, in one compiled program."""
    config = tool.experiment("difftmr")
    assert (config.model.hdan.objective, config.model.hdan.steps) == ("all_steps", 50)
    assert 50 in tool.trips(lowered("difftmr"))
    assert 50 not in tool.trips(lowered("dual"))


def test_loops_and_their_trips(tool):
    """Nested loops, one without a constant number of trips, and none."""

    def nested(x, n):
        def outer(x, _):
            return jax.lax.scan(lambda y, _: (jnp.sin(y), None), x, None, length=7)[0], None

        x = jax.lax.scan(outer, x, None, length=50)[0]
        return jax.lax.fori_loop(0, n, lambda _, y: jnp.cos(y), x)

    assert tool.trips(jax.jit(nested).lower(1.0, 3).as_text()) == [50, 7, 0]
    assert tool.trips(jax.jit(jnp.sin).lower(1.0).as_text()) == []
