"""What server and merchant say to each other: the plan of a training, and the messages of its rounds.

Every message has a body, one of the schemas here, and named blobs of bytes (model, ciphertext, sealed
shares); :mod:`fedrec.wire` carries them. What was read is hostile until it has passed schema and ranges.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

from fedrec.errors import ProtocolError
from fedrec.text import one_line

MAX_PEERS = 1000
MAX_ROUNDS = 1_000_000
MAX_CLASSES = 10_000
MAX_CLASS_NAME = 200
MAX_LEARNING_RATE = 1e6
MIN_CLIP, MAX_CLIP = 1e-6, 1e6
"""Far beyond any use; further out, float arithmetic would no longer keep the bound that a clip stands for."""

MAX_COMMITTEE = 100
"""A thousand survivors' commitments to that many members, the largest body, take 11 MB."""
MAX_PROOF_DIGITS = 8 * 5 * MAX_COMMITTEE

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MAX_REASON = 500
Reason = Annotated[
    str,
    StringConstraints(max_length=MAX_REASON),
    AfterValidator(lambda text: one_line(text, most=MAX_REASON)),
]
"""Why somebody refuses, in words of its own, which others' logs and terminals show."""
RoundNumber = Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Mode = Literal["distributed", "local", "off"]
Unit = Literal["record", "product"]
"""What differential privacy hides: one photo, or one product with all its photos."""
Clipping = Literal["fixed", "automatic"]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _harmless(text: str) -> str:
    """Refuse signs that move a cursor, end a line or turn a text's direction; joiners are letters' own."""
    if any(unicodedata.category(sign) in _CONTROLS or sign in _TURNS for sign in text):
        raise ValueError(f"has a control sign in {text!a}")
    return text


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields, wrong types, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def canonical_bytes(self) -> bytes:
        """Return the one JSON encoding that hashes and signatures are taken over."""
        return json.dumps(
            self.model_dump(mode="json"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        ).encode()


class Peer(Strict):
    """A merchant on the roster: its name and its Ed25519 public key."""

    name: Name
    signing_key: Hash


class TrainingPlan(Strict):
    """Everything that a training's parties must agree on; ``training_id`` is the hash of all of it.

    Grid, sensitivity, noise share and ring parameters are not in it: every merchant derives them for
    itself from what is, so that no plan can understate them.
    """

    version: Literal[1] = 1
    server_key: Hash
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    model: Name
    initial_model_hash: Hash
    classes: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=MAX_CLASS_NAME), AfterValidator(_harmless)], ...],
        FailFast(),
        Field(min_length=2, max_length=MAX_CLASSES),
    ]
    channels: Literal[1, 3]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    dimension: Annotated[int, Field(ge=1, le=200_000_000)]
    views: Annotated[int, Field(ge=1, le=16)]
    unit: Unit = "record"
    mode: Mode
    rounds: RoundNumber
    local_steps: Annotated[int, Field(ge=1, le=1000)]
    local_learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
    sample_rate: Fraction
    clip: Annotated[float, Field(ge=MIN_CLIP, le=MAX_CLIP)]
    clipping: Clipping = "fixed"
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None
    records_total: Annotated[int, Field(ge=1, le=10**12)]
    records_largest: Annotated[int, Field(ge=1, le=10**9)]
    roster: Annotated[tuple[Peer, ...], FailFast(), Field(min_length=1, max_length=MAX_PEERS)]
    committee: Annotated[tuple[Name, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    threshold: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    min_contributors: Annotated[int, Field(ge=1, le=MAX_PEERS)]
    colluders: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    scheme: Name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [peer.name for peer in self.roster]
        if len(set(names)) != len(names) or len({peer.signing_key for peer in self.roster}) != len(names):
            raise ValueError("the roster names a merchant or a key twice")
        if len(set(self.committee)) != len(self.committee) or not set(self.committee) <= set(names):
            raise ValueError("the committee is not a set of merchants of the roster")
        if (self.noise_multiplier is None) != (self.mode == "off"):
            raise ValueError("a noise multiplier is given exactly where the mode is private")
        if self.local_steps != 1 and self.mode == "distributed":
            raise ValueError("'distributed' takes one step per round")
        if self.min_contributors > len(names):
            raise ValueError("more contributors are required than the roster has")
        return self

    @property
    def training_id(self) -> str:
        """The SHA-256 of the canonical plan, 64 hexadecimal digits."""
        return sha256_hex(self.canonical_bytes())

    @property
    def cohort(self) -> int:
        """The number of merchants on the roster."""
        return len(self.roster)

    def key_of(self, name: str) -> bytes:
        """Return the Ed25519 public key of a merchant; ``ProtocolError`` when it's not on the roster."""
        for peer in self.roster:
            if peer.name == name:
                return bytes.fromhex(peer.signing_key)
        raise ProtocolError(f"'{name}' is not on the roster of this training")


class JoinRequest(Strict):
    """The server proposes a plan."""

    plan: TrainingPlan


class SealingKey(Strict):
    """A committee member's X25519 public key for one training; signed by its identity key."""

    training_id: Hash
    merchant: Name
    public_key: Hash


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


class JoinReply(Strict):
    """A merchant joins, or refuses with a reason; blob ``encryption-key`` where it made the training's.

    ``signature`` is Ed25519, by the merchant, over the canonical bytes of :class:`Joined`.
    """

    merchant: Name
    refused: Reason | None = None
    seeded: bool = False
    signature: Signature | None = None
    sealing_key: SignedSealingKey | None = None
    encryption_key: SignedEncryptionKey | None = None


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


class TrainReply(Strict):
    """An upload (blobs ``ciphertext``, sealed ``box-1`` ... ``box-m``) and a ledger head, or a refusal."""

    merchant: Name
    refused: Reason | None = None
    signed: SignedCommitment | None = None
    head: SignedLedgerHead | None = None


class UnmaskRequest(Strict):
    """The survivor set, and what one member needs to answer for it, in the survivors' order.

    Where keys are dealt to a committee, blobs ``box-1`` ... hold each survivor's sealed parcel for this
    member; where one merchant holds the key, ``ciphertext-1`` ... hold each survivor's ciphertext.
    """

    training_id: Hash
    round_number: RoundNumber
    survivors: Annotated[tuple[SignedCommitment, ...], FailFast(), Field(max_length=MAX_PEERS)]


class UnmaskReply(Strict):
    """An answer about the survivors' sum alone (blob ``answer``), or a refusal.

    A member that was dealt shares that don't check names their dealers in ``complaints`` and gives no answer.
    """

    merchant: Name
    refused: Reason | None = None
    complaints: Annotated[tuple[Name, ...], FailFast(), Field(max_length=MAX_PEERS)] = ()


class CloseRequest(Strict):
    """The training is over: sealing keys and stored answers can be deleted. Brings the last receipt."""

    training_id: Hash
    receipt: Receipt | None = None


class CloseReply(Strict):
    """The merchant has closed the training."""

    merchant: Name
    refused: Reason | None = None


JOINED_CONTEXT = b"fedrec/joined/1"
COMMITMENT_CONTEXT = b"fedrec/commitment/1"
SEALING_KEY_CONTEXT = b"fedrec/sealing-key/1"
ENCRYPTION_KEY_CONTEXT = b"fedrec/encryption-key/1"
LEDGER_HEAD_CONTEXT = b"fedrec/ledger-head/1"
RECEIPT_CONTEXT = b"fedrec/ledger-receipt/1"


def roster_fingerprint(roster: Sequence[Peer]) -> str:
    """Return the SHA-256 that people compare out of band: of all names and keys, in the order of names."""
    entries = sorted([peer.name, peer.signing_key] for peer in roster)
    return sha256_hex(json.dumps(["fedrec/roster/1", entries], separators=(",", ":")).encode())


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
