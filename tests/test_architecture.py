"""The plan of the house, held by reading every file: who imports whom, and what never comes in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tmr_jax").rglob("*.py"))
OURS = [
    *FILES,
    *sorted((ROOT / "experiments").glob("*.py")),
    *sorted((ROOT / "tools").glob("*.py")),
]

# What the files of a folder, or one file, may import of ours at any level.
# The files beside them (entry points and what these share) may import everything below.
MAY_IMPORT = {
    "types": set(),
    "config": set(),
    "files": set(),
    "drawing": {"types", "features"},
    "features": {"types", "features", "files"},
    "data": {"types", "features", "data", "config", "files"},
    "nn": {"types", "nn"},
    "losses": {"types", "losses"},
    "models": {"types", "nn", "losses", "models", "config"},
    "retrieval": {"types", "retrieval"},
    "store": {"types", "store", "files"},
    # Names of the Python API and what its hits are written and drawn with.
    "service": {"service", "drawing", "explain", "features", "filters", "hits_file", "retriever"}
    | {"store", "__version__"},
    "training": {"types", "training", "config", "files", "nn"},
}
# Nothing imports them but one another.
ENTRY_POINTS = {"cli", "train", "eval", "index", "search", "serve", "table"}
# The configuration is read by builders; a model's file takes the section it is built from.
BUILDERS = ("data/__init__.py", "models/", "train/optim.py")

HOMES = {
    "orbax": {"models/checkpoint.py"},
    "jraph": {"types.py", "models/layers/gcn.py", "data/batching.py"},
    "rdkit": {"features/", "data/", "drawing.py", "hits_file.py"},
    "tokenizers": {"data/features/text.py"},
    "lancedb": {"index/lance.py"},
    "pymilvus": {"index/milvus.py"},
    "milvus_lite": {"index/milvus.py", "index/open.py"},
    "transformers": set(),
    # Only who serves needs them: they are an extra.
    **{name: {"service/"} for name in ("fastapi", "starlette", "pydantic", "prometheus_client")},
    **{name: {"service/"} for name in ("h11", "jinja2", "markupsafe")},
    "uvicorn": {"serve/http.py"},
}
NEVER_IMPORTED = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "torch"}
NEVER_NAMED = re.compile(r"(^|_)(utils?|common|helpers?|misc)$")


def place(path: Path) -> str:
    return path.relative_to(ROOT / "tmr_jax").as_posix()


def part(path: Path) -> str:
    """The folder of a file below tmr_jax, or its own name."""
    return place(path).split("/")[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it; `from a import b` gives a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def own_imports(path: Path) -> set[str]:
    """The parts of tmr_jax that a file imports."""
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "tmr_jax" and len(name) > 1}


def third_parties(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_tree_is_read() -> None:
    assert len(FILES) > 25
    assert own_imports(ROOT / "tmr_jax/models/dual_encoder.py") >= {"nn", "losses", "types"}
    assert "jraph" in third_parties(ROOT / "tmr_jax/types.py")


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_flow_one_way(path: Path) -> None:
    found, here = own_imports(path), part(path)
    if here in MAY_IMPORT:
        assert not found - MAY_IMPORT[here]
    elif here not in ENTRY_POINTS:
        assert not found & ENTRY_POINTS


def test_only_builders_and_the_top_read_the_configuration() -> None:
    below = {p for p in FILES if part(p) in MAY_IMPORT and part(p) != "config"}
    readers = {place(p) for p in below if "config" in own_imports(p)}
    assert not {reader for reader in readers if not reader.startswith(BUILDERS)}


def test_whole_experiments_stay_with_the_entry_points() -> None:
    """Below them nobody receives the whole Experiment; sections go to the builders."""
    for path in FILES:
        if part(path) in MAY_IMPORT and part(path) != "config":
            whole = {"tmr_jax.config.Experiment", "tmr_jax.config.load_experiment"}
            assert not whole & set(imports(path)), place(path)


@pytest.mark.parametrize("package", HOMES)
def test_third_parties_stay_at_home(package: str) -> None:
    users = {place(path) for path in FILES if package in third_parties(path)}
    strangers = {u for u in users if not any(u.startswith(home) for home in HOMES[package])}
    assert not strangers


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_executes_data(path: Path) -> None:
    """F19, F20: no pickle, no torch (but in processes of its own), no remote code."""
    alone = path.name in ("convert_bert.py", "make_bert_golden.py", "bench_torch_worker.py")
    assert not third_parties(path) & (NEVER_IMPORTED - ({"torch"} if alone else set()))
    text = path.read_text(encoding="utf-8")
    assert "trust_remote" + "_code" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is (node.arg == "weights_only")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name):
            assert called.id not in ("eval", "exec"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_loads_of_arrays_forbid_objects(path: Path) -> None:
    """`np.load` says allow_pickle=False itself, whatever numpy's default becomes."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert any(k.arg == "allow_pickle" for k in node.keywords), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_files_say_what_they_are(path: Path) -> None:
    assert not any(NEVER_NAMED.search(part.removesuffix(".py")) for part in path.parts[-2:])
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path)), f"{place(path)} has no docstring"


def test_jax_is_used_by_its_public_names() -> None:
    for path in FILES:
        private = {n for n in imports(path) if n.startswith(("jax._src", "jax.interpreters"))}
        assert not private, place(path)
