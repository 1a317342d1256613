"""Requests to merchants, signed: who is asked, and with a counter that only grows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import RecordDict

from fedrec._internal.files import write_atomically
from fedrec.errors import TrainingError
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.statements import REQUEST_CONTEXT, RequestKind, RequestStatement, SignedRequest
from fedrec.protocol.transport import content_hash, with_signature

_AHEAD_NS = 60 * 10**9
"""How much of the counter is put aside with one write."""


class RequestSigner:
    """Signs what merchants are asked, by name.

    The counter is the time in nanoseconds, or one more than the last where the clock stands or went back.
    What is in use is reserved on disk a minute ahead, one write a minute: a server that starts again, even
    with a clock that went back, goes on above everything it signed. A home put back from a backup does, too,
    since the clock has gone on. Merchants don't hold it against clocks of their own.

    ``names`` tells which merchant is at which node, as the server knows them by the keys that they show to
    Flower; asked anew each time, since merchants come and go. Raises ``TrainingError`` for a file that can't
    be read.
    """

    def __init__(
        self, path: Path, *, identity: SigningIdentity, names: Callable[[], Mapping[int, str]]
    ) -> None:
        self._path = path
        self._identity = identity
        self.names = names
        self._last = self._reserved = self._read()

    def sign(
        self,
        content: RecordDict,
        *,
        kind: RequestKind,
        training_id: str,
        recipient: str,
        round_number: int = 0,
        blob_hashes: Mapping[str, str] | None = None,
    ) -> RecordDict:
        """Return a message with the server's signature; it holds the very same blobs.

        ``blob_hashes`` are those of :func:`fedrec.protocol.transport.hash_blobs`, where many messages share
        the blobs.
        """
        statement = RequestStatement(
            kind=kind,
            training_id=training_id,
            round_number=round_number,
            recipient=recipient,
            counter=self._next(),
            content_hash=content_hash(content, blob_hashes),
        )
        signature = self._identity.sign(statement.canonical_bytes(), context=REQUEST_CONTEXT)
        return with_signature(content, SignedRequest(statement=statement, signature=signature.hex()))

    def _next(self) -> int:
        self._last = max(time.time_ns(), self._last + 1)
        if self._last >= self._reserved:
            self._reserved = self._last + _AHEAD_NS
            write_atomically(self._path, json.dumps({"reserved": self._reserved}).encode())
        return self._last

    def _read(self) -> int:
        if not self._path.exists():
            return 0
        try:
            return int(json.loads(self._path.read_bytes())["reserved"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self._path} can't be used ({type(error).__name__}): restore it") from None
