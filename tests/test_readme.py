"""Commands, paths and Python in README and docs/ exist and work."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tmr_jax.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {
    p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8")
    for p in (ROOT / "README.md", ROOT / "experiments" / "README.md", *ROOT.glob("docs/*.md"))
}
README = TEXTS["README.md"]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[str]:
    """Lines of shell blocks, continued ones joined, and `make ...` in running text."""
    found = []
    for text in TEXTS.values():
        for block in blocks("sh", text):
            found += block.replace("\\\n", " ").splitlines()
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        found += [" ".join(c.split()) for c in re.findall(r"`((?:make|python|tmr) [^`]+)`", prose)]
    return [line.split("  #")[0].strip() for line in found if line.strip()]


def test_the_two_commands_are_there() -> None:
    assert {"make train EXP=quickstart", "make test"} <= set(commands())


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_name_what_exists(command: str) -> None:
    words = [w for w in shlex.split(command) if not w.startswith("TMR_JAX_")]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        settings = dict(w.split("=", 1) for w in words[1:] if "=" in w)
        assert re.search(rf"^{words[1]}:", makefile, re.M), f"no verb {words[1]}"
        for name in settings:
            assert re.search(rf"^{name} \?=", makefile, re.M), f"no variable {name}"
        experiment = settings.get("EXP", "quickstart")
        assert experiment == "NAME" or (ROOT / "experiments" / f"{experiment}.py").is_file()
        options(words[1], shlex.split(settings.get("ARGS", "")))
    elif words[:2] == ["python", "-c"]:
        compile(words[2], command, "exec")
    elif words[0] == "python":
        assert words[1] == "-m" and words[2].startswith("tools."), "programs of tmr_jax are verbs"
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    else:
        assert words[0] in ("tmr", ".venv/bin/tmr") and {words[1]} <= {"--help", *VERBS}, command
        options(words[1], [word for word in words[2:] if word != "--help"])


def options(verb: str, words: list[str]) -> None:
    """Each option of a command is one that the program has."""
    from tmr_jax.data.__main__ import parser as data
    from tmr_jax.data.cache import parser as cache
    from tmr_jax.eval.__main__ import Arguments as Eval
    from tmr_jax.eval.compare import Arguments as Compare
    from tmr_jax.eval.export import Arguments as Export
    from tmr_jax.index.__main__ import Build
    from tmr_jax.index.embed import Arguments as Embed
    from tmr_jax.search.__main__ import Arguments as Search
    from tmr_jax.serve.__main__ import Arguments as Serve
    from tmr_jax.serve.mcp import Arguments as Mcp
    from tmr_jax.table.__main__ import Arguments as Table
    from tmr_jax.train.__main__ import Arguments as Train
    from tmr_jax.train.facts import Arguments as Facts
    from tmr_jax.train.lexical import Arguments as Lexical

    programs = {"train": Train, "eval": Eval, "index": Build, "search": Search, "table": Table}
    programs |= {"serve": Serve, "export": Export, "facts": Facts, "lexical": Lexical, "mcp": Mcp}
    programs |= {"compare": Compare, "embed": Embed}
    if verb == "data":  # `make` has the set in a variable
        data().parse_args([*([] if words and words[0][0] != "-" else ["open"]), *words])
        return
    if verb == "cache":
        cache().parse_args([word.strip("[]") for word in words])
        return
    for option in (w for w in words if w.startswith("--")):
        fields = programs[verb].__dataclass_fields__
        name, *parts = option.removeprefix("--").replace("-", "_").split(".")
        if name in fields and not parts:
            continue
        from tmr_jax.config import Experiment

        held: object = Experiment()  # whose fields training has at its top
        if name in fields:
            make = fields[name].default_factory
            assert callable(make)
            held, name, *parts = make(), *parts
        for part in (name, *parts):
            assert hasattr(held, part), f"{verb} has no option {option}"
            held = getattr(held, part)


@pytest.mark.parametrize("name", TEXTS)
def test_paths_exist(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.M | re.S)
    folder = (ROOT / name).parent
    for path in re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|toml|py)|LICENSE)`", prose):
        made_by_a_run = path.startswith(("runs/", ".venv/")) or path.endswith("...")
        places = (folder, ROOT, ROOT / "tmr_jax")  # the map of the code names what is below it
        assert made_by_a_run or any((place / path).exists() for place in places), path


def test_python_of_the_readme_is_short() -> None:
    (code,) = blocks("python", README)
    assert len(code.splitlines()) <= 10


def test_files_hold_no_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "grep", "-nIE", "/(home|Users)/[a-z]|/ro{2}t/", "--", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert listed.stdout == ""
