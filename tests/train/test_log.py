"""metrics.jsonl without gaps or doubles, numbers that JSON has, a picture; operations by hand."""

import json

import numpy as np
import pytest

from tmr_jax.models.layers.bert import BertConfig, text_operations
from tmr_jax.models.runtime import read_metrics
from tmr_jax.train import log
from tmr_jax.train.log import (
    TPU_PEAKS,
    Display,
    History,
    Throughput,
    Work,
    draw_losses,
    peak_of,
    sentence,
)


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    history = History(tmp_path, 0, False)
    for step in (1, 2, 3, 4):
        history.add({"step": step, "loss": 1.0 / step})
    history.add({"step": 2, "validation/mrr": 0.5})
    history.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # killed
    History(tmp_path, 2, validated=True).close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 2]
    History(tmp_path, 2, validated=False).close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    History(tmp_path, 0, validated=False).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def scalars(folder):
    """(step, name, value) of every event in a folder. A record: length, check, data, check."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        rest = path.read_bytes()
        while rest:
            end = 12 + int.from_bytes(rest[:8], "little")
            event = Event.FromString(rest[12:end])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            rest = rest[end + 4 :]
    return found


def test_tensorboard_has_the_numbers_of_metrics_once_each(tmp_path):
    history = History(tmp_path, 0, False, tensorboard=True)
    for step in (1, 2, 3, 4):
        history.add({"step": step, "loss": 1.0 / step, "note": "no number"})
    history.close()
    history = History(tmp_path, 2, False, tensorboard=True)
    history.add({"step": 3, "loss": 8.0})
    history.close()
    found = scalars(tmp_path / "tensorboard")
    assert found == [(1, "loss", 1.0), (2, "loss", 0.5), (3, "loss", 8.0)]


def test_every_line_is_strict_json(tmp_path):
    history = History(tmp_path, 0, False)
    history.add({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "skipped": 1})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # flushed, not closed
    assert json.loads(line) == {"step": 1, "loss": None, "grad_norm": None, "skipped": 1}
    history.close()


def test_the_picture_is_drawn_even_of_nothing(tmp_path):
    draw_losses(tmp_path)
    (tmp_path / "loss.png").unlink()
    history = History(tmp_path, 0, False)
    history.add({"step": 1, "loss": 2.0, "loss/t2m": 1.0})
    history.add({"step": 1, "validation/t2m/mrr": 0.5})
    history.close()
    draw_losses(tmp_path)
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_lines_come_now_and_then_where_there_is_no_terminal(capsys):
    with Display(total=1000, batch_size=8) as display:
        for step in range(1, 200):
            display.step({"step": step, "loss": 1.5, "scale": 3.0, "pairs_per_second": 4.0})
        display.step({"step": 1000, "loss": 0.25, "skipped": 2})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/1000")
    assert "loss 1.500  4 pairs/s  0:33:18 left" in lines[0]
    assert "2 steps skipped" in lines[1]


# Speed

SCIBERT = BertConfig(31_090, 768, 12, 12, 3_072)
SMALL = BertConfig(vocab_size=9, hidden=2, layers=1, heads=1, intermediate=3)


def test_operations_of_a_small_encoder_by_hand():
    """A text of 5: 2 (4 x 4 + 2 x 6) 5 in the linear maps, 4 x 2 x 25 in attention, three times."""
    assert text_operations(SMALL, np.array([5])) == 3 * (280 + 200)
    assert text_operations(SMALL, np.array([5, 5])) == 6 * (280 + 200)


def test_scibert_at_the_mean_length_of_chebi20():
    """6 x 85 M parameters x 85 tokens, and 2 % for attention."""
    found = text_operations(SCIBERT, np.array([85]))
    assert 6 * 85e6 * 85 < found < 6 * 85e6 * 85 * 1.03


@pytest.mark.parametrize(
    ("kind", "peak"),
    {
        "TPU v4": 275e12,
        "TPU v5 lite": 197e12,
        "TPU v5": 459e12,
        "TPU v6 lite": 918e12,
        "TPU7x": 1153.5e12,  # a chip's 2307 are of two devices
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA B200": 2250e12,
        "NVIDIA L4": 121e12,
        "Tesla T4": 65e12,
    }.items(),
)
def test_peaks_go_by_the_name_of_the_device(kind, peak):
    assert peak_of(kind) == peak


@pytest.mark.parametrize("kind", ["cpu", "TPU v5 heavy", "NVIDIA L40S", "NVIDIA GB200", ""])
def test_no_peak_is_made_up(kind):
    """Seen to fail with parts of words: the L40S would have had the L4's."""
    assert peak_of(kind) is None


def test_tpus_are_called_what_jax_calls_them():
    known = pytest.importorskip("jax._src.tpu_info").chip_version_from_device_kind
    assert all(known(kind) is not None for kind in TPU_PEAKS)
    assert known("TPU v5 heavy") is None


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    return now


def test_pauses_are_no_time_of_steps(clock):
    speed = Throughput(2, "NVIDIA H200")
    assert speed.summary() == {"compile_seconds": 0.0, "programs": 0}
    speed.compiled(3.0)
    work = Work(steps=4, pairs=64, tokens=600, places=800, xla=2e12, text=1e12)
    for later in (1.0, 2.0, 4.0):
        clock[0] = later
        speed.done(work)
    speed.pause()
    clock[0] = 100.0
    speed.done(work)  # not counted: its start is not known
    clock[0] = 101.0
    speed.done(work)
    found = speed.summary()
    assert found["compile_seconds"] == 3.0 and found["programs"] == 1
    assert found["step_seconds"] == 0.25  # median of 1, 2 and 1 seconds, four steps each
    assert found["pairs_per_second"] == speed.pairs_per_second() == 3 * 64 / 4
    assert found["real_tokens_per_second"] == 3 * 600 / 4
    assert found["real_share"] == 0.75
    assert found["mfu"] == pytest.approx(3e12 / 4 / (2 * 989e12))
    said = sentence(found)
    assert "48 pairs/s" in said and "75% of the places" in said and "MFU 0.0%" in said


def test_without_a_known_peak_there_is_no_mfu(clock):
    speed = Throughput(1, "cpu")
    for later in (1.0, 2.0):
        clock[0] = later
        speed.done(Work(1, 8, 0, 0, 0.0, 0.0))
    found = speed.summary()
    assert "mfu" not in found and found["real_share"] == 1.0 and "MFU" not in sentence(found)
