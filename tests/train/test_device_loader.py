"""Batches taken on the device are those that the host makes, array by array."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tmr_jax.data.batching import Composition, declare_rows, declare_shapes, make_batch
from tmr_jax.data.tables import TextTable, molecule_table, table_take
from tmr_jax.train.loader import device_tables, plan_steps, take_batch
from tmr_jax.types import Taught

SMILES = ["CCO", "C", "CC(=O)NC", "[Na+].[Cl-]", "c1ccccc1", "CCCCCCCCOC(=O)c1ccccc1"]
ROW, PAD = 24, 59


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    mol = molecule_table(SMILES, "ogb_counts", "brics")[0]
    mol = table_take(mol, random.integers(len(SMILES), size=90))
    lengths = random.integers(1, ROW + 1, 90)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    text = TextTable(random.integers(1, 50, offsets[-1]).astype(np.int32), offsets, lengths < 0)
    groups = random.integers(0, 40, (2, 90)).astype(np.int32)
    return text, mol, *groups


def declared(text, mol, batch_size):
    plan = Composition(np.diff(text.offsets), batch_size, ROW).sample()
    shapes = declare_shapes(mol, (ROW,), batch_size, plan)
    return shapes._replace(rows=declare_rows(np.diff(text.offsets), plan, ROW)), plan


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_every_array_is_that_of_the_host(data, batch_size):
    text, mol, *groups = data
    shapes, plan = declared(text, mol, batch_size)
    described = np.random.default_rng(1).integers(-1, 40, (90, 3)).astype(np.int32)
    taught = Taught(*np.random.default_rng(2).normal(size=(2, 90, 4)).astype(np.float16))
    more = {"described": described, "taught": taught}
    tables = jax.device_put(device_tables(*data)._replace(**more))
    take = jax.jit(take_batch, static_argnums=(2, 3))
    for rows in plan[:12]:
        chosen, size = plan_steps(rows[None], text, mol, shapes)
        found = take(tables, jax.tree.map(lambda x: x[0], chosen), size, PAD)
        wanted = make_batch(rows, text, mol, *groups, shapes, PAD, described=described)
        wanted = wanted._replace(taught=Taught(*(side[rows] for side in taught)))
        for (path, ours), theirs in zip(
            jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True
        ):
            name = jax.tree_util.keystr(path)
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_steps_of_one_call_share_the_shape_that_holds_them_all(data):
    text, mol, *_ = data
    shapes, plan = declared(text, mol, 16)
    sizes = [plan_steps(rows[None], text, mol, shapes)[1] for rows in plan]
    chosen, size = plan_steps(plan, text, mol, shapes)
    assert size == tuple(map(max, zip(*sizes, strict=True)))
    assert chosen.first.shape == plan.shape


def test_a_table_too_long_for_32_bits_is_refused(data):
    text, *rest = data
    long = text._replace(tokens=np.broadcast_to(np.int32(1), 2**31))  # takes no memory
    with pytest.raises(ValueError, match=r"2\*\*31 rows on the device; got 2,147,483,648"):
        device_tables(long, *rest)
