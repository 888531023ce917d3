"""The accelerator's benchmark, on a toy model: every line of it is printed."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

TOOL = vars(importlib.import_module("tools.bench.gpu"))
bench_gpu = SimpleNamespace(**TOOL)


@pytest.mark.slow
def test_it_prints_every_line(capsys):
    bench_gpu.main(bench_gpu.Arguments(shrunk=True))
    said = capsys.readouterr().out
    lines = ["a large product", "packed: ", "buckets: ", "PyTorch: not compared", "60 epochs"]
    lines += ["attention, float32 prob", "attention, low memory, with", "evaluation", "graph"]
    for line in lines:
        assert line in said, line
    assert said.count("target") == 5


def test_generated_lengths_are_those_of_chebi20():
    lengths = np.diff(bench_gpu.texts(20_000, bench_gpu.FULL, 0).offsets)
    assert 83 < lengths.mean() < 87 and 38 < lengths.std() < 46 and lengths.max() == 256


def test_generated_molecules_hold_together():
    mol = bench_gpu.molecules(200, 0)
    sizes = np.repeat(np.diff(mol.node_offsets), np.diff(mol.edge_offsets))
    assert (mol.senders < sizes).all() and (mol.receivers < sizes).all()
    assert 25 < np.diff(mol.node_offsets).mean() < 35
