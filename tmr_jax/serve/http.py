"""Subclasses uvicorn's internal H11Protocol, because uvicorn limits no request's time to arrive.

uvicorn only limits the wait between requests, so a few clients that send or read slowly could hold
all connections. Here a request, head and body, must be complete `SLOW` seconds after its first byte
(or after the connection), and a response that waits to be read must progress within the same time.
Connections beyond `MAX_OPEN` are closed at once.

The address is bound before the model is loaded (`listen`). Until then GET /health answers 503, and
all other connections wait for the service (`loading`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tmr_jax.serve.middleware import HEADERS
from tmr_jax.serve.schemas import (
    BAD_REQUEST,
    LARGE_HEADER,
    MAX_HEAD,
    HealthResponse,
    Refusal,
    body_of,
)
from tmr_jax.types import UserError

SLOW = 10.0  # seconds
DRAIN = 9  # seconds that running requests have after SIGTERM
MAX_OPEN = 800  # below the usual limit of 1,024 files per process


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
        incomplete = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        # Complete, or the rest of a request that was refused early: what follows is a new one.
        if not incomplete or (not self.conn.trailing_data[0] and self.conn.their_state is h11.IDLE):
            self._reading = _cancelled(self._reading)
        if incomplete and self._reading is None and not self.transport.is_closing():
            self._reading = self.loop.call_later(self.slow, self._cut)

    def on_response_complete(self) -> None:
        # The next request has not started: uvicorn's keep-alive limits that wait.
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
        # Nor does the connection wait for a client that does not read.
        self._writing = self.loop.call_later(self.slow, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Invalid or too long HTTP gets an error in the shape of all others."""
        if self.conn.our_state is not h11.IDLE:  # in the middle of a response
            self.transport.abort()
            return
        # h11's exception, which uvicorn drops, knows when the head is too long.
        large = getattr(sys.exception(), "error_status_hint", 400) == 431
        self._refuse(*((431, *LARGE_HEADER) if large else (400, *BAD_REQUEST)))

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
        body = json.dumps(body_of(Refusal(status, code, message))).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Prints its address once it listens, and keeps the signal that ended it."""

    ended_by = 0
    waiting: Waiting | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = sig
        super().handle_exit(sig, frame)

    def _protocol(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        assert sockets
        loop, adopting = asyncio.get_running_loop(), set()  # the loop itself keeps no reference

        def adopt(connection: socket.socket) -> None:
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            adopting.add(task)
            task.add_done_callback(adopting.discard)

        if self.waiting is not None:
            self.waiting.pass_to(lambda connection: loop.call_soon_threadsafe(adopt, connection))
        print(f"Serving at {address_of(sockets[0])} (Ctrl-C ends it)", flush=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError where the address cannot be bound."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"expected to listen at {host}:{port}, got {error}; choose another --host or --port"
        ) from error


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Waiting:
    """Connections that came before the service, in which nothing has been read yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._take: Callable[[socket.socket], object] = self._hold

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._take(connection)

    def pass_to(self, take: Callable[[socket.socket], object]) -> None:
        """Gives all of them to `take`, and those that are added from now on."""
        with self._lock:
            held, self._held, self._take = self._held, [], take
            for connection in held:
                take(connection)

    def _hold(self, connection: socket.socket) -> None:
        if len(self._held) >= MAX_OPEN:
            connection.close()
        else:
            self._held.append(connection)


@contextlib.contextmanager
def loading(listening: socket.socket) -> Iterator[Waiting]:
    """Answers GET /health with 503, while the block loads what will answer all else."""
    waiting = Waiting()
    server = _LoadingServer(listening, waiting)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield waiting
    except BaseException:
        waiting.pass_to(lambda connection: connection.close())
        raise
    finally:
        server.shutdown()
        thread.join()


HEALTH = b"GET /health"


class _LoadingServer(ThreadingHTTPServer):
    def __init__(self, listening: socket.socket, waiting: Waiting) -> None:
        super().__init__(("", 0), _Loading, bind_and_activate=False)
        self.socket.close()
        self.socket, self._waiting = listening, waiting

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(SLOW)
            start = request.recv(len(HEALTH), socket.MSG_PEEK | socket.MSG_WAITALL)
        except OSError:  # silent, or gone
            self.shutdown_request(request)
            return
        if start == HEALTH:
            super().process_request_thread(request, client_address)
        else:
            self._waiting.add(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the client left before its answer."""


class _Loading(BaseHTTPRequestHandler):
    """Closes the connection after its answer: the next one may be answered by the service."""

    timeout = SLOW

    def do_GET(self) -> None:
        body = HealthResponse(status="loading").model_dump_json().encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        self.send_response_only(503)
        for name, value in (HEADERS | headers | {"Retry-After": "3"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "tmr_jax"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold queries."""


def serve_app(app: Any, listening: socket.socket, waiting: Waiting | None = None) -> int:
    """Serves until SIGTERM (0) or Ctrl-C (130); first the connections of `loading`."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=DRAIN,
        server_header=False,
        access_log=False,  # addresses hold queries
        log_config=None,
        proxy_headers=False,  # serve/middleware.py reads them
    )
    server = Server(config)
    server.waiting = waiting
    with _ends_quietly():
        try:
            server.run([listening])
        except KeyboardInterrupt:
            return 130
    # uvicorn raises nothing where the program was started with SIGINT ignored, in the background.
    return 130 if server.ended_by == signal.SIGINT else 0


@contextlib.contextmanager
def _ends_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it again; SIGTERM has been obeyed by then."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
