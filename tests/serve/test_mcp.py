"""The tools of an agent: driven by the client of the protocol's own package."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters

from tests.serve.fake import SLOW, Fake, FakeOfTexts, engine
from tmr_jax.index.schema import IndexUnavailable
from tmr_jax.serve.engine import SearchEngine
from tmr_jax.serve.mcp import create_server, main
from tmr_jax.types import UserError

ROOT = Path(__file__).resolve().parents[2]


def asked(
    scene: Callable[[Client], Awaitable[Any]],
    opened: Callable[[], SearchEngine] = engine,
    seconds: float = 10.0,
) -> Any:
    """What a scene with a client of a server in this process gives."""

    async def connected() -> Any:
        async with Client(create_server(opened, seconds)) as client:
            return await scene(client)

    return asyncio.run(connected())


def call(name: str, arguments: dict[str, Any], fake: Fake | None = None, **more: Any) -> Any:
    """The result of one call on a fake."""
    more = {"opened": lambda: engine(fake), **more}
    return asked(lambda client: client.call_tool(name, arguments), **more)


async def answered(client: Client, name: str, arguments: dict[str, Any]) -> Any:
    """The result of a call that is repeated while the server says so, on a busy machine."""
    for _ in range(20):
        result = await client.call_tool(name, arguments)
        if not result.is_error or not re.search("ask again|retry later", result.content[0].text):
            break
    return result


def refused(result: Any) -> str:
    """The message of an error."""
    assert result.is_error and result.structured_content is None
    (content,) = result.content
    assert "Traceback" not in content.text
    return content.text


def test_every_tool_reads_only_and_documents_its_arguments() -> None:
    listed = asked(lambda client: client.list_tools()).tools
    assert [tool.name for tool in listed] == [
        "search_by_text",
        "search_by_structure",
        "explain_hit",
        "describe_library",
    ]
    for tool in listed:
        assert tool.annotations.read_only_hint and tool.output_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        for argument in tool.input_schema["properties"].values():
            assert argument["description"] and "type" in argument
    assert listed[0].input_schema["required"] == ["text"]


def test_a_search_gives_the_answer_of_the_api_and_a_line_for_each_hit() -> None:
    result = call("search_by_text", {"text": "an amine", "k": 2, "where": ["mw<60"]})
    answer = result.structured_content["answers"][0]
    assert answer["query"] == "an amine" and len(answer["hits"]) == 2
    assert all(hit["mw"] < 60 for hit in answer["hits"])
    first, second = answer["hits"]
    assert result.content[0].text.splitlines() == [
        f"{hit['rank']}. {hit['smiles']} ({hit['name']}), cosine {hit['score']:.4f}"
        for hit in (first, second)
    ]


def test_a_structure_with_a_substructure() -> None:
    asking = {"smiles": "Nc1ccccc1", "substructure": "c1"}
    result = call("search_by_structure", asking)
    hits = result.structured_content["answers"][0]["hits"]
    assert [hit["smiles"] for hit in hits] == ["Nc1ccccc1", "Nc1ccc(Cl)cc1"]


def test_what_an_answer_warns_of_is_in_its_text() -> None:
    def text(asking: dict[str, Any], **more: Any) -> str:
        return call("search_by_text", asking, **more).content[0].text

    assert text({"text": "football"}).startswith("No hit fits")
    assert text({"text": "a " * 600}).startswith("Only the beginning")
    assert "only the 128 nearest" in text({"text": "a", "substructure": SLOW})
    assert text({"text": "a", "where": ["mw>900"]}) == "No hit meets this."
    broken = lambda: engine(damage=lambda: {"000001": "gone"})  # noqa: E731

    async def watched(client: Client) -> str:
        while True:  # until the server has looked at the files
            result = await client.call_tool("search_by_text", {"text": "a"})
            if result.structured_content["partial"]:
                described = await client.call_tool("describe_library", {})
                assert described.structured_content["status"] == "degraded"
                return result.content[0].text
            await asyncio.sleep(0.1)

    assert asked(watched, broken).startswith("A part of the library cannot be read")


def test_an_explanation_names_the_words_that_count() -> None:
    result = call("explain_hit", {"text": "an amine", "smiles": "CCN"})
    assert result.content[0].text == (
        "Cosine 0.5000; it falls most without: an (+0.200), amine (+0.080)"
    )
    assert len(result.structured_content["atoms"]) == 3
    assert "heat" not in result.structured_content  # a number for each word and atom


def test_a_library_says_what_it_holds_and_how_to_filter_it() -> None:
    held = call("describe_library", {}).structured_content
    assert held["library"] | {"source": ""} == {
        "source": "",
        "of": "molecules",
        "rows": 6,
        "kept": 6,
        "refused": {},
        "columns": {},
    }
    assert held["checkpoint"]["step"] == 7
    assert "mw" in held["properties"] and "nitrile" in held["groups"]
    assert "steroid" in held["classes"] and "unsalted" in held["switches"]
    texts = call("describe_library", {}, FakeOfTexts())
    assert texts.structured_content["switches"] == ["distinct"]
    assert texts.structured_content["groups"] == []
    assert "3 descriptions of 4 rows" in texts.content[0].text
    assert "refused: 1 empty-text" in texts.content[0].text


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        ("search_by_text", {"text": " "}, "at least one visible character"),
        ("search_by_text", {"text": "a", "where": ["nitrole"]}, "did you mean nitrile"),
        ("search_by_text", {"text": "a", "substructure": "("}, "expected a SMARTS"),
        ("search_by_text", {"text": "a", "k": 0}, "k: Input should be greater"),
        ("search_by_text", {"text": "a", "filter": []}, "filter: Extra inputs"),
        ("search_by_text", {"text": "a", "k": 300, "spread": 0.5}, "k of at most 200"),
        ("search_by_structure", {}, "smiles: Field required"),
        ("search_by_structure", {"smiles": "C1CC"}, "expected a SMILES"),
        ("explain_hit", {"text": "a", "smiles": "C1CC"}, "expected a SMILES"),
    ],
)
def test_mistakes_are_results_that_say_what_was_expected(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    assert said in refused(call(name, arguments))


def test_a_tool_that_is_none_is_an_error_of_the_protocol() -> None:
    async def scene(client: Client) -> None:
        with pytest.raises(MCPError, match="did you mean search_by_text"):
            await client.call_tool("search_by_txt", {})

    asked(scene)


def test_faults_of_the_server_stay_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    for fault, said in (
        (RuntimeError("secret"), "internal error; standard error has it"),
        (IndexUnavailable("secret"), "expected a readable library"),
    ):
        fake.fails = fault
        message = refused(call("search_by_text", {"text": "a"}, fake))
        assert said in message and "secret" not in message
        assert "secret" in caplog.text
        caplog.clear()


def test_a_call_waits_for_the_library_and_says_when_it_takes_long() -> None:
    gate = threading.Event()

    def opened() -> SearchEngine:
        gate.wait(10)
        return engine()

    async def scene(client: Client) -> tuple[Any, Any]:
        early = await client.call_tool("search_by_text", {"text": "a"})
        gate.set()
        return early, await answered(client, "search_by_text", {"text": "a"})

    early, late = asked(scene, opened, seconds=0.5)
    assert "still being read or indexed" in refused(early)
    assert not late.is_error


def test_a_library_that_cannot_be_opened_answers_every_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def opened() -> SearchEngine:
        raise UserError("expected a library, got none; make one")

    result = call("describe_library", {}, opened=opened)
    assert refused(result) == "expected a library, got none; make one"
    assert "make one" in caplog.text


def test_without_its_package_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    assert main(["--library", "my.smi"]) == 2
    assert "pip install 'tmr-jax[mcp]'" in capsys.readouterr().err


@pytest.mark.costly
def test_the_whole_way_on_a_run(tiny_run: Path, tmp_path: Path) -> None:
    """Standard output carries the protocol alone: the client reports any other line."""
    lines = (ROOT / "examples" / "library.smi").read_text("utf-8").splitlines()[:20]
    (tmp_path / "my.smi").write_text("\n".join([*lines, "C1CC broken"]), "utf-8")
    command = ["-m", "tmr_jax.serve.mcp", "--run", str(tiny_run)]
    server = StdioServerParameters(
        command=sys.executable,
        args=[*command, "--library", str(tmp_path / "my.smi")],
        env=dict(os.environ),
        cwd=ROOT,
    )
    strays: list[Any] = []

    async def heard(message: Any) -> None:
        strays.append(message)

    async def scene() -> tuple[Any, ...]:
        async with Client(server, message_handler=heard) as client:
            held = await answered(client, "describe_library", {})
            found = await answered(client, "search_by_text", {"text": "an alcohol", "k": 3})
            first = found.structured_content["answers"][0]["hits"][0]
            pair = {"text": "an alcohol", "smiles": first["smiles"]}
            near = await answered(client, "search_by_structure", {"smiles": first["smiles"]})
            return held, found, near, await answered(client, "explain_hit", pair), first

    held, found, near, explained, first = asyncio.run(scene())
    assert held.structured_content["library"]["refused"] == {"unparsable": 1}
    assert len(found.structured_content["answers"][0]["hits"]) == 3
    hits = near.structured_content["answers"][0]["hits"]
    assert hits[0]["smiles"] == first["smiles"] and hits[0]["score"] == pytest.approx(1)
    assert explained.structured_content["score"] == pytest.approx(first["score"], abs=1e-5)
    assert not strays


@pytest.mark.costly
def test_a_signal_ends_it_while_its_input_is_open(tiny_run: Path, tmp_path: Path) -> None:
    words = ["-m", "tmr_jax.serve.mcp", "--run", str(tiny_run)]
    with subprocess.Popen(
        [sys.executable, *words, "--library", str(tmp_path / "absent.smi")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        line = next(line for line in process.stderr if "error: " in line)
        assert "absent.smi" in line
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(10) == -signal.SIGTERM
        finally:
            process.kill()
