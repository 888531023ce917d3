"""The Dockerfile is consistent with the project; nothing here builds it."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tmr_jax.serve.__main__ import Arguments

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "tools" / "docker" / "Dockerfile").read_text(encoding="utf-8")
PLAIN = re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ")
LINES = [tuple(line.split(maxsplit=1)) for line in PLAIN.splitlines() if line]
LAST = LINES[max(i for i, (word, _) in enumerate(LINES) if word == "FROM") :]  # stage: the image


def values(word: str, lines: list = LINES) -> list[str]:
    return [rest for name, rest in lines if name == word]


def copied() -> list[str]:
    words = [rest.split() for rest in values("COPY")]
    return [name for line in words if line[0][:2] != "--" for name in line[:-1]]


def test_what_it_copies_is_in_the_repository_and_in_the_context() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--", *copied()], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {name.split("/")[0] for name in listed.splitlines()} == {*copied()}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line[:1] == "!"} == {*copied()} and "*" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {project["readme"], *(name.split("/")[0] for name in project["license-files"])}
    assert needed <= {*copied()}
    assert {*values("ARG")[1].removeprefix("EXTRAS=").split(","), "cuda"} <= {
        *project["optional-dependencies"]
    }


def test_it_runs_as_no_root_and_writes_below_one_folder() -> None:
    (user,) = values("USER", LAST)
    assert user.isdecimal() and int(user) > 0 and f"useradd --uid {user}" in PLAIN
    settings = dict(word.split("=", 1) for rest in values("ENV", LAST) for word in rest.split())
    for place in (settings["HOME"], settings["TMR_JAX_CACHE"], *values("WORKDIR", LAST)):
        assert f"{place}/".startswith("/tmp/")  # what docs/serve.md mounts as tmpfs


def test_it_serves_at_the_port_that_it_exposes_and_checks() -> None:
    verb, *words = json.loads(values("CMD", LAST)[0])
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert verb == "serve" and json.loads(values("ENTRYPOINT", LAST)[0]) == ["tmr"]
    assert {name.removeprefix("--") for name in options} <= {f.name for f in fields(Arguments)}
    address = urlsplit(re.findall(r"'(http://[^']+)'", values("HEALTHCHECK", LAST)[0])[0])
    assert values("EXPOSE", LAST) == [options["--port"]] == [str(address.port)]


def test_its_check_asks_what_the_service_answers_without_a_token() -> None:
    from tmr_jax.serve.middleware import PUBLIC

    app = (ROOT / "tmr_jax" / "serve" / "app.py").read_text(encoding="utf-8")
    address = urlsplit(re.findall(r"'(http://[^']+)'", values("HEALTHCHECK", LAST)[0])[0])
    assert address.path in PUBLIC and f'@app.get("{address.path}"' in app
    (code,) = json.loads(values("HEALTHCHECK", LAST)[0].partition("CMD ")[2])[2:]
    compile(code, "HEALTHCHECK", "exec")


def test_the_documentation_runs_it_read_only() -> None:
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    run = re.findall(r"^docker run .*(?:\n .*)*", page, re.M)
    assert run and all("--read-only --tmpfs /tmp" in command for command in run)
    for build in re.findall(r"^docker build .*", page, re.M):
        assert "-f tools/docker/Dockerfile" in build
        assert {*re.findall(r"--build-arg (\w+)=", build)} <= {
            name.split("=")[0] for name in values("ARG")
        }


@pytest.mark.parametrize("word", ["USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE"])
def test_each_is_said_once(word: str) -> None:
    assert len(values(word)) == 1
