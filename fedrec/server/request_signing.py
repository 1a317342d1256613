"""Sign requests to merchants, each with a counter that only grows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import RecordDict

from fedrec._internal.json_files import write_json
from fedrec.errors import TrainingError
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.statements import REQUEST_CONTEXT, RequestKind, RequestStatement, SignedRequest
from fedrec.protocol.transport import content_hash, with_signature

_AHEAD_NS = 60 * 10**9
"""How much of the counter is reserved with one write."""


class RequestSigner:
    """Sign requests to merchants.

    The counter is the time in nanoseconds, or one more than the last where the clock stands still or went
    back. It is reserved on disk a minute ahead, with one write a minute. A restarted server, even with a
    clock that went back, therefore continues above everything that it signed. So does a home restored from a
    backup, since the clock has gone on. Merchants don't compare the counter with their own clocks.

    Args:
        path: file of the reserved counter.
        identity: the server's key.
        names: returns which merchant is at which node, by the keys that they show to Flower. It is called for
            each use, since merchants come and go.

    Raises:
        TrainingError: the file can't be read.
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
        """Sign a request.

        Args:
            content: the message.
            kind: kind of the request.
            training_id: the training.
            recipient: name of the merchant that it is for.
            round_number: the round; 0 for requests outside a round.
            blob_hashes: from :func:`fedrec.protocol.transport.hash_blobs`, where many messages share the
                blobs.

        Returns:
            The message with its signature; it shares the blobs of ``content``.
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
            write_json(self._path, {"reserved": self._reserved})
        return self._last

    def _read(self) -> int:
        if not self._path.exists():
            return 0
        try:
            return int(json.loads(self._path.read_bytes())["reserved"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self._path} can't be used ({type(error).__name__}): restore it") from None
