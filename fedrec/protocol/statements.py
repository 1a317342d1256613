"""What the parties sign, each statement for one context: keys, joins, commitments, ledger heads, receipts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import FailFast, Field, StringConstraints

from fedrec.protocol.schema import (
    MAX_COMMITTEE,
    MAX_ROUNDS,
    Hash,
    Name,
    RoundNumber,
    Signature,
    Strict,
    sha256_hex,
)

SEALING_KEY_DIGITS = 2 * (32 + 1184)
"""Hexadecimal digits of an X25519 and an ML-KEM-768 public key, joined."""
MAX_PROOF_DIGITS = 8 * 5 * MAX_COMMITTEE

JOINED_CONTEXT = b"fedrec/joined/1"
COMMITMENT_CONTEXT = b"fedrec/commitment/1"
SEALING_KEY_CONTEXT = b"fedrec/sealing-key/1"
ENCRYPTION_KEY_CONTEXT = b"fedrec/encryption-key/1"
LEDGER_HEAD_CONTEXT = b"fedrec/ledger-head/1"
RECEIPT_CONTEXT = b"fedrec/ledger-receipt/1"
REQUEST_CONTEXT = b"fedrec/request/1"

RequestKind = Literal["query.join", "train", "query.unmask", "query.close"]
"""What a server may ask of a merchant, by Flower's name of the message type."""


class SealingKey(Strict):
    """A committee member's X25519 and ML-KEM-768 keys for one training; signed by its identity key."""

    training_id: Hash
    merchant: Name
    public_key: Annotated[
        str, StringConstraints(pattern=rf"^[0-9a-f]{{{SEALING_KEY_DIGITS}}}$", max_length=SEALING_KEY_DIGITS)
    ]


class SignedSealingKey(Strict):
    """A :class:`SealingKey` and the member's Ed25519 signature over its canonical bytes."""

    statement: SealingKey
    signature: Signature


class EncryptionKey(Strict):
    """The public key of a training whose scheme has one, by hash; signed by the merchant that made it."""

    training_id: Hash
    merchant: Name
    key_hash: Hash


class SignedEncryptionKey(Strict):
    """An :class:`EncryptionKey` and its maker's Ed25519 signature over its canonical bytes."""

    statement: EncryptionKey
    signature: Signature


class Joined(Strict):
    """A merchant takes part in a training; ``seeded`` where its noise comes from a seed and hides nothing."""

    training_id: Hash
    merchant: Name
    seeded: bool = False


HeadMoment = Literal["joined", "charged", "answered"]


class LedgerHead(Strict):
    """Where a merchant's ledger stands: the hash of its last entry, opaque to others.

    ``moment`` is what it had just done: joined the training (round 0; the entry is an earlier one), charged
    the round, or written down that it answers in it. A merchant signs a head for the server to give back in a
    :class:`Receipt`.
    """

    training_id: Hash
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS)]
    merchant: Name
    moment: HeadMoment
    head_hash: Hash


class SignedLedgerHead(Strict):
    """A :class:`LedgerHead` and the merchant's Ed25519 signature over its canonical bytes."""

    statement: LedgerHead
    signature: Signature


class Receipt(Strict):
    """A merchant's own signed head, countersigned by the server that was shown it.

    ``signature`` is Ed25519, by ``server_key``, over the canonical bytes of ``head``.
    """

    head: SignedLedgerHead
    server_key: Hash
    signature: Signature


class RequestStatement(Strict):
    """What the server signs about a request: to whom it is, what it asks, and that it is a new one.

    ``content_hash`` is that of :func:`fedrec.protocol.transport.content_hash`, over the body as it is sent
    and every blob by name. ``round_number`` is 0 where the request belongs to no round. ``counter`` grows
    with every request to the same recipient, over restarts of the server.
    """

    kind: RequestKind
    training_id: Hash
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS)]
    recipient: Name
    counter: Annotated[int, Field(ge=1, lt=2**63)]
    content_hash: Hash


class SignedRequest(Strict):
    """A :class:`RequestStatement` and the server's Ed25519 signature over its canonical bytes."""

    statement: RequestStatement
    signature: Signature


class Commitment(Strict):
    """What a merchant signs about its upload.

    ``boxes_hash`` is that of :func:`boxes_hash`. ``parcel_hashes`` (one a committee member) and
    ``degree_proof`` are what :class:`fedrec.privacy.aggregation.dealing.Published` holds of a dealt key; both
    are empty where no key is dealt.
    """

    training_id: Hash
    round_number: RoundNumber
    merchant: Name
    model_hash: Hash
    ciphertext_hash: Hash
    boxes_hash: Hash
    parcel_hashes: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    degree_proof: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$", max_length=MAX_PROOF_DIGITS)]


class SignedCommitment(Strict):
    """A :class:`Commitment` and the merchant's Ed25519 signature over its canonical bytes."""

    commitment: Commitment
    signature: Signature


def dealing_statement(*, training_id: str, round_number: int, dealer: str) -> bytes:
    """Return the canonical bytes that name one merchant's dealing of one round."""
    return json.dumps(["fedrec/dealing/1", training_id, round_number, dealer], separators=(",", ":")).encode()


def box_binding(*, training_id: str, round_number: int, dealer: str, member: str) -> bytes:
    """Return the canonical bytes that a sealed parcel is bound to."""
    return json.dumps(
        ["fedrec/box/1", training_id, round_number, dealer, member], separators=(",", ":")
    ).encode()


def boxes_hash(boxes: Sequence[bytes]) -> str:
    """Return one SHA-256 over all sealed boxes of an upload, in the committee's order."""
    return sha256_hex("\n".join(map(sha256_hex, boxes)).encode())
