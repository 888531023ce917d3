"""Counts of operations by hand, and speeds of a clock that is turned by hand."""

import numpy as np
import pytest

from tmr_jax.models.layers.bert import BertConfig, text_operations
from tmr_jax.train import throughput
from tmr_jax.train.throughput import TPU_PEAKS, Throughput, Work, peak_of, sentence

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
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
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
    speed.done(work)  # begins anew
    clock[0] = 101.0
    speed.done(work)
    found = speed.summary()
    assert found["compile_seconds"] == 3.0 and found["programs"] == 1
    assert found["step_seconds"] == 0.25  # median of 1, 2 and 1 seconds, four steps each
    assert found["pairs_per_second"] == 3 * 64 / 4
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
