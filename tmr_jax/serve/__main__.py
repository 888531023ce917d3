"""python -m tmr_jax.serve --run runs/NAME --library LIBRARY

In: a run and a library. Out: a page and an API over it, on this machine only; elsewhere with a
token. SIGTERM and Ctrl-C let what is being answered come to its end, SIGHUP opens the library anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from tmr_jax.search.retriever import Retriever
    from tmr_jax.serve.engine import IndexSource

TOKEN = "TMR_JAX_TOKEN"
LEAST, VARIED = 32, 10  # characters of a token, and different ones: 128 bits and more


@dataclass(frozen=True)
class Arguments:
    """What to serve, and to whom."""

    run: Path
    """Directory that training wrote, e.g. runs/quickstart."""
    library: Path
    """Molecules or descriptions to search: a folder that tmr index has made, or a file, which is
    indexed first."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own needs a token, 32 characters or more, in
    TMR_JAX_TOKEN or --token-file."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    token_file: Path | None = None
    """File with the token, which no one else may read."""
    rate: float = 10.0
    """Requests a second of one client, and twice as many at once; 0 is without a limit."""
    proxies: int = 0
    """How many proxies of yours stand in front, which needs a token; so many of X-Forwarded-For are
    believed, and X-Forwarded-Host and X-Forwarded-Proto."""
    queue: int = 512
    """How many queries may wait; more are told to come back (429)."""
    seconds: float = 30.0
    """How long a request may take."""
    smiles_column: str = ""
    """Column of the SMILES in a table; without it, SMILES."""
    text_column: str = ""
    """Column of the descriptions in a table, where those are to be searched."""
    name_column: str = ""
    """Column of the names in a table; without it, row numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM, 130 after Ctrl-C, 2 after an error of the user's.

    3 while another process makes the library of the file that is to be served.
    """
    from tmr_jax.data.lock import Locked

    chosen = tyro.cli(
        Arguments,
        args=list(sys.argv[1:] if arguments is None else arguments),
        prog="python -m tmr_jax.serve",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return serve(chosen)
    except (ValueError, Locked) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, Locked) else 2


def serve(chosen: Arguments) -> int:
    """Answers until a signal ends it."""
    token = check(chosen, os.environ)
    need_extra()
    from tmr_jax.serve.app import create_app
    from tmr_jax.serve.engine import SearchEngine
    from tmr_jax.serve.http import serve_app
    from tmr_jax.serve.middleware import Rules, is_loopback

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    engine = SearchEngine(index_source(chosen), chosen.queue)
    engine.warm()
    rules = Rules(token, chosen.rate, chosen.proxies, is_loopback(chosen.host))
    app = create_app(
        engine, rules, chosen.seconds, on_start=lambda loop: _reload_on_hup(loop, engine)
    )
    return serve_app(app, chosen.host, chosen.port)


def check(chosen: Arguments, environment: Any) -> str:
    """The token, if there is one; ValueError where the service would be open to others (S5)."""
    token = environment.get(TOKEN, "")
    if chosen.token_file is not None:
        try:
            token = chosen.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"expected a token in {chosen.token_file}, got {error}; write one there"
            ) from error
        if not token:
            raise ValueError(
                f"expected a token in {chosen.token_file}, got an empty file; write one there"
            )
    how = 'python -c "import secrets; print(secrets.token_urlsafe(32))" makes one'
    if token and (len(token) < LEAST or len(set(token)) < VARIED or not token.isascii()):
        raise ValueError(
            f"expected a token of at least {LEAST} random characters, got {len(token)} with "
            f"{len(set(token))} different ones; {how}"
        )
    if not token and (chosen.proxies or not _is_own(chosen.host)):
        place = "--proxies lets others in" if chosen.proxies else f"{chosen.host} is listened at"
        raise ValueError(
            f"expected a token before {place}, for others can reach that, got none; set {TOKEN} or "
            f"--token-file ({how}), or leave --host and --proxies out"
        )
    if not 0 <= chosen.port <= 65_535:
        raise ValueError(f"expected a port from 0 to 65535, got {chosen.port}; try 8000")
    if chosen.rate < 0 or chosen.proxies < 0 or chosen.queue < 1 or chosen.seconds <= 0:
        raise ValueError(
            "expected --rate and --proxies from 0, --queue from 1 and --seconds above 0, got "
            f"{chosen.rate:g}, {chosen.proxies}, {chosen.queue} and {chosen.seconds:g}; mend them"
        )
    return token


def _is_own(host: str) -> bool:
    """Whether only this machine can reach an address; names other than localhost are asked of."""
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name: whatever it means today, it may mean something else tomorrow
        return False


def need_extra() -> None:
    """ValueError where the packages of the service are not installed."""
    try:
        for name in ("fastapi", "h11", "jinja2", "prometheus_client", "uvicorn"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"expected the packages of the extra 'serve', got none named {error.name}; "
            "say pip install 'tmr-jax[serve]'"
        ) from error


def index_source(chosen: Arguments) -> IndexSource:
    """The model with its library, to be opened again and again."""
    from tmr_jax.search.retriever import load
    from tmr_jax.serve.engine import IndexSource

    retriever = load(chosen.run)
    words = (chosen.library, chosen.smiles_column, chosen.name_column, chosen.text_column)
    opened = [retriever]  # the last that was: it is asked what is wrong with it

    def open_anew() -> Retriever:
        opened[0] = retriever.with_library(*words)
        return opened[0]

    return IndexSource(open_anew, lambda: opened[0].look())


def _reload_on_hup(loop: asyncio.AbstractEventLoop, engine: Any) -> None:
    tasks = set()  # the loop itself keeps no hold of them

    async def reload() -> None:
        try:
            await engine.reload()
        except Exception as error:
            logging.getLogger("tmr_jax.serve").warning("the old library stays: %r", error)

    def begin() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with contextlib.suppress(ValueError):  # signals are heard by the main thread alone
        loop.add_signal_handler(signal.SIGHUP, begin)


if __name__ == "__main__":
    sys.exit(main())
