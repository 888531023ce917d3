"""Connections that end: what uvicorn's h11 protocol lacks against clients that dawdle (S3).

uvicorn times idle connections between requests only. Here a request, head and body, has to be whole
`SLOW` seconds after its first byte (or after the connection), and so much of an answer that waits
to be read has to move within the same time. More than `MAX_OPEN` connections are closed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tmr_jax.serve.schemas import MAX_HEAD

SLOW = 10.0  # seconds
DRAIN = 9  # seconds that requests are given after SIGTERM
MAX_OPEN = 800  # below the 1,024 files that most systems allow a process


class Connection(H11Protocol):
    """One client's connection."""

    slow = SLOW
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_OPEN:
            transport.abort()
            return
        self._reading = self.loop.call_later(self.slow, self._cut)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        # Whole, or the rest of a request that was answered before its end: what follows is new.
        if not waits or (not self.conn.trailing_data[0] and self.conn.their_state is h11.IDLE):
            self._reading = _cancelled(self._reading)
        if waits and self._reading is None and not self.transport.is_closing():
            self._reading = self.loop.call_later(self.slow, self._cut)

    def on_response_complete(self) -> None:
        # Nothing of the next request is there yet: that wait is uvicorn's keep-alive.
        if self.conn.their_state is h11.DONE:
            self._reading = _cancelled(self._reading)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading, self._writing = _cancelled(self._reading), _cancelled(self._writing)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = _cancelled(self._writing)
        self._writing = self.loop.call_later(self.slow, self.transport.abort)

    def resume_writing(self) -> None:
        self._writing = _cancelled(self._writing)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # What the client does not read is not waited for, either.
        self._writing = self.loop.call_later(self.slow, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too much of it, in the shape of every other error."""
        if self.conn.our_state is not h11.IDLE:  # an answer has begun: nothing may come between
            self.transport.abort()
            return
        # Called where h11 has raised: its error knows a head that does not end, uvicorn drops it.
        large = getattr(sys.exception(), "error_status_hint", 400) == 431
        self._refuse(*((431, *_LARGE) if large else (400, *_BAD)))

    def _cut(self) -> None:
        self._reading = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self._refuse(408, "too_slow", f"expected a whole request in {self.slow:g} s; send it")
            self._writing = self.loop.call_later(self.slow, self.transport.abort)
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n".encode()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(head + lines + b"\r\n" + body)
        self.transport.close()


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_BAD = ("bad_request", "expected a request of HTTP/1.1, got something else; mend it")
_LARGE = (
    "header_too_large",
    f"expected a request line and headers of at most {MAX_HEAD:,} bytes; shorten them",
)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Says where it listens as soon as it does, and keeps what ended it."""

    ended_by = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = sig
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving at http://{shown}:{port} (Ctrl-C ends it)", flush=True)


def serve_app(app: Any, host: str, port: int) -> int:
    """Answers until SIGTERM (0) or Ctrl-C (130); ValueError where the address cannot be had."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        loop="asyncio",
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=DRAIN,
        server_header=False,
        access_log=False,  # addresses hold what people look for
        log_config=None,
        proxy_headers=False,  # serve/middleware.py reads them, where it is told to
    )
    server = Server(config)
    with _ends_quietly():
        try:
            server.run()
        except KeyboardInterrupt:
            return 130
        except SystemExit as end:  # uvicorn's way to say that the address is taken
            raise ValueError(
                f"expected to listen at {host}:{port}, got an error (above); choose another --port"
            ) from end
    # A program that was started in the background may have SIGINT ignored: nothing is raised then.
    return 130 if server.ended_by == signal.SIGINT else 0


@contextlib.contextmanager
def _ends_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more; SIGTERM has been obeyed by then."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
