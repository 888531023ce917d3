"""The plan of the house, held by reading every file: who imports whom, and what never comes in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tmr_jax").rglob("*.py"))
OURS = [
    *FILES,
    *sorted((ROOT / "experiments").glob("*.py")),
    *sorted((ROOT / "tools").rglob("*.py")),
]

# A file imports from rooms of a lower layer, or from its own; within a layer rooms do not know one
# another. `cli` imports what it starts by name, when it is asked for.
LAYERS = (
    {"types"},
    {"config"},
    {"cli"},
    {"data"},
    {"models"},
    {"eval"},
    {"train", "index"},
    {"search"},
    {"serve", "table"},
    {"__main__"},
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# Entries at the root, at most: twelve rooms, and __main__.py, without which Python has no
# `python -m tmr_jax`.
ROOMS = 13

# Parts of a room that know less than the room may: what their files import of ours, by its place.
# Ranking reads no file and knows no run, layers and losses no model, the service only what the
# Python API gives and what its hits are drawn with. None of them sees a whole Experiment.


def of(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names.split())


LAYERS_OF_MODELS = ("models/layers/", "models/pretrained.py")
MODELS = of("models", "__init__ difftmr dual_encoder memory_bank")
RANKING = of("eval", "baseline metrics rank rerank_steps")
ENGINES = of("index", "exact lance milvus scan schema")
STEPS = (
    *of("models", "checkpoint runtime"),
    *of("train", "log optim step"),
)
SERVICE = of("serve", "__init__ api app engine http metrics middleware page schemas")
FEATURES = ("data/features/",)
FILES_ON_DISK = of("data", "files workers")
MAY_IMPORT = {
    ("data/features/",): FEATURES + FILES_ON_DISK,
    ("data/drawing.py",): FEATURES,
    ("data/__main__.py",): ("data/", "config.py", "cli.py"),
    ("data/cache.py",): ("data/files.py", "cli.py"),
    ("data/",): ("data/", "config.py"),
    ("models/pretrained.py",): LAYERS_OF_MODELS + FILES_ON_DISK,
    LAYERS_OF_MODELS: LAYERS_OF_MODELS,
    ("models/losses.py",): ("models/losses.py",),
    MODELS: (*MODELS, *LAYERS_OF_MODELS, "models/losses.py", "config.py"),
    RANKING: (*RANKING, "models/encode.py"),  # of which it uses functions of arrays
    ("eval/protocols.py",): ("data/pools.py", "eval/metrics.py"),
    ENGINES: (*ENGINES, "data/columns.py", "data/features/properties.py", *FILES_ON_DISK),
    SERVICE: (
        *SERVICE,
        *FEATURES,
        *("data/drawing.py", "index/schema.py", "search/retriever.py"),
        *("search/explain.py", "search/export.py"),
    ),
    STEPS: (*STEPS, *FILES_ON_DISK, *LAYERS_OF_MODELS, "config.py"),
}
# Of these, who reads a section of the configuration: what is built from it.
BUILDERS = ("data/__init__.py", "data/__main__.py", "data/datasets/", "data/pools.py", *MODELS)
BUILDERS += ("train/optim.py",)
HOMES = {
    "orbax": {"models/checkpoint.py"},
    "jraph": {"types.py", "models/layers/gcn.py", "data/batching.py", "train/loader.py"},
    "rdkit": {
        "data/",
        "index/entries.py",
        "index/index.py",
        "search/substructure.py",
        "search/export.py",
    },
    "tokenizers": {"data/features/text.py"},
    "lancedb": {"index/lance.py"},
    "pymilvus": {"index/milvus.py"},
    "milvus_lite": {"index/milvus.py"},
    "transformers": {"models/pretrained.py"},
    **{name: {"models/onnx.py"} for name in ("jax2onnx", "onnxruntime")},
    # Only who serves needs them: they are an extra.
    **{name: {"serve/"} for name in ("fastapi", "starlette", "pydantic", "prometheus_client")},
    "h11": {"serve/"},
    **{
        name: {"eval/report/", "search/hits.py", "serve/", "table/"}
        for name in ("jinja2", "markupsafe")
    },
    "uvicorn": {"serve/http.py"},
    "mcp": {"serve/mcp.py"},
}
NEVER_IMPORTED = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "torch"}
NEVER_NAMED = re.compile(r"(^|_)(utils?|common|helpers?|misc)$")


def place(path: Path) -> str:
    return path.relative_to(ROOT / "tmr_jax").as_posix()


def part(path: Path) -> str:
    """The folder of a file below tmr_jax, or its own name."""
    return place(path).split("/")[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports anywhere in it; `from a import b` gives a.b."""
    names: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names += (f"{node.module}.{name.name}" for name in node.names)
    return tuple(names)


def own_imports(path: Path) -> set[str]:
    """The parts of tmr_jax that a file imports."""
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "tmr_jax" and len(name) > 1}


def third_parties(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_tree_is_read() -> None:
    assert len(FILES) > 100
    assert own_imports(ROOT / "tmr_jax/models/dual_encoder.py") >= {"models", "types"}
    assert "jraph" in third_parties(ROOT / "tmr_jax/types.py")


def test_the_root_has_few_rooms() -> None:
    rooms = {path.name for path in (ROOT / "tmr_jax").iterdir()} - {"__pycache__"}
    assert len(rooms) <= ROOMS
    assert {room.removesuffix(".py") for room in rooms} == {*LAYER, "__init__"}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_flow_one_way(path: Path) -> None:
    here = part(path)
    if here == "__init__":  # loads `search` when it is asked for
        return
    above = {room for room in own_imports(path) & {*LAYER} if LAYER[room] >= LAYER[here]}
    assert not above - {here}


def test_no_files_import_one_another_in_a_circle() -> None:
    names = {place(path).removesuffix(".py").replace("/", "."): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    edges = {
        name: {
            module if module in names else module.rpartition(".")[0]
            for module in (full.removeprefix("tmr_jax.") for full in imports(path))
        }
        for name, path in names.items()
    }
    while edges:  # take away what imports nothing that is left
        free = {name for name, found in edges.items() if not found & edges.keys()}
        assert free, f"a circle among {sorted(edges)}"
        edges = {name: found for name, found in edges.items() if name not in free}


def rule(path: Path) -> tuple[str, ...] | None:
    """What a file may import of ours, where it may import less than its room; the first counts."""
    found = (MAY_IMPORT[places] for places in MAY_IMPORT if place(path).startswith(places))
    return next(found, None)


def own_places(path: Path) -> set[str]:
    """The files of ours that a file imports from, but `types`, which all may."""
    names = {place(file): place(file).removesuffix(".py").replace("/", ".") for file in FILES}
    files = {name.removesuffix(".__init__"): file for file, name in names.items()}
    modules = (full.removeprefix("tmr_jax.") for full in imports(path) if full[:8] == "tmr_jax.")
    found = {m if m in files else m.rpartition(".")[0] for m in modules}
    return {files[m] for m in found if m in files} - {"types.py"}


@pytest.mark.parametrize("path", [p for p in FILES if rule(p)], ids=place)
def test_parts_of_a_room_know_what_they_need(path: Path) -> None:
    known = rule(path)
    assert known
    assert not {p for p in own_places(path) if not p.startswith(known)}


def test_only_builders_and_the_top_read_the_configuration() -> None:
    readers = {place(p) for p in FILES if rule(p) and "config" in own_imports(p)}
    assert not {reader for reader in readers if not reader.startswith(BUILDERS)}


def test_whole_experiments_stay_with_the_entry_points() -> None:
    """Below them nobody receives the whole Experiment; sections go to the builders."""
    for path in FILES:
        if rule(path):
            whole = {"tmr_jax.config.Experiment", "tmr_jax.config.load_experiment"}
            assert not whole & set(imports(path)), place(path)


def test_nothing_but_the_command_line_starts_a_program() -> None:
    """`table` makes the configuration of a run as `train` does; it starts others as processes."""
    users = {
        place(path): module
        for path in FILES
        for module in imports(path)
        if ".__main__" in module and module.startswith("tmr_jax.")
    }
    assert users == {"table/runner.py": "tmr_jax.train.__main__.parse"}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_messages_for_users_are_user_errors(path: Path) -> None:
    """Their class, not their text, decides that a command or the service shows them."""
    raised = (n.exc for n in ast.walk(tree(path)) if isinstance(n, ast.Raise))
    plain = (c for c in raised if isinstance(c, ast.Call) and ast.unparse(c.func) == "ValueError")
    mine = [c for c in plain if ast.unparse(c.args[0]).lstrip("f'\"").startswith("expected ")]
    assert not mine, f"{path}:{mine[0].lineno}: raise tmr_jax.types.UserError"


@pytest.mark.parametrize("verb", ["train", "eval", "search", "index", "serve", "data"])
def test_a_wrong_argument_is_said_before_jax_is_imported(verb: str) -> None:
    """JAX takes a second, which a mistake, --help and a run that is taken need not wait for."""
    code = f"import sys, tmr_jax.{verb}.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("package", HOMES)
def test_third_parties_stay_at_home(package: str) -> None:
    users = {place(path) for path in FILES if package in third_parties(path)}
    strangers = {u for u in users if not any(u.startswith(home) for home in HOMES[package])}
    assert not strangers


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_executes_data(path: Path) -> None:
    """No pickle, no torch (but in processes of its own), no remote code."""
    alone = path.name in ("convert_bert.py", "make_bert.py", "torch_worker.py")
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
