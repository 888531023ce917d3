"""tmr serve --run runs/NAME --library LIBRARY

In: a run (default: the shipped weights) and a library. Out: a page and an API over it, on this
machine only, or with a token on the network. SIGTERM and Ctrl-C let running requests finish, SIGHUP
reopens the library.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from tmr_jax import cli
from tmr_jax.serve.options import Library, need_extra, opener
from tmr_jax.types import UserError

if TYPE_CHECKING:
    from tmr_jax.serve.engine import SearchEngine

TOKEN = "TMR_JAX_TOKEN"
LENGTH, DISTINCT = 32, 10  # least characters of a token, and different ones: 128 bits


@dataclass(frozen=True)
class Arguments(Library):
    """Serve a page and an API over an index."""

    host: str = "127.0.0.1"
    """Address to listen at. Any address but this machine's own needs a token of 32 characters or
    more, in TMR_JAX_TOKEN or --token-file."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    token_file: Path | None = None
    """File with the token; only you should be able to read it."""
    rate: float = 10.0
    """Requests per second and client, with bursts of twice as many; 0 sets no limit."""
    proxies: int = 0
    """Number of your own reverse proxies in front. It needs a token, and makes the service trust
    as many entries of X-Forwarded-For, and X-Forwarded-Host and X-Forwarded-Proto."""
    queue: int = 512
    """Number of queries that may wait; further ones are refused with status 429."""
    seconds: float = 30.0
    """Time limit of a request."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM (143 while it loads), 130 after Ctrl-C; 3 while another
    process indexes the file; else see `cli`."""
    return cli.run("serve", _serve, arguments)


def _serve(args: list[str]) -> int:
    """Serves until a signal ends it."""
    chosen = cli.parse(Arguments, "serve", args, config=(tyro.conf.FlagCreatePairsOff,))
    need_extra("serve", "fastapi", "h11", "jinja2", "prometheus_client", "uvicorn")
    token = check(chosen, os.environ)
    from tmr_jax.serve.app import create_app
    from tmr_jax.serve.engine import SearchEngine
    from tmr_jax.serve.http import address_of, listen, loading, serve_app
    from tmr_jax.serve.middleware import Rules, is_loopback

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with listen(chosen.host, chosen.port) as listening:
        print(f"Loading; {address_of(listening)}/health says when", file=sys.stderr, flush=True)
        with loading(listening) as waiting:
            engine = SearchEngine(opener(chosen), chosen.queue)
            engine.warm()
        rules = Rules(token, chosen.rate, chosen.proxies, is_loopback(chosen.host))
        app = create_app(
            engine, rules, chosen.seconds, on_start=lambda loop: _reload_on_hup(loop, engine)
        )
        return serve_app(app, listening, waiting)


def check(chosen: Arguments, environment: Mapping[str, str]) -> str:
    """The token, or "" without one; UserError where the service would be open to others."""
    from tmr_jax.serve.middleware import is_loopback

    token = environment.get(TOKEN, "")
    if chosen.token_file is not None:
        token = _read_token(chosen.token_file)
    how = 'python -c "import secrets; print(secrets.token_urlsafe(32))" makes one'
    if token and (len(token) < LENGTH or len(set(token)) < DISTINCT or not token.isascii()):
        raise UserError(
            f"expected a token of at least {LENGTH} random characters, got {len(token)} with "
            f"{len(set(token))} different ones; {how}"
        )
    if not token and (chosen.proxies or not is_loopback(chosen.host)):
        option = "--proxies" if chosen.proxies else f"--host {chosen.host}"
        raise UserError(
            f"expected a token with {option}, which lets others in, got none; set {TOKEN} or "
            f"--token-file ({how}), or drop --host and --proxies"
        )
    if not 0 <= chosen.port <= 65_535:
        raise UserError(f"expected a port from 0 to 65535, got {chosen.port}; try 8000")
    if chosen.rate < 0 or chosen.proxies < 0 or chosen.queue < 1 or chosen.seconds <= 0:
        raise UserError(
            "expected --rate and --proxies from 0, --queue from 1 and --seconds above 0, got "
            f"{chosen.rate:g}, {chosen.proxies}, {chosen.queue} and {chosen.seconds:g}; correct "
            "them"
        )
    return token


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a token in {path}, got {error}; write one there") from error
    if not token:
        raise UserError(f"expected a token in {path}, got an empty file; write one there")
    return token


def _reload_on_hup(loop: asyncio.AbstractEventLoop, engine: SearchEngine) -> None:
    tasks = set()  # the loop itself keeps no reference

    async def reload() -> None:
        try:
            await engine.reload()
        except Exception as error:
            logging.getLogger("tmr_jax.serve").warning("the library stays as it was: %r", error)

    def start() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with contextlib.suppress(ValueError):  # only the main thread receives signals
        loop.add_signal_handler(signal.SIGHUP, start)


if __name__ == "__main__":
    sys.exit(main())
