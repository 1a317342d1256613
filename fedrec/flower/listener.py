"""Run a uvicorn server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import uvicorn

from fedrec.errors import ServiceError
from fedrec.flower.asgi import Asgi
from fedrec.flower.connection_limits import QUIET_SECONDS, ConnectionLimits, listen
from fedrec.protocol.tls import Certificates

_START_SECONDS = 30.0
_TICKS = 10
"""Ticks of uvicorn in a second."""


class _Server(uvicorn.Server):
    """Sweep a :class:`ConnectionLimits` every second, and tell how late the event loop is."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: ConnectionLimits | None,
        on_lateness: Callable[[float], None],
    ) -> None:
        super().__init__(config)
        self._connections, self._on_lateness = connections, on_lateness
        self._due = float("inf")

    async def on_tick(self, counter: int) -> bool:
        """Run uvicorn's tick, every tenth of a second."""
        now = time.monotonic()
        self._on_lateness(max(0.0, now - self._due))
        self._due = now + 1.0 / _TICKS
        if self._connections is not None and counter % _TICKS == 0:
            self._connections.sweep()
        return await super().on_tick(counter)


class Listener:
    """Serve an ASGI app over TLS, from ``start`` to ``stop``.

    Args:
        app: the app.
        host: address or name to listen on.
        port: port to listen on; 0 for any free one.
        certificates: the server's certificate and key.
        lifespan: whether to run the app's start-up and shut-down.
        connections: counts the connections, if unauthenticated clients can open them.
        on_lateness: called ten times a second with how many seconds the event loop is late.
    """

    def __init__(
        self,
        app: Asgi,
        *,
        host: str,
        port: int,
        certificates: Certificates,
        lifespan: bool,
        connections: ConnectionLimits | None = None,
        on_lateness: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._host, self._asked, self._connections = host, port, connections
        self._server = _Server(
            uvicorn.Config(
                app,
                ssl_keyfile=str(certificates.key),
                ssl_certfile=str(certificates.certificate),
                # uvloop accepts connections outside Python; httptools doesn't limit the size of headers.
                loop="asyncio",
                http="h11",
                # The peer is the sender: no proxy is trusted.
                proxy_headers=False,
                # uvicorn's own configuration would remove the process's log handlers.
                log_config=None,
                access_log=False,
                # A merchant keeps one connection between its signs of life.
                timeout_keep_alive=round(QUIET_SECONDS),
                lifespan="on" if lifespan else "off",
            ),
            connections,
            on_lateness,
        )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; requests are answered once this returns. ``ServiceError`` if the address can't be bound."""
        try:
            bound = listen(self._host, self._asked, self._connections)
        except OSError:
            raise self._unable() from None
        self._thread = threading.Thread(
            target=self._server.run, args=([bound],), name=f"fedrec-{self._host}", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise self._unable()
            time.sleep(0.02)

    def _unable(self) -> ServiceError:
        return ServiceError(
            f"the server can't listen on {self._host}:{self._asked}: "
            "is the port in use, or the address another machine's?"
        )

    @property
    def port(self) -> int:
        """The port in use, also if 0 was requested."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Stop listening, after the running requests are finished."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_START_SECONDS)
