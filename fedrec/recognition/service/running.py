"""Run the service until it is stopped."""

from __future__ import annotations

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from fedrec.errors import ServiceError
from fedrec.observability.endpoint import PromptProtocol

_MOST_CONNECTIONS = 256
_STOP_SECONDS = 10


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Args:
        host: address or name.
        port: the port; 0 for any free one.

    Returns:
        The socket.

    Raises:
        ServiceError: the port is in use, or the address isn't this machine's.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_MOST_CONNECTIONS
        )
    except OSError as error:
        raise ServiceError(f"the service can't listen on {host}:{port}: {error.strerror}") from None


def run(application: FastAPI, bound: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        application: the application.
        bound: the socket that it listens on.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            loop="asyncio",
            http=PromptProtocol,
            ws="none",
            lifespan="off",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_SECONDS,
            server_header=False,
            proxy_headers=False,
            # Addresses of shoppers are nobody's business.
            access_log=False,
            log_config=None,
        )
    )
    # uvicorn raises the signal again, once all requests are answered.
    with suppress(KeyboardInterrupt):
        server.run([bound])
