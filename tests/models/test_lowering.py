"""Train steps as they are handed to TPU's compiler; `tools/check_versions.py` lowers more of them
at the oldest JAX."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from tmr_jax.models.checkpoint import variables

pytestmark = pytest.mark.costly

WORDS = "tensor<6x16x"  # of six texts in 16 places


@pytest.fixture(scope="module")
def lowered(check_lowering):
    kept: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in kept:
            kept[name] = check_lowering.lowered(name)
        return kept[name]

    return of


@pytest.mark.parametrize("name", ["dual", "difftmr", "mbank packed"])
def test_a_train_step_lowers_for_tpu(name, lowered):
    assert "stablehlo.dot_general" in lowered(name)


def test_the_loop_over_all_50_noise_levels_is_in_the_step(check_lowering, lowered):
    """DiffTMR as published: the KL at each of T = 50 levels, in one compiled program."""
    config = check_lowering.experiment("difftmr")
    assert (config.model.hdan.objective, config.model.hdan.steps) == ("all_steps", 50)
    assert 50 in check_lowering.trips(lowered("difftmr"))
    assert 50 not in check_lowering.trips(lowered("dual"))


def float32_products(check_lowering, config) -> list[str]:
    """Those of the gradient of a loss by parameters and features, lowered for a TPU."""
    model, params, batch = check_lowering.built(config, "tpu")

    def of(params, *batch, method, **more):
        return model.apply(variables(params), *batch, method=method, **more)

    drops = {"rngs": {"dropout": jax.random.key(0)}}
    encoded = jax.eval_shape(lambda p: of(p, batch, False, method="encode"), params)

    def loss(params, floats, groups):
        whole = encoded._replace(**floats, **groups)
        return of(params, whole, jax.random.key(0), True, method="loss", **drops)[0]

    features, groups = {"text": encoded.text, "mol": encoded.mol}, ("text_group", "mol_group")
    given = params, features, {name: getattr(encoded, name) for name in groups}
    step = jax.jit(jax.grad(loss, (0, 1), allow_int=True))
    text = step.trace(*given).lower(lowering_platforms=("tpu",)).as_text()
    return re.findall(r"stablehlo\.dot_general.*xf32>.*", text)


@pytest.mark.parametrize("name", ["dual", "difftmr", "difftmr random_step", "mbank"])
def test_float32_products_of_a_loss_are_of_float32_on_a_tpu(name, check_lowering):
    """Those of its gradient too, save for the weights of words, a network of their own."""
    products = float32_products(check_lowering, check_lowering.experiment(name))
    lower = [line for line in products if "HIGHEST, HIGHEST" not in line]
    assert len(products) > len(lower)
    assert [line for line in lower if WORDS not in line] == []


def test_only_a_generator_of_bfloat16_features_takes_three_passes(check_lowering):
    config = check_lowering.experiment("difftmr packed")
    assert config.train.precision == "bfloat16"
    found = float32_products(check_lowering, config)
    three = [line for line in found if "[HIGH, HIGH]" in line]
    assert three and [line for line in found if "[HIGHEST, HIGHEST]" in line]
    hdan = dataclasses.replace(config.model.hdan, weight=0.0)
    without = dataclasses.replace(config, model=dataclasses.replace(config.model, hdan=hdan))
    found = float32_products(check_lowering, without)
    assert found and not [line for line in found if "[HIGH, HIGH]" in line]


def test_loops_and_their_trips(check_lowering):
    """Nested loops, one without a constant number of trips, and none."""

    def nested(x, n):
        def outer(x, _):
            return jax.lax.scan(lambda y, _: (jnp.sin(y), None), x, None, length=7)[0], None

        x = jax.lax.scan(outer, x, None, length=50)[0]
        return jax.lax.fori_loop(0, n, lambda _, y: jnp.cos(y), x)

    assert check_lowering.trips(jax.jit(nested).lower(1.0, 3).as_text()) == [50, 7, 0]
    assert check_lowering.trips(jax.jit(jnp.sin).lower(1.0).as_text()) == []
