"""What a merchant checks before it reads a request: that its own server sent it, to it, and not long ago."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import get_args

from flwr.app import RecordDict

from fedrec._internal.files import sync_folder
from fedrec.errors import LedgerError, RefusedError
from fedrec.privacy.identity import verify
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import REQUEST_CONTEXT, RequestKind, RequestStatement
from fedrec.protocol.transport import content_hash, signed_request

_KINDS: tuple[str, ...] = get_args(RequestKind)
_TAKEN = struct.Struct("<Q32s")
_SLOT_BYTES = 256
"""A server's key (32 bytes) and, by kind, the last request taken: within a sector, so written as a whole."""
_SYNCED = ("query.join", "query.close")


class RequestGate:
    """Takes requests that one server signed for one merchant, each in the order in which they were signed.

    A request passes if it was signed after every one that was taken before, or if it is the very one that
    was taken last of its kind: Flower may deliver twice, and a merchant may stop in between. What it is
    answered then is the stored reply's business, which goes by content. Anything older is refused.

    The file keeps this for every server that the merchant has had. It is written before a request is
    answered, and survives the end of the process. Against loss of power only joins and closes are synced: of
    the requests between them the ledger's charge and the store's mark, which are synced, know the content.

    Attributes:
        server_key: the Ed25519 key of the merchant's join file, 64 hexadecimal digits.

    """

    def __init__(self, path: Path, *, merchant: str, server_key: str) -> None:
        self._path = path
        self._merchant = merchant
        self.use_server_key(server_key)

    def use_server_key(self, server_key: str) -> None:
        """Take this server's requests from now on, and no other's; ``LedgerError`` for a broken file."""
        self.server_key = server_key
        self._key = bytes.fromhex(server_key)
        self._slot, self._taken = self._read()

    def check(self, content: RecordDict, *, kind: str) -> RequestStatement:
        """Return what the server signed about a message of this kind.

        Nothing of the message's body is read: its bytes are hashed. Raises ``RefusedError`` for a message
        that isn't the server's, isn't for this merchant or is an old one, ``ProtocolError`` for what is no
        message.
        """
        signed = signed_request(content)
        statement = signed.statement
        body = statement.canonical_bytes()
        if not verify(self._key, body, bytes.fromhex(signed.signature), context=REQUEST_CONTEXT):
            raise RefusedError("a request is not signed by the server of the merchant's join file")
        if statement.kind != kind or statement.recipient != self._merchant:
            raise RefusedError("a request was signed for another merchant, or as another kind of request")
        if statement.content_hash != content_hash(content):
            raise RefusedError("a request's body or a blob is not what the server signed")
        self._take(statement, digest=bytes.fromhex(sha256_hex(body)))
        return statement

    def _take(self, statement: RequestStatement, *, digest: bytes) -> None:
        """Record a request that is newer than all before; let the last one of its kind pass again."""
        if self._taken[statement.kind] == (statement.counter, digest):
            return
        if statement.counter <= max(counter for counter, _ in self._taken.values()):
            raise RefusedError("a request is older than one that was taken before")
        taken = self._taken | {statement.kind: (statement.counter, digest)}
        self._write(taken, synced=statement.kind in _SYNCED)
        self._taken = taken

    def _write(self, taken: dict[str, tuple[int, bytes]], *, synced: bool) -> None:
        packed = self._key + b"".join(_TAKEN.pack(*taken[kind]) for kind in _KINDS)
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, packed.ljust(_SLOT_BYTES, b"\0"), self._slot * _SLOT_BYTES)
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self._path.parent)

    def _read(self) -> tuple[int, dict[str, tuple[int, bytes]]]:
        """Return the place of this server in the file, and what was taken of it."""
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
