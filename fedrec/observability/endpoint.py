"""Serve health, metrics and a status page of a daemon over HTTP, for the person who runs it.

On loopback the endpoint needs no token. On any other address it requires one, read from a file that only its
owner can read. It is plain HTTP: to send a token over a network, the operator puts a TLS proxy in front.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import h11
import uvicorn
from starlette import routing
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedrec._internal.host_names import LOOPBACK, is_loopback
from fedrec.errors import ConfigError, ServiceError

_log = logging.getLogger(__name__)

OBSERVE = "--observe"
LEAST_TOKEN = 32
_MOST_TOKEN = 1024
_REQUEST_SECONDS = 10.0
_STOP_SECONDS = 3
_MOST_CONNECTIONS = 64
# Connections are few: each response closes its connection, so that no idle client holds one.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Connection": "close"}


@dataclass(frozen=True)
class Answer:
    """The response of a path; ``headers`` are added to those that every response has."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """The function that makes a path's response; an ``open`` path needs no token and must reveal nothing."""

    answer: Callable[[], Answer]
    open: bool = False


def parse_listen(text: str, *, option: str = OBSERVE) -> tuple[str, int]:
    """Parse ``PORT`` (on loopback) or ``HOST:PORT``.

    Args:
        text: the option's value.
        option: its name, for messages.

    Returns:
        Host and port.

    Raises:
        ConfigError: it is anything else.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(f"{option} {text} is neither PORT nor HOST:PORT")
    return host.strip("[]") or LOOPBACK, int(port)


def read_token(path: Path, *, option: str = f"{OBSERVE}-token") -> bytes:
    """Read a token from a file.

    Args:
        path: the file.
        option: name of the option that gave it, for messages.

    Returns:
        The token.

    Raises:
        ConfigError: others can read the file, or the token is too short.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_bytes()[: _MOST_TOKEN + 1].strip()
    except OSError as error:
        raise ConfigError(f"{option} {path} can't be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{option} {path} can be read by others: chmod 600 it")
    if not LEAST_TOKEN <= len(token) <= _MOST_TOKEN:
        raise ConfigError(f"{option} {path} needs {LEAST_TOKEN} to {_MOST_TOKEN} characters")
    return token


class Endpoint:
    """Serve ``routes`` in a thread, from ``start`` to ``stop``.

    Args:
        host: address or name to listen on.
        port: port to listen on; 0 for any free one.
        token: token that requests must carry, None for none; required unless ``host`` is loopback.
        routes: the paths.

    Raises:
        ConfigError: there is no token and ``host`` is not loopback.
        ServiceError: the port is in use.
    """

    def __init__(self, *, host: str, port: int, token: bytes | None, routes: Mapping[str, Route]) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(f"--observe on {host} needs --observe-token: it can be reached from outside")
        bound = bind(host, port, what=OBSERVE)
        self._port = int(bound.getsockname()[1])
        self._server = plain_server(
            _application(host=host, token=token, routes=routes),
            most_connections=_MOST_CONNECTIONS,
            stop_seconds=_STOP_SECONDS,
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([bound],), name="fedrec-observe", daemon=True
        )

    @property
    def port(self) -> int:
        """The port in use, also if 0 was requested."""
        return self._port

    def start(self) -> None:
        """Start to answer requests."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering requests and end the thread."""
        self._server.should_exit = True
        self._thread.join()


def bind(host: str, port: int, *, what: str, backlog: int | None = None) -> socket.socket:
    """Listen on an address.

    Args:
        host: address or name.
        port: the port; 0 for any free one.
        what: what listens, for messages.
        backlog: connections that may wait to be accepted; None for the system's default.

    Returns:
        The socket.

    Raises:
        ServiceError: the port is in use, or the address isn't this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        # Python's own text names the address a second time.
        reason = os.strerror(error.errno) if error.errno is not None else str(error)
        advice = ": stop what uses it, or choose another port" if error.errno == errno.EADDRINUSE else ""
        raise ServiceError(f"{what} can't listen on {host}:{port} ({reason}){advice}") from None


def plain_server(application: ASGIApp, *, most_connections: int, stop_seconds: int) -> uvicorn.Server:
    """Make an HTTP server that trusts no proxy and logs no request.

    Args:
        application: what answers.
        most_connections: more are refused.
        stop_seconds: time that requests have left once it is stopped.

    Returns:
        The server.
    """
    return uvicorn.Server(
        uvicorn.Config(
            application,
            loop="asyncio",
            http=PromptProtocol,
            ws="none",
            lifespan="off",
            limit_concurrency=most_connections,
            timeout_graceful_shutdown=stop_seconds,
            server_header=False,
            proxy_headers=False,
            # A health check asks every few seconds, and shoppers' addresses are nobody's business.
            access_log=False,
            log_config=None,
        )
    )


class PromptProtocol(H11Protocol):
    """Close a connection that sends no complete request in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # narrower
        """Start to wait for a request."""
        super().connection_made(transport)
        self.loop.call_later(_REQUEST_SECONDS, self._end_without_request)

    def _end_without_request(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def _application(*, host: str, token: bytes | None, routes: Mapping[str, Route]) -> Starlette:
    middleware = [Middleware(CommonHeaders, headers=_HEADERS)]
    if token is None:
        middleware.append(own_names_alone(host))
    else:
        opened = frozenset(path for path, route in routes.items() if route.open)
        middleware.append(Middleware(TokenRequired, token=token, opened=opened))
    return Starlette(
        routes=[routing.Route(path, _endpoint(route), methods=["GET"]) for path, route in routes.items()],
        middleware=middleware,
    )


def own_names_alone(host: str) -> Middleware:
    """Refuse requests to other names than those of an address on loopback.

    It prevents DNS rebinding: a web page whose name resolves to 127.0.0.1 must not read what is served there.

    Returns:
        The middleware.
    """
    # The middleware cuts a host at its first colon, so "[" stands for an IPv6 address; no page has that name.
    names = ["[" if ":" in host else host, LOOPBACK, "localhost"]
    return Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)


def _endpoint(route: Route) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        # An error in a metric must not stop the daemon; the log has the details.
        try:
            made = route.answer()
        except Exception:
            _log.exception("the endpoint could not answer")
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = {"Content-Type": made.content_type, **made.headers}
        return Response(made.body, status_code=made.status, headers=headers)

    return answer


class CommonHeaders:
    """Add headers to every response.

    Args:
        app: what answers.
        headers: the headers.
    """

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str]) -> None:
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with the headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, with_headers)


class TokenRequired:
    """Require a token before anything is revealed, even whether a path exists.

    Args:
        app: what answers.
        token: the token, which a request carries as ``Authorization: Bearer TOKEN``.
        opened: paths that need none.
    """

    def __init__(self, app: ASGIApp, *, token: bytes, opened: frozenset[str]) -> None:
        self._app, self._token, self._opened = app, token, opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has the token, or whose path needs none."""
        given = Headers(scope=scope).get("Authorization", "").encode("utf-8", "replace")
        allowed = hmac.compare_digest(given, b"Bearer " + self._token)
        if allowed or scope["path"] in self._opened:
            await self._app(scope, receive, send)
        else:
            refusal = _plain(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{status.phrase}\n", status_code=status, headers=headers)


def observed(listen: str | None, *, token_file: Path | None) -> tuple[str, int, bytes | None] | None:
    """Return the host, the port and the token of an endpoint.

    Args:
        listen: ``PORT`` or ``HOST:PORT``; None to serve nothing.
        token_file: file with the token, None for no token.

    Returns:
        All three; None to serve nothing.

    Raises:
        ConfigError: the address or the token can't be used, or there is a token and no address.
    """
    if listen is None:
        if token_file is not None:
            raise ConfigError("--observe-token needs --observe")
        return None
    return *parse_listen(listen), None if token_file is None else read_token(token_file)


@contextmanager
def observing(listen: str | None, *, token_file: Path | None, routes: Mapping[str, Route]) -> Iterator[None]:
    """Serve ``routes`` while the block runs.

    Args:
        listen: ``PORT`` or ``HOST:PORT``; None to serve nothing.
        token_file: file with the token, None for no token.
        routes: the paths.

    Yields:
        None, once the endpoint answers.

    Raises:
        ConfigError: the address or the token can't be used, or there is a token and no address.
        ServiceError: the port is in use.
    """
    found = observed(listen, token_file=token_file)
    if found is None:
        yield
        return
    host, port, token = found
    endpoint = Endpoint(host=host, port=port, token=token, routes=routes)
    endpoint.start()
    _log.info("health and metrics on %s, port %d", host, endpoint.port)
    try:
        yield
    finally:
        endpoint.stop()
