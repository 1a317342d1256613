"""Answer an admitted key's request for a file, piece by piece."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from fedrec.flower.asgi import Send

PIECE_BYTES = 2**18
SECONDS = 3600.0
"""Time limit of one download."""
MOST_PER_KEY = 2
"""Most downloads of one key at a time."""


@dataclass(frozen=True)
class Download:
    """A file that is open for reading, and its size."""

    file: BinaryIO
    size: int

    @classmethod
    def of_bytes(cls, content: bytes) -> Download:
        """Return a download of content in memory."""
        return cls(BytesIO(content), len(content))

    @classmethod
    def of_file(cls, file: BinaryIO) -> Download:
        """Return a download of an open file, with its present size."""
        return cls(file, os.fstat(file.fileno()).st_size)


Downloads = Callable[[bytes, str], Download | None]
"""Called in a thread with a key (PEM as Flower writes it) and a path; None if it may have none there."""


async def send_download(send: Send, download: Download) -> None:
    """Send a download, and close its file.

    Args:
        send: of the ASGI request.
        download: the download.

    Raises:
        OSError: the file ends too early.
        TimeoutError: the receiver is too slow.
    """
    try:
        async with asyncio.timeout(SECONDS):
            headers = [
                (b"content-length", b"%d" % download.size),
                (b"content-type", b"application/octet-stream"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            left = download.size
            while left:
                piece = await asyncio.to_thread(download.file.read, min(PIECE_BYTES, left))
                if not piece:
                    raise OSError("a file became shorter while it was sent")
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": bool(left)})
    finally:
        download.file.close()
