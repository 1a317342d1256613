"""The types of ASGI, by which requests reach an app, and a short answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

BYTES: Final = ((b"content-type", b"application/octet-stream"),)
"""The type of a body that isn't for a browser."""


async def send_answer(
    send: Send, status: int, body: bytes = b"", *, headers: Iterable[tuple[bytes, bytes]] = BYTES
) -> None:
    """Send a whole answer.

    Args:
        send: ASGI's function.
        status: the HTTP status.
        body: the body.
        headers: names and values, beside the body's length.
    """
    sent = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
