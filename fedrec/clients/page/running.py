"""Serve a merchant's page in this process, on this machine alone, until it is stopped."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

import uvicorn

from fedrec._internal.files import write_secret
from fedrec._internal.host_names import LOOPBACK
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.page.application import Actions, make_application
from fedrec.clients.page.model_trial import ModelTrial
from fedrec.clients.page.photo_view import view_of
from fedrec.clients.page.status_reader import StatusReader
from fedrec.observability.endpoint import LEAST_TOKEN, bind, plain_server

TOKEN_FILE: Final = "page.token"  # noqa: S105 (the name of a file)
_MOST_CONNECTIONS: Final = 64
_STOP_SECONDS: Final = 3
_NICE: Final = 10
"""The page gives way to training."""


def new_token(home: MerchantHome) -> bytes:
    """Make the token of this start, and replace the file that holds it.

    Args:
        home: the merchant's folder, where the file has mode 0600.

    Returns:
        The token, which is text of ASCII.

    Raises:
        OSError: the file can't be written.
    """
    token = secrets.token_urlsafe(LEAST_TOKEN).encode()
    path = home.folder / TOKEN_FILE
    # Pages of one folder may start at the same time, on ports of their own.
    scratch = path.with_name(f"{TOKEN_FILE}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    write_secret(scratch, token)
    scratch.replace(path)
    return token


def serve_page(
    home: MerchantHome, *, port: int, announce: Callable[[str], None], until: BinaryIO | None = None
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        home: the merchant's folder.
        port: the port on loopback; 0 for any free one.
        announce: told the page's address, with the token, once it is served.
        until: the page also ends when this stream does: with the process that has its other end.

    Raises:
        ConfigError: a file of the folder can't be used.
        OSError: the token can't be written.
        ServiceError: the port is in use.
    """
    bound = bind(LOOPBACK, port, what="the page")
    # A new one each time: who got an earlier one, such as by listening on the port meanwhile, has nothing.
    token = new_token(home)
    reader = StatusReader(home)
    application = make_application(
        reader,
        view_of(home),
        ModelTrial(home),
        Actions(pause=home.pause, resume=home.resume),
        host=LOOPBACK,
        token=token,
    )
    if hasattr(os, "nice"):
        os.nice(_NICE)
    server = plain_server(application, most_connections=_MOST_CONNECTIONS, stop_seconds=_STOP_SECONDS)
    announce(f"http://{LOOPBACK}:{bound.getsockname()[1]}/#token={token.decode('ascii')}")
    if until is not None:
        threading.Thread(target=_stop_at_end, args=(until, server), name="until", daemon=True).start()
    # uvicorn raises the signal again, once all requests are answered.
    with suppress(KeyboardInterrupt):
        server.run([bound])


def _stop_at_end(stream: BinaryIO, server: uvicorn.Server) -> None:
    with suppress(OSError, ValueError):
        while stream.read(1024):
            pass
    server.should_exit = True
