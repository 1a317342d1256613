"""Receive a photo: the request's body as it is, bounded before it is read."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request

from fedrec.recognition.service.limits import Limits
from fedrec.recognition.service.refusals import RequestError

TYPES: Final = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
"""Other pages can't send these types without asking first, unlike a form's."""

BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES},
    }
}
"""What the API's documentation says of the body."""


class Receiver:
    """Receives photos, a few at a time.

    Args:
        limits: bounds of size, time and number.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.receiving)

    async def receive(self, request: Request) -> bytes:
        """Read a request's body.

        Args:
            request: the request.

        Returns:
            The photo's file.

        Raises:
            RequestError: its type isn't a photo's, it is too large or empty, or it takes too long.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TYPES:
            raise RequestError(
                "wrong-type", f"send the photo itself as the body, with one of the types {', '.join(TYPES)}"
            )
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > self._limits.body_bytes:
            raise RequestError("too-large", f"a photo may have {self._limits.body_bytes >> 20} MiB")
        async with self._places:
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._read(request)
            except TimeoutError:
                raise RequestError(
                    "too-slow", f"the photo didn't arrive within {self._limits.seconds:g} s"
                ) from None
            except ClientDisconnect:
                raise RequestError(
                    "not-a-photo", "the connection ended before the photo had arrived"
                ) from None

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.body_bytes:
                raise RequestError("too-large", f"a photo may have {self._limits.body_bytes >> 20} MiB")
        if not body:
            raise RequestError("not-a-photo", "the body is empty")
        return bytes(body)
