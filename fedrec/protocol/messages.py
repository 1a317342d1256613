"""Define the requests and replies of a training, between server and merchants.

A message has a body, which is one of these schemas, and named blobs of bytes (model, ciphertext, sealed
shares). :mod:`fedrec.protocol.transport` encodes both.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import FailFast, Field

from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.roster_statements import RosterUpdate
from fedrec.protocol.schema import (
    MAX_COMMITTEE,
    MAX_PEERS,
    Hash,
    PartyName,
    RoundNumber,
    Signature,
    Strict,
)
from fedrec.protocol.statements import (
    Receipt,
    SignedCommitment,
    SignedEncryptionKey,
    SignedLedgerHead,
    SignedSealingKey,
)


class JoinRequest(Strict):
    """The server proposes a plan.

    ``update`` is the operator's roster, equal to the plan's, with the statements by which a merchant that
    hasn't approved it may accept it. It is no part of the plan: merchants may get different statements.
    """

    is_common: ClassVar[bool] = True
    plan: TrainingPlan
    update: RosterUpdate | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training id and round 0, as in the server's signed statement."""
        return self.plan.training_id, 0


class JoinReply(Strict):
    """A merchant joins, or refuses with a reason.

    A refusal that is signed is that of a merchant that joined before, and whose rules have become stricter:
    it contributes to no more rounds, and still answers about the sums of those that were begun.

    ``signature`` is the merchant's Ed25519 signature over the canonical bytes of
    :class:`fedrec.protocol.statements.Joined`. ``head`` is the head of its ledger; a server without a receipt
    for this merchant issues the first one for it. Blob ``encryption-key`` is the training's public key, if
    this merchant made it.
    """

    merchant: PartyName
    refused: Refusal | None = None
    seeded: bool = False
    signature: Signature | None = None
    sealing_key: SignedSealingKey | None = None
    encryption_key: SignedEncryptionKey | None = None
    head: SignedLedgerHead | None = None


class TrainRequest(Strict):
    """The server starts a round.

    Blob ``model`` contains the parameters (float32, little-endian); ``encryption-key`` the training's public
    key, if the scheme has one. ``receipt`` is the server's latest receipt for this merchant.
    """

    training_id: Hash
    round_number: RoundNumber
    model_hash: Hash
    sealing_keys: Annotated[tuple[SignedSealingKey, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    encryption_key: SignedEncryptionKey | None = None
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training id and the round, as in the server's signed statement."""
        return self.training_id, self.round_number


class TrainReply(Strict):
    """An upload (blobs ``ciphertext`` and sealed ``box-1`` to ``box-m``) and a ledger head, or a refusal."""

    merchant: PartyName
    refused: Refusal | None = None
    signed: SignedCommitment | None = None
    head: SignedLedgerHead | None = None


class UnmaskRequest(Strict):
    """The survivor set, and the blobs that one committee member needs to open its sum.

    The blobs are in the survivors' order. If keys are dealt to a committee, ``box-1``, ... are the survivors'
    sealed parcels for this member; if one merchant holds the key, ``ciphertext-1``, ... are the survivors'
    ciphertexts. ``receipt`` is the server's latest receipt for this member.
    """

    training_id: Hash
    round_number: RoundNumber
    survivors: Annotated[tuple[SignedCommitment, ...], FailFast(), Field(max_length=MAX_PEERS)]
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training id and the round, as in the server's signed statement."""
        return self.training_id, self.round_number


class UnmaskReply(Strict):
    """The answer that opens the survivors' sum and nothing else (blob ``answer``), or a refusal.

    Blob ``layers`` opens this member's shares of the noise layers that a sum of so many survivors doesn't
    need, one survivor after the other; it is missing if the sum needs all.

    ``head`` is the head of the ledger after the entry for this answer. A member whose shares fail
    verification names their dealers in ``complaints`` and gives no answer.
    """

    merchant: PartyName
    refused: Refusal | None = None
    complaints: Annotated[tuple[PartyName, ...], FailFast(), Field(max_length=MAX_PEERS)] = ()
    head: SignedLedgerHead | None = None


class CloseRequest(Strict):
    """The training is over: sealing keys and stored answers may be deleted. Carries the last receipt."""

    training_id: Hash
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training id and round 0, as in the server's signed statement."""
        return self.training_id, 0


class CloseReply(Strict):
    """The merchant has closed the training."""

    merchant: PartyName
    refused: Refusal | None = None
