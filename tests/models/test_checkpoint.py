"""Damaged checkpoints are never loaded and nothing is deleted when all are."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tmr_jax.config import OptimConfig
from tmr_jax.models.checkpoint import (
    DRAWS,
    Checkpoints,
    TrainState,
    layerwise,
    new_state,
    parameters_sha256,
    restore_params,
    scanned,
    without,
)
from tmr_jax.train.optim import build_adversary, build_optimizer


def state_at(step: int) -> TrainState:
    """Every number of it says which step it is from."""
    params = {
        "text_encoder": {
            "dense": {"kernel": jnp.full((3, 4), 1.0 * step), "bias": jnp.zeros(4)},
            "layers": {"query": {"kernel": step + jnp.arange(24.0).reshape(12, 2)}},
        },
        "log_scale": jnp.asarray(0.5 + step),
        "critic": {"kernel": jnp.full(3, 3.0 * step)},
        "batch_stats": {"norm": {"mean": jnp.full(2, 0.25 * step)}},
    }
    config, rivals = OptimConfig(), frozenset({"critic"})
    trained = without(params, rivals | {"batch_stats"})
    optimizer = build_optimizer(config, 100, trained, {"text_encoder": "text"})
    state = new_state(params, optimizer, frozenset(), build_adversary(config), rivals)
    moments, rival = jax.tree.map(
        lambda m: m + step if m.dtype == jnp.float32 else m, (state.optimizer, state.adversary)
    )
    return TrainState(jnp.asarray(step, jnp.int32), params, moments, rival)


def saved(run, scores):
    """A run with a checkpoint for each step of `scores`."""
    checkpoints = Checkpoints(run)
    for step, score in scores.items():
        checkpoints.save(state_at(step), step, score)
    checkpoints.close()


def restored(run):
    said = []
    checkpoints = Checkpoints(run, said.append)
    found = checkpoints.restore(state_at(0))
    checkpoints.close()
    return found, said


def steps(run):
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.is_dir())


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def files(run):
    return {p: p.read_bytes() for p in (run / "checkpoints").rglob("*") if p.is_file()}


def test_the_whole_state_comes_back_bit_for_bit(tmp_path):
    assert restored(tmp_path) == (None, [])
    saved(tmp_path, {3: None, 6: 0.25})
    found, said = restored(tmp_path)
    assert (found.step, found.score, said) == (6, 0.25, [])
    same(found.state, state_at(6))
    # what comes back can be given away to a step
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(found.state)


def test_an_average_is_what_others_read_and_both_come_back(tmp_path):
    def both(step):
        return state_at(step)._replace(
            average=jax.tree.map(lambda x: x + 0.5, state_at(step).params)
        )

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(both(3), 3)
    checkpoints.wait()
    found = checkpoints.restore(both(0))
    checkpoints.close()
    same(found.state, both(3))
    same(restore_params(tmp_path)[0], both(3).average)


def test_on_disk_every_layer_of_bert_has_its_own_arrays(tmp_path):
    """As runs before had them, so that programs of either time read them; also their name."""
    saved(tmp_path, {3: None})
    manifest = json.loads((tmp_path / "checkpoints" / "3.manifest.json").read_text())
    names = {n for n in manifest["params"] if n.startswith("text_encoder/layer")}
    assert names == {f"text_encoder/layer_{i}/query/kernel" for i in range(12)}
    assert manifest["params"]["text_encoder/layer_10/query/kernel"] == [[2], "float32"]
    params = state_at(3).params
    assert layerwise(params)["text_encoder"]["layer_10"]["query"]["kernel"].tolist() == [23, 24]
    same(scanned(layerwise(params)), params)
    same(restore_params(tmp_path)[0], params)
    assert parameters_sha256(params) == parameters_sha256(layerwise(params))
    moved = state_at(3).params
    encoder = moved["text_encoder"]
    encoder["layers"] = jax.tree.map(lambda x: x[::-1], encoder["layers"])  # in another order
    assert parameters_sha256(moved) != parameters_sha256(params)


def test_a_checkpoint_of_other_draws_is_read_but_not_trained_on(tmp_path):
    """Without the field it is of a program that knew of none."""
    for told in ({"draws": DRAWS - 1}, {}):
        run = tmp_path / str(len(told))
        saved(run, {3: 0.5})
        path = run / "checkpoints" / "3.manifest.json"
        manifest = json.loads(path.read_text())
        assert manifest.pop("draws") == DRAWS
        path.write_text(json.dumps(manifest | told))
        before = files(run)
        with pytest.raises(ValueError, match="other random numbers"):
            restored(run)
        assert files(run) == before
        params, step = restore_params(run)
        assert step == 3
        same(params, state_at(3).params)


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = state_at(5)
    checkpoints.save(state, 5)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    for _ in range(20):
        state = step(state)
        checkpoints.poll()
    checkpoints.close()
    same(restored(tmp_path)[0].state, state_at(5))


def test_the_two_newest_and_the_best_are_kept(tmp_path):
    saved(tmp_path, {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.2, 6: None})
    assert steps(tmp_path) == [2, 5, 6]
    params, step = restore_params(tmp_path)
    assert step == 2
    same(params, state_at(2).params)
    assert restore_params(tmp_path, "newest")[1] == 6


def test_a_score_can_be_added_to_a_checkpoint_that_is_there(tmp_path):
    saved(tmp_path, {1: 0.5, 2: None})
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(state_at(0))
    checkpoints.save(found.state, 2, 0.7)
    checkpoints.close()
    assert restore_params(tmp_path)[1] == 2
    assert restored(tmp_path)[0].score == 0.7


def truncate(run):
    path = max((run / "checkpoints" / "6").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    path.write_bytes(path.read_bytes()[:-1])


def remove_file(run):
    next(p for p in sorted((run / "checkpoints" / "6").rglob("*")) if p.is_file()).unlink()


def remove_manifest(run):
    (run / "checkpoints" / "6.manifest.json").unlink()


def cut_manifest(run):
    path = run / "checkpoints" / "6.manifest.json"
    path.write_text(path.read_text()[:50])


@pytest.mark.parametrize("damage", [truncate, remove_file, remove_manifest, cut_manifest])
def test_a_damaged_newest_is_named_and_the_one_before_it_is_taken(tmp_path, damage):
    saved(tmp_path, {3: 0.5, 6: 0.6})
    damage(tmp_path)
    found, said = restored(tmp_path)
    assert found.step == 3
    same(found.state, state_at(3))
    assert len(said) == 2
    assert str(tmp_path / "checkpoints" / "6") + " is damaged" in said[0]
    assert str(tmp_path / "checkpoints" / "3") in said[1]
    for which in ("best", "newest"):
        assert restore_params(tmp_path, which, said.append)[1] == 3
    # training goes on from there, saves that step anew, and is whole again
    checkpoints = Checkpoints(tmp_path, said.append)
    checkpoints.restore(state_at(0))
    checkpoints.save(state_at(6), 6, 0.7)
    checkpoints.close()
    found, said = restored(tmp_path)
    assert (found.step, said) == (6, [])
    same(found.state, state_at(6))


def test_any_flipped_bit_is_found(tmp_path):
    saved(tmp_path, {3: None, 6: None})
    chosen = random.Random(0)
    paths = sorted(p for p in (tmp_path / "checkpoints" / "6").rglob("*") if p.is_file())
    for path in [p for p in paths if p.stat().st_size] * 3:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[chosen.randrange(len(flipped))] ^= 1 << chosen.randrange(8)
        path.write_bytes(bytes(flipped))
        said = []
        assert restore_params(tmp_path, "newest", said.append)[1] == 3
        assert path.name in said[0]
        path.write_bytes(whole)
    assert restore_params(tmp_path, "newest")[1] == 6


def test_where_all_are_damaged_it_says_so_and_deletes_nothing(tmp_path):
    saved(tmp_path, {3: 0.5, 6: 0.6})
    truncate(tmp_path)
    (tmp_path / "checkpoints" / "3.manifest.json").write_text("{}")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"all damaged \(steps 3, 6\); nothing was deleted"):
        restored(tmp_path)
    with pytest.raises(ValueError, match="all damaged"):
        restore_params(tmp_path, report=lambda text: None)
    assert files(tmp_path) == before


def test_a_run_without_checkpoints_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"expected a checkpoint in .*; got none; train the run"):
        restore_params(tmp_path)


def test_parameters_of_another_model_are_refused(tmp_path):
    saved(tmp_path, {3: None})
    other = state_at(0)
    other = other._replace(params={**other.params, "more": jnp.zeros(2)})
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="more absent instead of"):
        checkpoints.restore(other)
    checkpoints.close()


def test_a_save_that_fails_is_raised_and_the_old_ones_stay(tmp_path, monkeypatch):
    saved(tmp_path, {3: None})
    checkpoints = Checkpoints(tmp_path)

    def full(folder, manifest):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("tmr_jax.models.checkpoint._write_manifest", full)
    checkpoints.save(state_at(6), 6)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()
    assert restored(tmp_path)[0].step == 3


def test_the_manifest_lists_every_file(tmp_path):
    saved(tmp_path, {3: 0.5})
    listed = json.loads((tmp_path / "checkpoints" / "3.manifest.json").read_text())
    place = tmp_path / "checkpoints" / "3"
    assert set(listed["files"]) == {
        str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()
    }
    assert listed["params"]["text_encoder/dense/kernel"] == [[3, 4], "float32"]
