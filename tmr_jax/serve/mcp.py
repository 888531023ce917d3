"""tmr mcp --run runs/NAME --library LIBRARY: the library as tools of an agent.

In: a run (default: the shipped weights) and a library. Out: a server of the Model Context Protocol
on standard input and output, with tools that search, explain and describe and change nothing.
Standard output carries the protocol alone, everything else goes to standard error. A client gives a
server seconds to start, and a file may take minutes to index: so the library is opened in a thread,
and calls wait for it.
"""

# Heavy imports are inside the functions, so that a wrong argument is reported at once.
from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tmr_jax import __version__, cli
from tmr_jax.serve.options import Library, need_extra, opener

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult
    from pydantic import BaseModel

    from tmr_jax.serve import schemas
    from tmr_jax.serve.engine import SearchEngine

SECONDS = 30.0  # that a call waits for the library to open, and then for its answer
EVERY = 2.0  # seconds between looks at the files of the library
log = logging.getLogger("tmr_jax.serve")


@dataclass(frozen=True)
class Arguments(Library):
    """Let an agent search an index: a server of the Model Context Protocol."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 once the client closes standard input; signals end it at once; else `cli`."""
    return cli.run("mcp", _mcp, arguments)


def _mcp(args: list[str]) -> int:
    chosen = cli.parse(Arguments, "mcp", args)
    need_extra("mcp", "mcp", "mcp_types")  # version 1 of the package has no mcp_types
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        # An exception would wait for the thread that reads standard input.
        signal.signal(number, signal.SIG_DFL)
    asyncio.run(_serve(chosen))
    return 0


async def _serve(chosen: Library) -> None:
    from mcp.server.stdio import stdio_server

    def opened() -> SearchEngine:
        from tmr_jax.serve.engine import SearchEngine

        return SearchEngine(opener(chosen))

    server = create_server(opened)
    async with stdio_server() as streams:  # standard output is the protocol's from here on
        await server.run(*streams, server.create_initialization_options())


class Tool(NamedTuple):
    """What a tool takes, gives and does."""

    title: str
    about: str
    takes: type[BaseModel]
    gives: type[BaseModel]
    call: Callable[[SearchEngine, Any, float], Awaitable[BaseModel]]
    text: Callable[[Any], str]  # the answer in a few lines


def tools() -> dict[str, Tool]:
    """The tools by name; requests and answers are those of the API."""
    from tmr_jax.serve import api, schemas

    async def by_text(engine: SearchEngine, asked: schemas.TextSearch, seconds: float) -> Any:
        options = asked.model_dump(exclude={"text"})
        request = schemas.SearchRequest(queries=[asked.text], **options)
        return await api.search(engine, request, seconds)

    async def by_structure(
        engine: SearchEngine, asked: schemas.StructureSearch, seconds: float
    ) -> Any:
        options = asked.model_dump(exclude={"smiles"})
        request = schemas.SearchRequest(queries=[asked.smiles], of="molecule", **options)
        return await api.search(engine, request, seconds)

    async def describe(engine: SearchEngine, asked: schemas.Nothing, seconds: float) -> Any:
        return api.describe(engine)

    found = schemas.SearchResponse
    return {
        "search_by_text": Tool(
            "Search by text",
            "Items of the library that fit a description, best first. `score` is a cosine, not a "
            "probability: a query without a right answer has a best hit, too. The order also "
            "counts what the text states in words. A chemical name is looked up, and `named` says "
            "whether that structure is in the library.",
            *(schemas.TextSearch, found, by_text, _hits),
        ),
        "search_by_structure": Tool(
            "Search by structure",
            "Molecules of the library similar to one, most similar first (in a library of "
            "descriptions: those that fit it). With `substructure`, those that hold it.",
            *(schemas.StructureSearch, found, by_structure, _hits),
        ),
        "explain_hit": Tool(
            "Explain a hit",
            "The words of a description and the atoms of a molecule that their score depends on.",
            *(schemas.ExplainRequest, schemas.Weights, api.explain, _weights),
        ),
        "describe_library": Tool(
            "Describe the library",
            "How many items the library has, of what kind, how many rows of its file were refused "
            "and why, the model that searches it, and the filters that `where` takes.",
            *(schemas.Nothing, schemas.DescribeResponse, describe, _library),
        ),
    }


def create_server(opened: Callable[[], SearchEngine], seconds: float = SECONDS) -> Server:
    """The server; `opened` opens the engine, in a thread."""
    from mcp import MCPError
    from mcp import types as protocol
    from mcp.server.lowlevel import Server

    from tmr_jax.types import did_you_mean

    known = tools()

    @asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[asyncio.Task[SearchEngine]]:
        opening = asyncio.create_task(asyncio.to_thread(opened))
        keeping = asyncio.create_task(_keep(opening))
        yield opening
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping

    async def listed(context: Any, asked: Any) -> protocol.ListToolsResult:
        return protocol.ListToolsResult(
            tools=[
                protocol.Tool(
                    name=name,
                    title=tool.title,
                    description=tool.about,
                    input_schema=tool.takes.model_json_schema(),
                    output_schema=tool.gives.model_json_schema(),
                    annotations=protocol.ToolAnnotations(
                        read_only_hint=True, idempotent_hint=True, open_world_hint=False
                    ),
                )
                for name, tool in known.items()
            ]
        )

    async def called(context: Any, asked: protocol.CallToolRequestParams) -> CallToolResult:
        if asked.name not in known:
            hint = did_you_mean(asked.name, known)
            message = f"expected a tool of this server, got {asked.name!r}; {hint}"
            raise MCPError(protocol.INVALID_PARAMS, message)
        opening = context.lifespan_context
        return await _result(known[asked.name], asked.arguments or {}, opening, seconds)

    return Server(
        "tmr_jax",
        version=__version__,
        title="Molecules by description",
        instructions="Search one library of molecules, or of descriptions of molecules: first "
        "describe_library, then search. Words that a description of a molecule uses work best: "
        "groups, elements, classes, roles.",
        lifespan=lifespan,
        on_list_tools=listed,
        on_call_tool=called,
    )


async def _keep(opening: asyncio.Task[SearchEngine]) -> None:
    """Says on standard error how opening ends, then follows the files of the library."""
    try:
        engine = await asyncio.shield(opening)
    except cli.CommandFailed as error:  # every call is answered with it, too
        log.error("error: %s", error)
        return
    library = engine.library
    print(f"open: {library.kept:,} {library.of} of {library.source}", file=sys.stderr, flush=True)
    try:
        await engine.watch(EVERY)
    finally:
        engine.close()


async def _result(
    tool: Tool, arguments: dict[str, Any], opening: asyncio.Task[SearchEngine], seconds: float
) -> CallToolResult:
    """The answer to a call; an error is a result, too, which the agent reads and can correct."""
    from mcp.types import CallToolResult, TextContent
    from pydantic import ValidationError

    from tmr_jax.serve.schemas import invalid, refusal_of

    def text(said: str) -> list[Any]:
        return [TextContent(type="text", text=said)]

    try:
        asked = tool.takes.model_validate(arguments)
        answer = await tool.call(await _open(opening, seconds), asked, seconds)
    except ValidationError as error:
        return CallToolResult(content=text(invalid(error).message), is_error=True)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None or (refusal.status >= 500 and refusal is not error):
            log.error("%s: %s", tool.title, error, exc_info=refusal is None)
        said = refusal.message if refusal else "internal error; standard error has it"
        return CallToolResult(content=text(said), is_error=True)
    fields = set(tool.gives.model_fields)
    structured = answer.model_dump(mode="json", exclude_none=True, include=fields)
    return CallToolResult(content=text(tool.text(answer)), structured_content=structured)


async def _open(opening: asyncio.Task[SearchEngine], seconds: float) -> SearchEngine:
    """The engine; a Refusal where it takes longer to open than a client waits."""
    from tmr_jax.serve.schemas import Refusal

    if not (await asyncio.wait([opening], timeout=seconds))[0]:
        raise Refusal(
            503,
            "opening",
            "expected an open library, got one that is still being read or indexed; ask again in "
            "a minute",
        )
    return opening.result()


# Answers in a few lines


def _hits(response: schemas.SearchResponse) -> str:
    from tmr_jax.search.retriever import UNSURE

    (answer,) = response.answers
    notes = {
        "A part of the library cannot be read: hits may be missing.": response.partial,
        "Only the beginning of the text was read.": answer.cut,
        f"{UNSURE[0].upper()}{UNSURE[1:]}.": answer.unsure,
        f"Time ran out: only the {answer.looked} nearest were checked.": answer.looked is not None,
        f"Raised: molecules with {', '.join(answer.raised)}.": answer.raised,
        "No hit meets this.": not answer.hits,
    }
    lines = [note for note, holds in notes.items() if holds]
    if answer.named:
        found = "in the library" if answer.named.in_library else "not in the library"
        lines.append(f"{answer.named.name} ({answer.named.smiles}) is {found}.")
    lines += [
        f"{hit.rank}. {hit.smiles or hit.text} ({hit.name}), cosine {hit.score:.4f}"
        for hit in answer.hits
    ]
    return "\n".join(lines)


def _weights(response: schemas.Weights) -> str:
    words = sorted(response.words, key=lambda word: -word.drop)[:5]
    said = ", ".join(f"{word.text} ({word.drop:+.3f})" for word in words)
    return f"Cosine {response.score:.4f}; it falls most without: {said}"


def _library(response: schemas.DescribeResponse) -> str:
    library, model = response.library, response.checkpoint
    assert library and model
    refused = ", ".join(f"{n:,} {reason}" for reason, n in sorted(library.refused.items()))
    return (
        f"{library.kept:,} {library.of} of {library.rows:,} rows of {library.source}"
        f"{f' (refused: {refused})' if refused else ''}; model {model.sha256[:12]}, step "
        f"{model.step:,}; {response.reason or 'all of it answers'}"
    )


if __name__ == "__main__":
    sys.exit(main())
