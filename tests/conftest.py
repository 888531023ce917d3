"""What every test may rely on: several CPU devices, no network, folders of its own, checked shapes.

The settings are environment variables where possible, so that programs started by tests have them.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

# pytest-xdist imports this file once more in each worker; those inherit the first one's folder.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    os.environ["TMR_JAX_TEST_FOLDER"] = tempfile.mkdtemp(prefix="tmr_jax-tests-")  # mode 0700
FOLDER = Path(os.environ["TMR_JAX_TEST_FOLDER"])

os.environ |= {
    "TMR_JAX_CACHE": str(FOLDER / "cache"),
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    # Compiled code is trusted code: kept in a private folder, shared by the workers, then deleted.
    "JAX_COMPILATION_CACHE_DIR": str(FOLDER / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # Most programs here run a few times: to compile them well takes longer than to run them badly.
    # Parity and invariance are tested on what users run (`optimized`), as is the whole line.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    # Programs started by tests find a closed door instead of a network.
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
}
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
if os.environ.get("TMR_JAX_DATA"):
    os.environ["TMR_JAX_DATA"] = str(Path(os.environ["TMR_JAX_DATA"]).absolute())


def block_network() -> None:
    """From here on this process connects to loopback addresses and local sockets only."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(own: socket.socket, address: Any) -> None:
        if own.family not in (socket.AF_INET, socket.AF_INET6):
            return
        host = str(address[0])
        if host != "localhost" and not ipaddress.ip_address(host.split("%")[0]).is_loopback:
            raise OSError(f"tests have no network; {host}:{address[1]} was asked for")

    def guarded(own: socket.socket, address: Any) -> None:
        check(own, address)
        connect(own, address)

    def guarded_ex(own: socket.socket, address: Any) -> int:
        check(own, address)
        return connect_ex(own, address)

    socket.socket.connect, socket.socket.connect_ex = guarded, guarded_ex  # type: ignore[assignment]


block_network()


CHECKED = ("models", "train", "eval.metrics", "eval.scores")  # rooms, and files of other rooms


def check_annotations() -> None:
    """Shapes and types of annotated functions are checked at each call, where arrays flow.

    Not in data.features (time limits are tested there), nor in eval.rank, whose own error for
    widths that differ is tested.
    """
    import jax
    import jaxtyping
    import numpy as np

    # Outside of jit our functions take numpy arrays too, as those of jax itself do.
    jaxtyping.Array = jax.Array | np.ndarray
    package = Path(__file__).resolve().parents[1] / "tmr_jax"
    for name in CHECKED:  # or the hook would check nothing without a word
        place = package / name.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), name
    jaxtyping.install_import_hook([f"tmr_jax.{name}" for name in CHECKED], "beartype.beartype")


check_annotations()


# Files that take a minute or more, which each worker gets whole: one that began last would leave
# the others without work.
LONG = ("test_experiments", "train/test_processes", "train/test_parallel", "train/test_main")
LONG += ("train/test_loader", "e2e/test_walkthrough", "e2e/test_line", "e2e/test_mirror")
LONG += ("e2e/test_clone", "models/test_memory_bank", "eval/test_rerank", "tools/test_bench_gpu")
TESTS = Path(__file__).resolve().parent
LONG_FILES = tuple(TESTS / f"{name}.py" for name in LONG)


def leave_marks_of_other_cases(items: list[pytest.Item]) -> set[str]:
    """`slow("flash")` marks the cases of a test that have `flash` in their name, and no others.

    Returns the names that no case of their test has.
    """
    used: dict[str, bool] = {}
    for item in items:
        test, _, case = item.nodeid.partition("[")
        for mark in list(item.own_markers):
            if mark.name in ("slow", "costly") and mark.args:
                here = {f"{test} {mark.name}({name!r})": name in case for name in mark.args}
                used |= {name: used.get(name, False) or hit for name, hit in here.items()}
                if not any(here.values()):
                    item.own_markers.remove(mark)
    return {name for name, hit in used.items() if not hit}


@pytest.hookimpl(tryfirst=True)  # before pytest looks for the marks of -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stale = leave_marks_of_other_cases(items)
    if stale and not any("::" in name for name in config.args):  # then some cases are not here
        raise pytest.UsageError(f"marks of cases that do not exist: {sorted(stale)}")
    items.sort(key=lambda item: item.path not in LONG_FILES)
    data = os.environ.get("TMR_JAX_DATA", "")
    absent = pytest.mark.skip(reason="TMR_JAX_DATA names no folder with the public data sets")
    no_device = pytest.mark.skip(reason="no accelerator: set JAX_PLATFORMS=cuda or tpu")
    for item in items:
        if item.get_closest_marker("real_data") and not Path(data or "missing").is_dir():
            item.add_marker(absent)
        if item.get_closest_marker("accelerator") and os.environ["JAX_PLATFORMS"] == "cpu":
            item.add_marker(no_device)


@pytest.fixture(autouse=True)
def only_marked_tests_see_real_data(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is not marked passes or fails alike wherever it runs."""
    if not request.node.get_closest_marker("real_data"):
        monkeypatch.delenv("TMR_JAX_DATA", raising=False)


@pytest.fixture(scope="session")
def check_lowering() -> Any:
    """`tools/check_lowering.py`: toys of the published experiments, and their programs."""
    return importlib.import_module("tools.check_lowering")


def pytest_sessionfinish() -> None:
    if not IS_WORKER:
        shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tests/experiments/tiny.py as training leaves it, its parameters as first drawn."""
    import numpy as np
    import optax

    from tmr_jax.config import load_experiment, to_json
    from tmr_jax.data import load_pairs
    from tmr_jax.data.batching import make_batch
    from tmr_jax.models.checkpoint import Checkpoints, new_state
    from tmr_jax.models.run import init_params, save_model
    from tmr_jax.train.dataset import model_and_dataset

    run = tmp_path_factory.mktemp("runs") / "tiny"
    run.mkdir()
    config = load_experiment(str(Path(__file__).parent / "experiments" / "tiny.py"))
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    assembly, data, _ = model_and_dataset(config, load_pairs(config.data))
    save_model(run, assembly, data.shapes)
    rows, groups = np.arange(config.train.batch_size), (data.text_group, data.mol_group)
    batch = make_batch(
        rows, data.text, data.mol, *groups, data.shapes, assembly.tokenizer.pad_token
    )
    checkpoints = Checkpoints(run)
    params = init_params(assembly, batch, 0)
    checkpoints.save(new_state(params, optax.adam(0.1)), 1, score=0.5)
    checkpoints.close()
    return run


@pytest.fixture
def slice_of_chebi(tmp_path: Path) -> Any:
    """`slice_of_chebi(train=.., validation=.., test=..)`: a table of real text, so many definitions
    of each part."""
    from tmr_jax.config import DataConfig, TableConfig
    from tmr_jax.data.datasets import chebi

    def make(**sizes: int) -> DataConfig:
        path = tmp_path / "chebi.tsv"
        rows = [t for t in chebi.terms() if t.kind == "definition"]
        kept = [t for part, n in sizes.items() for t in [t for t in rows if t.part == part][:n]]
        lines = [("id", "description", "SMILES", "split")]
        lines += [(t.chebi_id, t.caption, t.smiles, t.part) for t in kept]
        path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
        table = TableConfig(path=str(path), id="id", split="column", split_column="split")
        return DataConfig(name="table", table=table)

    return make


@pytest.fixture
def optimized():
    """Programs as users have them."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
