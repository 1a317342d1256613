"""What server and merchant say to each other: the requests and replies of a training's rounds.

Every message has a body, one of the schemas here, and named blobs of bytes (model, ciphertext, sealed
shares); :mod:`fedrec.protocol.transport` carries them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.schema import (
    MAX_COMMITTEE,
    MAX_PEERS,
    Hash,
    Name,
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
    """The server proposes a plan."""

    plan: TrainingPlan

    @property
    def subject(self) -> tuple[str, int]:
        """The training, and round 0, as the server's signature names them."""
        return self.plan.training_id, 0


class JoinReply(Strict):
    """A merchant joins, or refuses with a reason; blob ``encryption-key`` where it made the training's.

    ``signature`` is Ed25519, by the merchant, over the canonical bytes of
    :class:`fedrec.protocol.statements.Joined`. ``head`` is the ledger's: a server that has no receipt
    of this merchant makes its first of it.
    """

    merchant: Name
    refused: Refusal | None = None
    seeded: bool = False
    signature: Signature | None = None
    sealing_key: SignedSealingKey | None = None
    encryption_key: SignedEncryptionKey | None = None
    head: SignedLedgerHead | None = None


class TrainRequest(Strict):
    """The server opens a round.

    Blob ``model`` holds the parameters (float32, little-endian), and ``encryption-key`` the training's public
    key where it has one. ``receipt`` is the last that the server has for this merchant.
    """

    training_id: Hash
    round_number: RoundNumber
    model_hash: Hash
    sealing_keys: Annotated[tuple[SignedSealingKey, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    encryption_key: SignedEncryptionKey | None = None
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training and the round, as the server's signature names them."""
        return self.training_id, self.round_number


class TrainReply(Strict):
    """An upload (blobs ``ciphertext``, sealed ``box-1`` ... ``box-m``) and a ledger head, or a refusal."""

    merchant: Name
    refused: Refusal | None = None
    signed: SignedCommitment | None = None
    head: SignedLedgerHead | None = None


class UnmaskRequest(Strict):
    """The survivor set, and what one member needs to answer for it, in the survivors' order.

    Where keys are dealt to a committee, blobs ``box-1`` ... hold each survivor's sealed parcel for this
    member; where one merchant holds the key, ``ciphertext-1`` ... hold each survivor's ciphertext.
    ``receipt`` is the last that the server has for this member.
    """

    training_id: Hash
    round_number: RoundNumber
    survivors: Annotated[tuple[SignedCommitment, ...], FailFast(), Field(max_length=MAX_PEERS)]
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training and the round, as the server's signature names them."""
        return self.training_id, self.round_number


class UnmaskReply(Strict):
    """An answer about the survivors' sum alone (blob ``answer``), or a refusal.

    ``head`` is the ledger's, with the entry that says that this request is answered. A member that was dealt
    shares that don't check names their dealers in ``complaints`` and gives no answer.
    """

    merchant: Name
    refused: Refusal | None = None
    complaints: Annotated[tuple[Name, ...], FailFast(), Field(max_length=MAX_PEERS)] = ()
    head: SignedLedgerHead | None = None


class CloseRequest(Strict):
    """The training is over: sealing keys and stored answers can be deleted. Brings the last receipt."""

    training_id: Hash
    receipt: Receipt | None = None

    @property
    def subject(self) -> tuple[str, int]:
        """The training, and round 0, as the server's signature names them."""
        return self.training_id, 0


class CloseReply(Strict):
    """The merchant has closed the training."""

    merchant: Name
    refused: Refusal | None = None
