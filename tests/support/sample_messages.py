"""One valid message of each kind."""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from fedrec.protocol.messages import (
    CloseReply,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.roster_statements import RosterUpdate, Rotation, SignedRotation, SignedVouch, Vouch
from fedrec.protocol.schema import Strict
from fedrec.protocol.statements import Commitment, SealingKey, SignedCommitment, SignedSealingKey
from fedrec.protocol.transport import pack
from fedrec.protocol.trust import TrustModel

BLOB = "fedrec.bytes/1"

HASH, OTHER_HASH = "a" * 64, "b" * 64

PEERS = tuple(Peer(name=f"m{index}", signing_key=f"{index:064x}") for index in range(4))

PLAN = TrainingPlan(
    server_key=HASH,
    nonce="0" * 32,
    model="linear",
    initial_model_hash=HASH,
    classes=("a", "b"),
    channels=3,
    image_size=32,
    dimension=21,
    record_values=3072,
    views=1,
    mode="local",
    rounds=3,
    local_steps=1,
    local_learning_rate=0.5,
    sample_rate=0.5,
    clip=1.0,
    delta=1e-4,
    noise_multiplier=1.0,
    records_total=160,
    records_largest=40,
    roster=PEERS,
    committee=("m0", "m1", "m2"),
    threshold=3,
    min_contributors=3,
    colluders=1,
    corrupt_members=1,
    seat_risk=0.0,
    scheme="kahe",
    trust=TrustModel(opened_by="committee", reads_single_updates="nobody_below_threshold", epsilon_of="sum"),
)

COMMITMENT = Commitment(
    training_id=HASH,
    round_number=1,
    merchant="m0",
    model_hash=HASH,
    ciphertext_hash=HASH,
    boxes_hash=HASH,
    key_commitments=("02" + HASH, "03" + OTHER_HASH),
)

SIGNED = SignedCommitment(commitment=COMMITMENT, signature="c" * 128)

SEALING = SignedSealingKey(
    statement=SealingKey(training_id=HASH, merchant="m0", public_key="ab" * 1216), signature="d" * 128
)

UPDATE = RosterUpdate(
    roster=PEERS,
    vouches=(
        SignedVouch(
            statement=Vouch(
                federation=HASH,
                peer=PEERS[3],
                node_key_hash=OTHER_HASH,
                voucher="m1",
                voucher_key=PEERS[1].signing_key,
                last_day="2026-12-31",
            ),
            signature="e" * 128,
        ),
    ),
    rotations=(
        SignedRotation(
            statement=Rotation(merchant="m2", old_key=OTHER_HASH, new_key=PEERS[2].signing_key),
            old_signature="c" * 128,
            new_signature="d" * 128,
        ),
    ),
)

BODIES: tuple[Strict, ...] = (
    JoinRequest(plan=PLAN, update=UPDATE),
    JoinReply(merchant="m0", sealing_key=SEALING),
    TrainRequest(training_id=HASH, round_number=2, model_hash=HASH, sealing_keys=(SEALING,)),
    TrainReply(merchant="m0", signed=SIGNED),
    UnmaskRequest(training_id=HASH, round_number=2, survivors=(SIGNED,)),
    UnmaskReply(merchant="m0", refused=Refusal(code="request", detail="too few")),
    CloseReply(merchant="m0"),
)

KINDS = tuple(type(body) for body in BODIES)


def message(raw: bytes, blobs: dict[str, bytes] | None = None) -> RecordDict:
    """A message with this text as its body, which no schema has seen."""
    content = pack(CloseReply(merchant="m0"), blobs)
    content["body"] = ConfigRecord({"json": raw})
    return content
