"""Run the service until it is stopped."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from fastapi import FastAPI

from fedrec.observability.endpoint import bind, plain_server

_MOST_CONNECTIONS: Final = 256
_STOP_SECONDS: Final = 10


def listening(host: str, port: int) -> socket.socket:
    """Listen for the service.

    Args:
        host: address or name.
        port: the port; 0 for any free one.

    Returns:
        The socket.

    Raises:
        ServiceError: the port is in use, or the address isn't this machine's.
    """
    return bind(host, port, what="the service", backlog=_MOST_CONNECTIONS)


def run(application: FastAPI, bound: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        application: the application.
        bound: the socket that it listens on.
    """
    server = plain_server(application, most_connections=_MOST_CONNECTIONS, stop_seconds=_STOP_SECONDS)
    # uvicorn raises the signal again, once all requests are answered.
    with suppress(KeyboardInterrupt):
        server.run([bound])
