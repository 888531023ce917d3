"""The data set and the model of docs/extend.md train, evaluate and search as printed there."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import re
import sys
from pathlib import Path

import pytest

import tmr_jax
from tmr_jax.cli import Signals
from tmr_jax.config import DataConfig, EvalConfig, load_experiment
from tmr_jax.eval.__main__ import main as evaluate
from tmr_jax.train.__main__ import train
from tmr_jax.types import UserError

pytestmark = pytest.mark.costly

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.M | re.S)


def load(folder: Path, name: str, code: str) -> None:
    """The file of a code block as the module that it would be inside of the package."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    module = name.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None and spec.loader is not None
    sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[module])
    parent, _, child = module.rpartition(".")
    setattr(importlib.import_module(parent), child, sys.modules[module])


@pytest.fixture
def extended(tmp_path):
    """The package with what docs/extend.md adds to it, and the model in tmp_path / mine.py."""
    from tmr_jax.data import READERS
    from tmr_jax.data.pools import POOLS

    blocks = dict(BLOCK.findall((ROOT / "docs" / "extend.md").read_text(encoding="utf-8")))
    assert [*blocks] == ["tmr_jax/data/datasets/toy.py", "register", "mine.py"]
    before = [(table, dict(table)) for table in (READERS, POOLS)]
    load(tmp_path, "tmr_jax/data/datasets/toy.py", blocks["tmr_jax/data/datasets/toy.py"])
    exec(blocks["register"], {})
    (tmp_path / "mine.py").write_text(blocks["mine.py"], encoding="utf-8")
    yield
    for table, content in before:
        table.clear()
        table.update(content)
    sys.modules.pop("tmr_jax.data.datasets.toy", None)


def test_a_model_of_ones_own_and_a_new_data_set_train_evaluate_and_search(extended, tmp_path):
    tiny = load_experiment(str(ROOT / "tests" / "experiments" / "tiny.py"))
    config = dataclasses.replace(
        tiny,
        name="toy",
        data=DataConfig(name="toy"),
        model=dataclasses.replace(tiny.model, name=f"{tmp_path / 'mine.py'}:Margin"),
        train=dataclasses.replace(tiny.train, epochs=2),
        eval=EvalConfig(bootstrap=20, batch_size=16),
    )
    run = tmp_path / "run"
    train(config, run, False, Signals())
    assert (run / "metrics.jsonl").is_file()
    assert evaluate(["--run", str(run)]) == 0
    library = tmr_jax.load(run).with_library(["CCCO", "CCC", "CCCCCO"])
    hits = library.search("an alcohol of 3 carbon atoms", k=3)
    assert len(hits) == 3 and all(math.isfinite(hit.score) for hit in hits)
    # The copy in the run is what is read: also where the file is gone, and where it says otherwise.
    (tmp_path / "mine.py").write_text("class Margin: pass")
    assert tmr_jax.load(run).config.model.name.endswith("mine.py:Margin")
    with pytest.raises(UserError, match=r"mine.py as it was when the training of .* began"):
        train(config, run, False, Signals())
