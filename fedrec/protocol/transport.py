"""How a message travels: one strict JSON body plus named blobs of bytes in a Flower ``RecordDict``.

Small blobs lie beside the body, large ones are arrays; a request has the server's signature beside them.
Everything read from a message is hostile until it has passed the size limits given here and the schema of its
body; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedrec.errors import ProtocolError
from fedrec.protocol.reading import read_json
from fedrec.protocol.schema import MAX_PEERS, Strict, sha256_hex
from fedrec.protocol.statements import SignedRequest

_BODY, _BLOBS, _JSON, _SIGNED, _SMALL = "body", "blobs", "json", "signed", "blob:"
_BLOB_TYPE = "fedrec.bytes/1"
_LARGE_BYTES = 2**19
"""Flower moves an array in requests of its own; a body takes one request, whole."""
PIECE_BYTES = 5 * 2**20
"""A larger blob is cut into arrays of this size, what Flower moves at once: it would copy a whole one."""
MAX_BLOBS = MAX_PEERS + 2
"""An opening brings one blob for each survivor."""
_BLOB_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

Body = TypeVar("Body", bound=Strict)


def pack(body: Strict, blobs: Mapping[str, bytes] | None = None) -> RecordDict:
    """Put a body and its blobs into a Flower ``RecordDict``."""
    values: dict[str, bytes] = {_JSON: body.canonical_bytes()}
    arrays: dict[str, Array] = {}
    for name, data in (blobs or {}).items():
        if len(data) < _LARGE_BYTES:
            values[_SMALL + name] = data
            continue
        for piece, start in enumerate(range(0, len(data), PIECE_BYTES)):
            part = data[start : start + PIECE_BYTES]
            arrays[f"{name}/{piece}"] = Array(dtype="uint8", shape=(len(part),), stype=_BLOB_TYPE, data=part)
    content = RecordDict({_BODY: ConfigRecord(dict(values))})
    if arrays:
        content[_BLOBS] = ArrayRecord(arrays)
    return content


def with_body(content: RecordDict, body: Strict) -> RecordDict:
    """Return a message of :func:`pack` with another body; both have the very same blobs, not copies."""
    return _with(content, _JSON, body.canonical_bytes())


def with_signature(content: RecordDict, signed: SignedRequest) -> RecordDict:
    """Return a message of :func:`pack` with the server's signature; both have the very same blobs."""
    return _with(content, _SIGNED, signed.canonical_bytes())


def _with(content: RecordDict, key: str, value: bytes) -> RecordDict:
    changed = RecordDict({_BODY: ConfigRecord({**content.config_records[_BODY], key: value})})
    if _BLOBS in content:
        changed[_BLOBS] = content[_BLOBS]
    return changed


def content_bytes(content: RecordDict) -> int:
    """Return the payload size of a message: all bytes of its body and blobs."""
    size = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    for config in content.config_records.values():
        size += sum(len(value) for value in config.values() if isinstance(value, bytes))
    return size


def is_refusal(content: RecordDict) -> bool:
    """Say whether a reply made by :func:`pack` is a refusal."""
    body: dict[str, object] = json.loads(cast(bytes, content.config_records[_BODY][_JSON]))
    return body.get("refused") is not None


def unpack(content: RecordDict, kind: type[Body], *, max_blob_bytes: int) -> tuple[Body, dict[str, bytes]]:
    """Read a message of the given kind: its body, and its blobs by name.

    Raises ``ProtocolError`` when the message isn't of that kind or passes ``max_blob_bytes`` in all.
    """
    parts = _parts(content, what=f"a {kind.__name__} message")
    if sum(len(piece) for pieces in parts.blobs.values() for piece in pieces) > max_blob_bytes:
        raise ProtocolError(f"the blobs of a {kind.__name__} message are too large")
    return _read(parts.raw, kind), {name: b"".join(pieces) for name, pieces in parts.blobs.items()}


def signed_request(content: RecordDict) -> SignedRequest:
    """Return what a server signed about a message; ``ProtocolError`` where there is nothing of the kind."""
    raw = content.config_records[_BODY].get(_SIGNED) if _BODY in content.config_records else None
    if not isinstance(raw, bytes):
        raise ProtocolError("a request is not signed")
    return _read(raw, SignedRequest)


def _read(raw: bytes, kind: type[Body]) -> Body:
    try:
        return read_json(raw, kind)
    except ProtocolError as error:
        raise ProtocolError(f"the body of a {kind.__name__} message is malformed: {error}") from None


def hash_blobs(content: RecordDict) -> dict[str, str]:
    """Return the SHA-256 of every blob of a message, by name; ``ProtocolError`` for what isn't one."""
    return {name: _hash_pieces(pieces) for name, pieces in _parts(content, what="a message").blobs.items()}


def content_hash(content: RecordDict, blob_hashes: Mapping[str, str] | None = None) -> str:
    """Return the hash of a message: of its body as it is and of every blob, by name.

    It is the :func:`request_hash` of what :func:`pack` was given. ``blob_hashes`` are those of
    :func:`hash_blobs`, where they are known. Raises ``ProtocolError`` for what isn't a message.
    """
    raw = _parts(content, what="a message").raw
    return _hash_of(raw, hash_blobs(content) if blob_hashes is None else blob_hashes)


def request_hash(body: Strict, blobs: Mapping[str, bytes]) -> str:
    """Return the hash by which a repeated request is known to be identical: body and every blob, by name.

    The server's signature and counter are not in it: a server that starts again asks the same again.
    """
    return _hash_of(body.canonical_bytes(), {name: sha256_hex(data) for name, data in blobs.items()})


def _hash_of(raw: bytes, blob_hashes: Mapping[str, str]) -> str:
    parts = [sha256_hex(raw), *(f"{name}:{blob_hashes[name]}" for name in sorted(blob_hashes))]
    return sha256_hex("\n".join(parts).encode())


def _hash_pieces(pieces: list[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Parts:
    """A message taken apart, nothing copied: its body, and its blobs in pieces."""

    raw: bytes
    blobs: dict[str, list[bytes]]


def _parts(content: RecordDict, *, what: str) -> _Parts:
    """Take a message apart; ``ProtocolError`` for one that :func:`pack` can't have made."""
    configs, arrays = content.config_records, content.array_records
    parts = set(content)
    if (
        not {_BODY} <= parts <= {_BODY, _BLOBS}
        or not (parts - {_BODY}) <= set(arrays)
        or _BODY not in configs
        or _JSON not in configs[_BODY]
    ):
        raise ProtocolError(f"{what} has other parts than a body and blobs")
    values = configs[_BODY]
    if len(values) > MAX_BLOBS + 2:
        raise ProtocolError(f"{what} has too many blobs")
    raw = values[_JSON]
    if not isinstance(raw, bytes):
        raise ProtocolError(f"the body of {what} is not bytes")
    blobs: dict[str, list[bytes]] = {}
    for key, value in values.items():
        if key in (_JSON, _SIGNED):
            continue
        name = key.removeprefix(_SMALL)
        if name == key or not isinstance(value, bytes) or not _BLOB_NAME.fullmatch(name):
            raise ProtocolError(f"{what} has a blob of a wrong type, or a part unknown")
        blobs[name] = [value]
    for name, pieces in _large_blobs(arrays[_BLOBS] if _BLOBS in content else None, what=what).items():
        if name in blobs:
            raise ProtocolError(f"a blob of {what} comes twice")
        blobs[name] = pieces
    if len(blobs) > MAX_BLOBS:
        raise ProtocolError(f"{what} has too many blobs")
    return _Parts(raw=raw, blobs=blobs)


def _large_blobs(arrays: ArrayRecord | None, *, what: str) -> dict[str, list[bytes]]:
    """Return the blobs that travel as arrays: pieces in their order, all of one size but the last."""
    found: dict[str, dict[str, bytes]] = {}
    for key, array in (arrays or {}).items():
        name, _, number = key.rpartition("/")
        if array.stype != _BLOB_TYPE or not _BLOB_NAME.fullmatch(name):
            raise ProtocolError(f"{what} has a blob of a wrong type, or a part unknown")
        found.setdefault(name, {})[number] = array.data
    blobs: dict[str, list[bytes]] = {}
    for name, pieces in found.items():
        wanted = [str(number) for number in range(len(pieces))]
        if set(pieces) != set(wanted):
            raise ProtocolError(f"{what} lacks a piece of a blob")
        blobs[name] = [pieces[number] for number in wanted]
        if any(len(piece) != PIECE_BYTES for piece in blobs[name][:-1]) or len(blobs[name][-1]) > PIECE_BYTES:
            raise ProtocolError(f"{what} has a blob that is cut otherwise than it must be")
    return blobs


def take_blob(blobs: Mapping[str, bytes], name: str) -> bytes:
    """Return a blob that must be there; ``ProtocolError`` when it's missing."""
    try:
        return blobs[name]
    except KeyError:
        raise ProtocolError(f"a message lacks its blob '{name}'") from None
