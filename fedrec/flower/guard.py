"""ASGI in front of Flower's app: what the public listener lets through, and who may use the private one.

Flower authenticates neither Control nor Runtime, and reads a request whole before it asks who sent it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fedrec._internal.text import one_line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_REQUEST_BYTES = 32 * 2**20
"""The largest honest request is a body of 16 MiB and its small blobs; arrays travel in pieces of 5 MB."""
MAX_HELD_BYTES = 2**30
"""Of all requests together that are being read: strangers can send bodies, too."""
BODY_SECONDS = 120.0
"""How long a request's body may take to arrive."""

SECRET_HEADER = "x-fedrec-secret"  # noqa: S105 (the header's name)


class Guard:
    """Fleet and health pass, all else is told 403; every refusal is reported, Flower's own too.

    A request of more than ``MAX_REQUEST_BYTES`` is told 413 as soon as its size shows, one whose body doesn't
    come 408, and 503 is the answer while ``MAX_HELD_BYTES`` are being read. ``on_refusal`` is told address
    and path.
    """

    def __init__(self, app: Asgi, *, on_refusal: Callable[[str, str], None]) -> None:
        self._app = app
        self._on_refusal = on_refusal
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        # Decoded, it may hold line ends: whoever reports it writes it into a log.
        path = one_line(scope.get("path", ""))
        if not (path.startswith("/v1/fleet/") or path == "/health"):
            await self._refuse(scope, send, 403, path)
            return
        body = bytearray()
        try:
            status = await self._read(scope, receive, body)
            if status is not None:
                await self._refuse(scope, send, status, f"{path} ({_TOLD[status]})")
                return
            await self._app(scope, _again(bytes(body), receive), self._watched(scope, send, path))
        finally:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> int | None:
        """Read a request's body into ``body``; returns the status to refuse it with, or None."""
        for name, value in scope.get("headers", ()):
            if name == b"content-length" and (not value.isdigit() or int(value) > MAX_REQUEST_BYTES):
                return 413
        more = True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    event = await receive()
                    if event["type"] != "http.request":
                        break
                    part = event.get("body", b"")
                    body += part
                    self._held += len(part)
                    if len(body) > MAX_REQUEST_BYTES:
                        return 413
                    if self._held > MAX_HELD_BYTES:
                        return 503
                    more = bool(event.get("more_body", False))
        except TimeoutError:
            return 408
        return None

    def _watched(self, scope: Scope, send: Send, path: str) -> Send:
        """Return a ``send`` that reports it when Flower itself turns the request away."""

        async def watched(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start" and event["status"] in _TURNED_AWAY:
                self._report(scope, f"{path} ({_TURNED_AWAY[event['status']]})")
            await send(event)

        return watched

    async def _refuse(self, scope: Scope, send: Send, status: int, what: str) -> None:
        self._report(scope, what)
        await _answer(send, status)

    def _report(self, scope: Scope, what: str) -> None:
        client = scope.get("client") or ("unknown", 0)
        self._on_refusal(str(client[0]), what)


_TURNED_AWAY = dict.fromkeys((401, 403), "a key that is not admitted, or a clock that is off") | {
    412: "a key that is not admitted, or one whose last connection is still held"
}
_TOLD = {408: "its body did not come", 413: "too large", 503: "too much is being read"}


class OnlyWithSecret:
    """Lets requests with this process's secret through: other users of the machine reach loopback, too."""

    def __init__(self, app: Asgi, *, secret: str) -> None:
        self._app = app
        self._secret = secret.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            given = dict(scope.get("headers", ())).get(SECRET_HEADER.encode("ascii"), b"")
            if not hmac.compare_digest(given, self._secret):
                await _answer(send, 403)
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, then what comes after it."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
