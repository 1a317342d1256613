"""A daemon's own small HTTP endpoint for the person who runs it: health, metrics, a status page.

On loopback it may stand open. On any other address it asks for a token, which it reads from a file that
nobody else can read. It is plain HTTP: a token crosses a network only behind TLS of the operator's own.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from fedrec.errors import ConfigError, ServiceError

_log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LEAST_TOKEN = 32
_MOST_TOKEN = 1024
_REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What a path answers with; ``headers`` come on top of the ones that every answer has."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A path's answer, made when asked; an ``open`` one asks for no token and so must tell nothing."""

    answer: Callable[[], Answer]
    open: bool = False


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``PORT`` (on loopback) or ``HOST:PORT``; ``ConfigError`` for anything else."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(f"--observe {text} is neither PORT nor HOST:PORT")
    return host.strip("[]") or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Say whether an address or name can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> bytes:
    """Read a token; ``ConfigError`` if others can read the file, or it is too short to keep anybody out."""
    try:
        mode = path.stat().st_mode
        token = path.read_bytes()[: _MOST_TOKEN + 1].strip()
    except OSError as error:
        raise ConfigError(f"--observe-token {path} can't be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"--observe-token {path} can be read by others: chmod 600 it")
    if not LEAST_TOKEN <= len(token) <= _MOST_TOKEN:
        raise ConfigError(f"--observe-token {path} needs {LEAST_TOKEN} to {_MOST_TOKEN} characters")
    return token


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that went away is no matter for the log.
        _log.debug("a request to the endpoint broke off", exc_info=True)


class Endpoint:
    """Serves ``routes`` in a thread, between ``start`` and ``stop``.

    Raises ``ConfigError`` for an address other than loopback without a token, ``ServiceError`` when the
    port is taken.
    """

    def __init__(self, *, host: str, port: int, token: bytes | None, routes: Mapping[str, Route]) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(f"--observe on {host} needs --observe-token: it can be reached from outside")
        try:
            self._server = _Server((host, port), _handler(host=host, token=token, routes=routes))
        except OSError as error:
            raise ServiceError(f"--observe can't listen on {host}:{port}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="fedrec-observe", daemon=True)

    @property
    def port(self) -> int:
        """The port, also where 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(*, host: str, token: bytes | None, routes: Mapping[str, Route]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version, sys_version = "fedrec", ""

        def do_GET(self) -> None:
            route = routes.get(urlsplit(self.path).path)
            if not self._named_as_itself():
                self._send(_plain(HTTPStatus.FORBIDDEN))
            elif not (route is not None and route.open) and not self._allowed():
                self._send(_plain(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"}))
            elif route is None:
                self._send(_plain(HTTPStatus.NOT_FOUND))
            else:
                self._send(self._made(route))

        def _named_as_itself(self) -> bool:
            # A web page that has its own name resolved to 127.0.0.1 must not read this one.
            if token is not None:
                return True
            named = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            return is_loopback(named) or named == host

        def _allowed(self) -> bool:
            if token is None:
                return True
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            return hmac.compare_digest(given, b"Bearer " + token)

        @staticmethod
        def _made(route: Route) -> Answer:
            # Whatever is wrong with a figure, the daemon's work goes on; its log says what it was.
            try:
                return route.answer()
            except Exception:
                _log.exception("the endpoint could not answer")
                return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            fixed = {
                "Content-Type": answer.content_type,
                "Content-Length": str(len(answer.body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            }
            for name, value in (fixed | dict(answer.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            # Requests are not logged: a health check asks every few seconds.
            return

    return Handler


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(f"{status.phrase}\n".encode(), "text/plain; charset=utf-8", status, headers or {})


@contextmanager
def observing(listen: str | None, *, token_file: Path | None, routes: Mapping[str, Route]) -> Iterator[None]:
    """Serve ``routes`` at ``listen`` for as long as the block runs; nothing is served where it is None."""
    if listen is None:
        if token_file is not None:
            raise ConfigError("--observe-token is of no use without --observe")
        yield
        return
    host, port = parse_listen(listen)
    token = None if token_file is None else read_token(token_file)
    endpoint = Endpoint(host=host, port=port, token=token, routes=routes)
    endpoint.start()
    _log.info("health and metrics on %s, port %d", host, endpoint.port)
    try:
        yield
    finally:
        endpoint.stop()
