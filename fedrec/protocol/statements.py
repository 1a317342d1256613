"""Define what parties sign, each statement in its own context: keys, joins, commitments, heads, receipts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import FailFast, Field, StringConstraints

from fedrec.protocol.schema import (
    MAX_COMMITTEE,
    MAX_LAYERS,
    MAX_ROUNDS,
    Hash,
    PartyName,
    RoundNumber,
    Signature,
    Strict,
    sha256_hex,
)

SEALING_KEY_DIGITS = 2 * (32 + 1184)
"""Hexadecimal digits of an X25519 and an ML-KEM-768 public key, joined."""
POINT_DIGITS = 2 * 33
"""Hexadecimal digits of a point of secp256k1 in compressed form."""

_COMPACT = json.JSONEncoder(separators=(",", ":"))

JOINED_CONTEXT = b"fedrec/joined/1"
COMMITMENT_CONTEXT = b"fedrec/commitment/2"
SEALING_KEY_CONTEXT = b"fedrec/sealing-key/1"
ENCRYPTION_KEY_CONTEXT = b"fedrec/encryption-key/1"
LEDGER_HEAD_CONTEXT = b"fedrec/ledger-head/1"
RECEIPT_CONTEXT = b"fedrec/ledger-receipt/1"
REQUEST_CONTEXT = b"fedrec/request/1"

RequestKind = Literal["query.join", "train", "query.unmask", "query.close"]
"""The requests of a server to a merchant, as Flower's message types."""


class SealingKey(Strict):
    """A committee member's X25519 and ML-KEM-768 keys for one training; signed by its identity key."""

    training_id: Hash
    merchant: PartyName
    public_key: Annotated[
        str, StringConstraints(pattern=rf"^[0-9a-f]{{{SEALING_KEY_DIGITS}}}$", max_length=SEALING_KEY_DIGITS)
    ]


class SignedSealingKey(Strict):
    """A :class:`SealingKey` and the member's Ed25519 signature over its canonical bytes."""

    statement: SealingKey
    signature: Signature


class EncryptionKey(Strict):
    """The hash of a training's public key, for schemes with one; signed by the merchant that made the key."""

    training_id: Hash
    merchant: PartyName
    key_hash: Hash


class SignedEncryptionKey(Strict):
    """An :class:`EncryptionKey` and its maker's Ed25519 signature over its canonical bytes."""

    statement: EncryptionKey
    signature: Signature


class Joined(Strict):
    """A merchant takes part in a training; ``seeded`` if its noise comes from a seed and hides nothing."""

    training_id: Hash
    merchant: PartyName
    seeded: bool = False


HeadMoment = Literal["joined", "charged", "answered"]


class LedgerHead(Strict):
    """The head of a merchant's ledger: the hash of its last entry, opaque to others.

    ``moment`` is the event that it follows: the merchant joined the training (round 0; the last entry is an
    earlier one), charged the round, or recorded its answer in the round. The server returns the signed head
    to the merchant in a :class:`Receipt`.
    """

    training_id: Hash
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS)]
    merchant: PartyName
    moment: HeadMoment
    head_hash: Hash


class SignedLedgerHead(Strict):
    """A :class:`LedgerHead` and the merchant's Ed25519 signature over its canonical bytes."""

    statement: LedgerHead
    signature: Signature


class Receipt(Strict):
    """A merchant's signed ledger head, countersigned by the server that received it.

    ``signature`` is the Ed25519 signature by ``server_key`` over the canonical bytes of ``head``.
    """

    head: SignedLedgerHead
    server_key: Hash
    signature: Signature


class RequestStatement(Strict):
    """What the server signs about a request: its recipient, its content, and a counter against replays.

    ``content_hash`` is the result of :func:`fedrec.protocol.transport.content_hash`: it covers the body as
    sent and every blob by name. ``round_number`` is 0 if the request belongs to no round. ``counter``
    increases with every request to the same recipient, also across restarts of the server.
    """

    kind: RequestKind
    training_id: Hash
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS)]
    recipient: PartyName
    counter: Annotated[int, Field(ge=1, lt=2**63)]
    content_hash: Hash


class SignedRequest(Strict):
    """A :class:`RequestStatement` and the server's Ed25519 signature over its canonical bytes."""

    statement: RequestStatement
    signature: Signature


CurvePoint = Annotated[
    str, StringConstraints(pattern=rf"^0[23][0-9a-f]{{{POINT_DIGITS - 2}}}$", max_length=POINT_DIGITS)
]
"""The form of a compressed point; whether it is on the curve is checked where it is used."""


class Commitment(Strict):
    """What a merchant signs about its upload.

    ``boxes_hash`` is the result of :func:`boxes_hash`. ``key_commitments``, as many as the plan's threshold,
    are the content of :class:`fedrec.privacy.aggregation.dealing.Published` for the dealt key; there are none
    if no key is dealt. ``layer_seed_hashes`` (one per layer) and ``layer_part_hashes`` (one per committee
    member) are those of :class:`fedrec.privacy.aggregation.layer_seeds.SeedCommitments`; both are empty if
    all noise stays in.
    """

    training_id: Hash
    round_number: RoundNumber
    merchant: PartyName
    model_hash: Hash
    ciphertext_hash: Hash
    boxes_hash: Hash
    key_commitments: Annotated[tuple[CurvePoint, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    layer_seed_hashes: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=MAX_LAYERS)] = ()
    layer_part_hashes: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=MAX_COMMITTEE)] = ()


class SignedCommitment(Strict):
    """A :class:`Commitment` and the merchant's Ed25519 signature over its canonical bytes."""

    commitment: Commitment
    signature: Signature


def dealing_statement(*, training_id: str, round_number: int, dealer: str) -> bytes:
    """Encode the identity of one merchant's dealing in one round.

    Args:
        training_id: the training, 64 hexadecimal digits.
        round_number: the round.
        dealer: name of the merchant that deals its key.

    Returns:
        The canonical bytes, in their own domain.
    """
    return _COMPACT.encode(["fedrec/dealing/1", training_id, round_number, dealer]).encode()


def box_binding(*, training_id: str, round_number: int, dealer: str, member: str) -> bytes:
    """Encode the associated data that a sealed parcel is bound to.

    Args:
        training_id: the training, 64 hexadecimal digits.
        round_number: the round.
        dealer: name of the merchant that sealed the parcel.
        member: name of the committee member that it is sealed to.

    Returns:
        The canonical bytes, in their own domain.
    """
    return _COMPACT.encode(["fedrec/box/1", training_id, round_number, dealer, member]).encode()


def boxes_hash(boxes: Sequence[bytes]) -> str:
    """Return the SHA-256 over all sealed boxes of an upload, in the order of the committee."""
    return sha256_hex("\n".join(map(sha256_hex, boxes)).encode())
