"""Fetch files from the server through its authenticated listener, each of a size that is known before."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.errors import ProtocolError
from fedrec.flower.admission import signed_headers
from fedrec.flower.clock import ServerClock
from fedrec.flower.connection_errors import explained
from fedrec.flower.http_client import http_client
from fedrec.flower.proxies import proxy_for

SECONDS, SMALL_SECONDS = 3600.0, 60.0
"""Time limits of one file's body, and of a small one's."""
_PAUSE_SECONDS = 60.0

_log = logging.getLogger(__name__)


class ModelLink:
    """A connection that downloads files; a context manager.

    A merchant's daemon may be connected at the same time, under the same key.

    Args:
        address: host:port of the server.
        ca: PEM file of the authority that must have issued the server's certificate.
        key: the merchant's P-384 key, enrolled at the server.

    Raises:
        ConfigError: ``ca`` contains no certificate, or the environment's proxy can't be used.
    """

    def __init__(self, *, address: str, ca: Path, key: ec.EllipticCurvePrivateKey) -> None:
        self._address, self._key = address, key
        self._clock, self._proxy = ServerClock(), proxy_for(address)
        self._client = http_client(ca=ca, proxy=self._proxy, seconds=_PAUSE_SECONDS)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def small(self, path: str, *, most: int) -> bytes | None:
        """Fetch a small file.

        Args:
            path: the path.
            most: its largest size in bytes.

        Returns:
            The content; None if the server has no such file for this merchant.

        Raises:
            ConnectionLostError: the server can't be reached, or its answer is larger or can't be read.
            NotAdmittedError: the server doesn't admit the key.
        """  # noqa: DOC501 (the ValueError becomes a ConnectionLostError)
        with self._answer(path) as answer:
            if answer is None:
                return None
            size = _size(answer)
            if size > most:
                raise ValueError(f"it has more than {most:,} bytes")
            return b"".join(_pieces(answer, size, seconds=SMALL_SECONDS))

    def fetch(self, path: str, file: BinaryIO, *, size: int, sha256: str) -> None:
        """Fetch a file whose size and hash are known.

        Args:
            path: the path.
            file: where it is written.
            size: its size in bytes.
            sha256: its SHA-256, 64 hexadecimal digits.

        Raises:
            ConnectionLostError: the server can't be reached, or has another file there.
            NotAdmittedError: the server doesn't admit the key.
            ProtocolError: the file has another hash.
            OSError: it can't be written.
        """  # noqa: DOC501 (the ValueError becomes a ConnectionLostError)
        digest = hashlib.sha256()
        with self._answer(path) as answer:
            if answer is None or _size(answer) != size:
                raise ValueError("it is not of the size that the server has signed")
            for piece in _pieces(answer, size, seconds=SECONDS):
                digest.update(piece)
                _write(file, piece)
        if digest.hexdigest() != sha256:
            raise ProtocolError(
                f"{path} of the server at {self._address} isn't the file that the server has signed"
            )

    @contextmanager
    def _answer(self, path: str) -> Iterator[httpx.Response | None]:
        """Ask for a path; yield the answer with its body unread, None for status 404."""
        try:
            with closing(self._sent(path)) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    yield None
                    return
                answer.raise_for_status()
                yield answer
        except _WriteError as error:
            raise error.cause from None
        # A hostile answer can make the HTTP client raise any type.
        except Exception as error:
            _log.debug("the exception that ended the connection:", exc_info=True)
            raise explained(error, address=self._address, proxy=self._proxy) from None

    def _sent(self, path: str) -> httpx.Response:
        """Send a request; once more where the server refuses the time that is signed in it."""
        request = self._client.build_request(
            "GET",
            f"https://{self._address}{path}",
            headers={"content-length": "0", "accept-encoding": "identity"},
        )
        request.headers.update(signed_headers(self._key, at=self._clock.now()))
        answer = self._client.send(request, stream=True)
        if self._clock.follow(answer):
            answer.close()
            request.headers.update(signed_headers(self._key, at=self._clock.now()))
            answer = self._client.send(request, stream=True)
        return answer


class _WriteError(Exception):
    """The merchant's own disk failed, not the connection."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _write(file: BinaryIO, piece: bytes) -> None:
    try:
        file.write(piece)
    except OSError as error:
        raise _WriteError(error) from None


def _size(answer: httpx.Response) -> int:
    """Return the size of an answer's body; ``ValueError`` if it isn't told, or the body is encoded."""
    length = answer.headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 12:
        raise ValueError("it has no Content-Length")
    if "content-encoding" in answer.headers or "transfer-encoding" in answer.headers:
        raise ValueError("it is compressed, or comes in chunks")
    return int(length)


def _pieces(answer: httpx.Response, size: int, *, seconds: float) -> Iterator[bytes]:
    """Yield the body as it arrives; ``ValueError`` if it isn't of this size, or takes too long."""
    end, left = time.monotonic() + seconds, size
    # With a size of pieces, a server that sends byte by byte could hold the loop within one of them.
    for piece in answer.iter_raw():
        left -= len(piece)
        if left < 0 or time.monotonic() > end:
            raise ValueError("it is too large or too slow")
        yield piece
    if left:
        raise ValueError("it ended too early")
