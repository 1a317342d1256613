"""What the parties sign, each statement for one context: keys, joins, commitments, ledger heads, receipts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import FailFast, Field, StringConstraints

from fedrec.protocol.schema import (
    MAX_COMMITTEE,
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


class SealingKey(Strict):
    """A committee member's X25519 and ML-KEM-768 keys for one training; signed by its identity key."""

    training_id: Hash
    merchant: Name
    public_key: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{SEALING_KEY_DIGITS}}}$")]


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


class LedgerHead(Strict):
    """Where a merchant's ledger stands once a round is charged: the hash of its last entry, opaque to others.

    A merchant signs it for the server to give back in a :class:`Receipt`.
    """

    training_id: Hash
    round_number: RoundNumber
    merchant: Name
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
