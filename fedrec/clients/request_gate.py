"""Check, before a request is read, that the merchant's own server sent it to this merchant and it is new."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from flwr.app import RecordDict

from fedrec._internal.files import OPEN_FLAGS, sync_folder
from fedrec.errors import LedgerError, RefusedError
from fedrec.privacy.identity import verify
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import REQUEST_CONTEXT, RequestKind, RequestStatement
from fedrec.protocol.transport import content_hash, hash_blobs, signed_request

_KINDS: tuple[str, ...] = get_args(RequestKind)
_TAKEN = struct.Struct("<Q32s")
_SLOT_BYTES = 256
"""Size of a slot: a server's key (32 bytes) and the last accepted request of each kind.

A slot lies within one disk sector, so that it is written as a whole."""
_SYNCED = ("query.join", "query.close")


@dataclass(frozen=True)
class AcceptedRequest:
    """A request that was accepted.

    Attributes:
        statement: what the server signed about it.
        blob_hashes: the SHA-256 of each of its blobs, by name.
    """

    statement: RequestStatement
    blob_hashes: Mapping[str, str]


class RequestGate:
    """Accepts the requests that one server signed for one merchant, in the order of their counters.

    A request is accepted if its counter is above that of every accepted request, or if it is identical to the
    last accepted request of its kind: Flower may deliver a message twice, and the merchant may stop in
    between. The stored reply then decides what is answered. Every other request is refused.

    The file has a slot for every server that the merchant has had. It is written before a request is
    answered, so that it survives the end of the process. Only joins and closes are synced against a loss of
    power: the content of the requests between them is in the ledger and in the store, which are synced.

    Args:
        path: the file.
        merchant: the merchant's name.
        server_key: the server's Ed25519 public key, 64 hexadecimal digits.

    Attributes:
        server_key: the Ed25519 key of the merchant's join file, 64 hexadecimal digits.
    """

    def __init__(self, path: Path, *, merchant: str, server_key: str) -> None:
        self._path = path
        self._merchant = merchant
        self.use_server_key(server_key)

    def use_server_key(self, server_key: str) -> None:
        """Accept only this server's requests from now on; raise ``LedgerError`` if the file is damaged."""
        self.server_key = server_key
        self._key = bytes.fromhex(server_key)
        self._slot, self._taken = self._read()

    def check(self, content: RecordDict, *, kind: str) -> AcceptedRequest:
        """Check a message, and accept it or not.

        The message's body is hashed, but not parsed.

        Args:
            content: the content of the message.
            kind: Flower's type of the message.

        Returns:
            What the server signed.

        Raises:
            RefusedError: the message is not from this server, not for this merchant, or old.
            ProtocolError: the message is malformed.
        """
        signed = signed_request(content)
        statement = signed.statement
        body = statement.canonical_bytes()
        if not verify(self._key, body, bytes.fromhex(signed.signature), context=REQUEST_CONTEXT):
            raise RefusedError("a request is not signed by the server of the merchant's join file")
        if statement.kind != kind or statement.recipient != self._merchant:
            raise RefusedError("a request was signed for another merchant, or as another kind of request")
        blob_hashes = hash_blobs(content)
        if statement.content_hash != content_hash(content, blob_hashes):
            raise RefusedError("a request's body or a blob is not what the server signed")
        self._take(statement, digest=bytes.fromhex(sha256_hex(body)))
        return AcceptedRequest(statement=statement, blob_hashes=blob_hashes)

    def _take(self, statement: RequestStatement, *, digest: bytes) -> None:
        """Record a newer request; accept a repetition of the last one of its kind; refuse any other."""
        if self._taken[statement.kind] == (statement.counter, digest):
            return
        if statement.counter <= max(counter for counter, _ in self._taken.values()):
            raise RefusedError("a request is older than one that was accepted before")
        taken = self._taken | {statement.kind: (statement.counter, digest)}
        self._write(taken, synced=statement.kind in _SYNCED)
        self._taken = taken

    def _write(self, taken: dict[str, tuple[int, bytes]], *, synced: bool) -> None:
        packed = self._key + b"".join(_TAKEN.pack(*taken[kind]) for kind in _KINDS)
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
        try:
            os.lseek(descriptor, self._slot * _SLOT_BYTES, os.SEEK_SET)
            os.write(descriptor, packed.ljust(_SLOT_BYTES, b"\0"))
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self._path.parent)

    def _read(self) -> tuple[int, dict[str, tuple[int, bytes]]]:
        """Return the number of this server's slot, and its last accepted request of each kind."""
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise LedgerError(f"{self._path} can't be read: {error.strerror}") from None
        if len(data) % _SLOT_BYTES:
            raise LedgerError(
                f"{self._path} is damaged: restore it with the rest of the folder from a backup"
            )
        slots = [data[start : start + _SLOT_BYTES] for start in range(0, len(data), _SLOT_BYTES)]
        for number, slot in enumerate(slots):
            if slot.startswith(self._key):
                values = _TAKEN.iter_unpack(slot[len(self._key) :][: _TAKEN.size * len(_KINDS)])
                return number, dict(zip(_KINDS, values, strict=True))
        return len(slots), dict.fromkeys(_KINDS, (0, bytes(32)))
