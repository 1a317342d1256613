"""Encode a message as a Flower ``RecordDict``: one strict JSON body and named blobs of bytes.

Small blobs are stored beside the body, large ones as arrays; a request also has the server's signature. The
content of a message is untrusted until it has passed these size limits and the schema of its body. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
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
"""Larger blobs are arrays: Flower sends an array in requests of its own, but a body in one request."""
PIECE_BYTES = 5 * 2**20
"""Larger blobs are cut into arrays of this size, which Flower sends at once; it would copy a larger array."""
MAX_BLOBS = MAX_PEERS + 2
"""An opening carries one blob per survivor."""
_BLOB_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

Body = TypeVar("Body", bound=Strict)


Blobs = Mapping[str, bytes]
"""A message's blobs, by name."""


class HashedBlobs(dict[str, bytes]):
    """The blobs of a received message, by name, with the hashes that were computed to check its signature.

    Args:
        blobs: the blobs.
        hashes: the SHA-256 of every blob, by name.
    """

    def __init__(self, blobs: Blobs, *, hashes: Mapping[str, str]) -> None:
        super().__init__(blobs)
        self.hashes = hashes


def pack(body: Strict, blobs: Blobs | None = None) -> RecordDict:
    """Encode a body and its blobs as a Flower ``RecordDict``.

    Args:
        body: the body, one of the schemas of messages.
        blobs: bytes by name, such as ``model``.

    Returns:
        The content of a Flower message.
    """
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
    """Replace the body of a message.

    Args:
        content: a message from :func:`pack`.
        body: the new body.

    Returns:
        A message that shares its blobs with ``content``, without a copy.
    """
    return _with(content, _JSON, body.canonical_bytes())


def with_signature(content: RecordDict, signed: SignedRequest) -> RecordDict:
    """Add the server's signature to a message.

    Args:
        content: a message from :func:`pack`.
        signed: the signed statement about this message.

    Returns:
        A message that shares its blobs with ``content``, without a copy.
    """
    return _with(content, _SIGNED, signed.canonical_bytes())


def _with(content: RecordDict, key: str, value: bytes) -> RecordDict:
    changed = RecordDict({_BODY: ConfigRecord({**content.config_records[_BODY], key: value})})
    if _BLOBS in content:
        changed[_BLOBS] = content[_BLOBS]
    return changed


def content_bytes(content: RecordDict) -> int:
    """Return the payload size of a message in bytes: its body and its blobs."""
    size = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    for config in content.config_records.values():
        size += sum(len(value) for value in config.values() if isinstance(value, bytes))
    return size


def is_refusal(content: RecordDict) -> bool:
    """Test whether a reply from :func:`pack` is a refusal."""
    body: dict[str, object] = json.loads(cast(bytes, content.config_records[_BODY][_JSON]))
    return body.get("refused") is not None


def unpack(content: RecordDict, kind: type[Body], *, max_blob_bytes: int) -> tuple[Body, dict[str, bytes]]:
    """Decode and validate a message.

    Args:
        content: the message, from an untrusted party.
        kind: schema of the body.
        max_blob_bytes: most bytes of all blobs together.

    Returns:
        The body, and the blobs by name.

    Raises:
        ProtocolError: the message is not of that kind, or its blobs are larger than ``max_blob_bytes``.
    """
    parts = _parts(content, what=f"a {kind.__name__} message")
    if sum(len(piece) for pieces in parts.blobs.values() for piece in pieces) > max_blob_bytes:
        raise ProtocolError(f"the blobs of a {kind.__name__} message are too large")
    return _read(parts.raw, kind), {name: b"".join(pieces) for name, pieces in parts.blobs.items()}


def signed_request(content: RecordDict) -> SignedRequest:
    """Return the server's signed statement about a message; ``ProtocolError`` if it has none."""
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
    """Return the SHA-256 of every blob of a message, by name; ``ProtocolError`` if the message is invalid."""
    return {name: _hash_pieces(pieces) for name, pieces in _parts(content, what="a message").blobs.items()}


def content_hash(content: RecordDict, blob_hashes: Mapping[str, str] | None = None) -> str:
    """Hash the body of a message, as received, and every blob by name.

    The result equals :func:`request_hash` of the arguments of :func:`pack`.

    Args:
        content: the message, from an untrusted party.
        blob_hashes: the result of :func:`hash_blobs`, which checks the message, if it is already known.

    Returns:
        The SHA-256, 64 hexadecimal digits.

    Raises:
        ProtocolError: it is not a valid message.
    """
    if blob_hashes is None:
        blob_hashes = hash_blobs(content)
    return _hash_of(_raw_body(content, what="a message"), blob_hashes)


def request_hash(body: Strict, blobs: Blobs) -> str:
    """Hash a request, to recognise an identical one that is repeated.

    The hash doesn't cover the server's signature and counter, because a restarted server repeats its
    requests.

    Args:
        body: the body.
        blobs: bytes by name.

    Returns:
        The SHA-256 of the body and every blob by name, 64 hexadecimal digits.
    """
    return _hash_of(body.canonical_bytes(), {name: blob_hash(blobs, name) for name in blobs})


def blob_hash(blobs: Blobs, name: str) -> str:
    """Return the hash of a blob, which may be known already.

    Args:
        blobs: bytes by name.
        name: name of the blob.

    Returns:
        The SHA-256, 64 hexadecimal digits.
    """
    return blobs.hashes[name] if isinstance(blobs, HashedBlobs) else sha256_hex(blobs[name])


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
    """The parts of a message, without copies: its body, and its blobs in pieces."""

    raw: bytes
    blobs: dict[str, list[bytes]]


def _parts(content: RecordDict, *, what: str) -> _Parts:
    """Split a message into its parts; ``ProtocolError`` if :func:`pack` can't have made it."""
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
    raw = _raw_body(content, what=what)
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


def _raw_body(content: RecordDict, *, what: str) -> bytes:
    raw = content.config_records[_BODY][_JSON]
    if not isinstance(raw, bytes):
        raise ProtocolError(f"the body of {what} is not bytes")
    return raw


def _large_blobs(arrays: ArrayRecord | None, *, what: str) -> dict[str, list[bytes]]:
    """Return the blobs that are stored as arrays, as ordered pieces of equal size except the last."""
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
            raise ProtocolError(f"{what} has a blob whose pieces have wrong sizes")
    return blobs


def check_blob_names(names: Collection[str], *, what: str) -> None:
    """Check the names of blobs that didn't come in a message.

    Args:
        names: the names.
        what: what holds them, for the error.

    Raises:
        ProtocolError: a name is not one of a blob or comes twice, or there are too many.
    """
    if len(names) > MAX_BLOBS or len(set(names)) != len(names):
        raise ProtocolError(f"{what} has too many blobs, or one twice")
    if not all(_BLOB_NAME.fullmatch(name) for name in names):
        raise ProtocolError(f"{what} has a blob of an unknown name")


def take_blob(blobs: Blobs, name: str) -> bytes:
    """Return a required blob.

    Args:
        blobs: bytes by name.
        name: name of the blob.

    Returns:
        The blob.

    Raises:
        ProtocolError: the blob is missing.
    """
    try:
        return blobs[name]
    except KeyError:
        raise ProtocolError(f"a message lacks its blob '{name}'") from None
