"""Receive a photo: the request's body as it is, bounded before it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect, Request

from fedrec.recognition.service.limits import Limits
from fedrec.recognition.service.refusals import RequestError

TYPES: Final = (
    *(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "avif", "tiff")),
    "application/octet-stream",
)
"""Other pages can't send these types without asking first, unlike a form's."""

BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES},
    }
}
"""What the API's documentation says of the body."""


class Receiver:
    """Receives photos, so many bytes at a time.

    A client that sends slowly holds no more memory than it has sent, and keeps nobody else waiting.

    Args:
        limits: bounds of size, time and memory.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body, and hold its share of the memory until the block ends.

        Args:
            request: the request.

        Yields:
            The photo's file.

        Raises:
            RequestError: its type isn't a photo's, it is too large or empty, it takes too long, or too many
                photos are in memory.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TYPES:
            raise RequestError(
                "wrong-type", f"send the photo itself as the body, with one of the types {', '.join(TYPES)}"
            )
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > self._limits.body_bytes:
            raise self._too_large()
        body = bytearray()
        held = 0
        try:
            await self._read_in_time(request, body)
            content, held = bytes(body), len(body)
            body.clear()
            yield content
        finally:
            self._held -= held or len(body)

    async def _read_in_time(self, request: Request, body: bytearray) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    body += part
                    self._held += len(part)
                    if len(body) > self._limits.body_bytes:
                        raise self._too_large()
                    if self._held > self._limits.memory:
                        raise RequestError("busy", "too many photos are being looked at: try again")
        except TimeoutError:
            raise RequestError("too-slow", f"the photo didn't arrive in {self._limits.seconds:g} s") from None
        except ClientDisconnect:
            raise RequestError("not-a-photo", "the connection ended before the photo had arrived") from None
        if not body:
            raise RequestError("not-a-photo", "the body is empty")

    def _too_large(self) -> RequestError:
        return RequestError("too-large", f"a photo may have {self._limits.body_bytes >> 20} MiB")
