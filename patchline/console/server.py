"""The server of the pages. The only uvicorn user.

A browser that says nothing, or reads nothing, keeps no other one out: its connection ends by itself after a while, or
at once if others need its room.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchline import config
from patchline.console.connections import Room
from patchline.protocol.errors import SetupError

END_S = 3  # for pages that are being made; streams end at once
HEAD_S = 15.0  # for the first bytes of a request and all of its head
SILENT_S = 30.0  # between two pieces of what a form sends, or a browser reads
_HANDSHAKE_S = 10.0  # of TLS
_FULL = b"The console has too many connections. Try again in a moment.\n"
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-type: text/plain\r\n"


class _Connection(H11Protocol):
    """A connection with an end. See the module."""

    room: ClassVar[Room]
    address = ""
    waits_since: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._watch()
        if not self.room.admit(self):
            transport.write(_REFUSAL + b"content-length: %d\r\n\r\n" % len(_FULL) + _FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.leave(self)
        self._clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.waits_since = self.loop.time()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
            self._watch()

    def drop(self) -> None:
        self._clear()
        self.transport.abort()

    def _watch(self) -> None:
        """Wait for the head of a request, which slow bytes do not prolong, or for the next piece of its body."""
        is_head = self.cycle is None or self.cycle.response_complete
        if is_head and self._timer is not None and self.waits_since is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        is_waiting = is_head or self.cycle.more_body
        self.waits_since = self.loop.time() if is_waiting else None
        if is_waiting:
            self._timer = self.loop.call_later(HEAD_S if is_head else SILENT_S, self._expired)

    def _expired(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # the page takes its time with what has come
            self._watch()
        else:
            self.drop()

    def _expect_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(SILENT_S, self._still_unread, left)

    def _still_unread(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._expect_reading()
        else:
            self.drop()

    def _clear(self) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        self._timer = self._unread = None


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers wait a short time for TLS."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        limits = {"ssl_handshake_timeout": _HANDSHAKE_S} if options.get("ssl") else {}
        return await super().create_server(*args, **(options | limits))


class PagesServer:
    """Serves the pages on a thread of its own.

    Args:
        application: of ASGI.
        section: of the configuration.
        listening: the socket.
        room: for connections.
    """

    def __init__(
        self, application: Any, section: config.Console, listening: socket.socket, room: Room | None = None
    ) -> None:
        options = uvicorn.Config(
            application,
            http=type("Connection", (_Connection,), {"room": Room() if room is None else room}),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=END_S,
            ssl_certfile=section.cert_file,
            ssl_keyfile=section.key_file,
        )
        self._server, self._listening = uvicorn.Server(options), listening
        self.thread = threading.Thread(target=self._run, name="pages", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self.thread.start()

    def stop(self) -> None:
        """End all streams and connections, and wait for it."""
        self._server.should_exit = True
        self.thread.join(2 * END_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._server.serve(sockets=[self._listening]))


def listen(section: config.Console) -> socket.socket:
    """Return a socket that listens. Port 0 picks a free one. Raises SetupError."""
    try:
        family = socket.getaddrinfo(section.host, section.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((section.host, section.port), family=family, backlog=128)
    except OSError as error:
        advice = "choose another address with console.host and console.port"
        raise SetupError(f"the console cannot listen on {section.host}:{section.port} ({error}); {advice}") from error
