"""A merchant's upload of a round: its integers encrypted, its key dealt, and what it signs about both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.aggregation.committee import check_encryption_key, check_sealing_keys
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, KeyMaterial, Scheme
from fedrec.privacy.identity import SigningIdentity, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import TrainRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import (
    COMMITMENT_CONTEXT,
    Commitment,
    SignedCommitment,
    box_binding,
    boxes_hash,
    dealing_statement,
)
from fedrec.protocol.transport import take_blob

Blobs = Mapping[str, bytes]


@dataclass(frozen=True)
class RoundKeys:
    """The checked public keys of a round: the committee's by name, or the training's one."""

    sealing: Mapping[str, bytes] = field(default_factory=dict)
    encryption: bytes | None = None


def round_keys(request: TrainRequest, blobs: Blobs, *, plan: TrainingPlan, scheme: Scheme) -> RoundKeys:
    """Check and return the public keys that the round's upload is made under.

    Raises ``ProtocolError`` where one is missing, or isn't signed by the merchant that it is said to be of.
    """
    if isinstance(scheme, CommitteeScheme):
        return RoundKeys(sealing=check_sealing_keys(request.sealing_keys, plan=plan))
    if isinstance(scheme, HolderScheme):
        key = take_blob(blobs, "encryption-key")
        return RoundKeys(encryption=check_encryption_key(request.encryption_key, key, plan=plan))
    return RoundKeys()


def make_upload(
    values: NDArray[np.int64],
    request: TrainRequest,
    *,
    plan: TrainingPlan,
    scheme: Scheme,
    keys: RoundKeys,
    identity: SigningIdentity,
    merchant: str,
    rng: Randomness,
) -> tuple[SignedCommitment, dict[str, bytes]]:
    """Encrypt ``values``, int64 (d,); returns the signed commitment, and the blobs that go with it."""
    encrypted = scheme.encrypt(
        values,
        training_id=plan.training_id,
        round_number=request.round_number,
        rng=rng.child("encryption", plan.training_id),
        public_key=keys.encryption,
    )
    boxes: list[bytes] = []
    published = Published(commitments=(), proof="")
    if isinstance(scheme, CommitteeScheme):
        boxes, published = deal_to_committee(
            scheme,
            encrypted.key,
            plan=plan,
            round_number=request.round_number,
            dealer=merchant,
            sealing_keys=keys.sealing,
            rng=rng.child("shares", plan.training_id),
        )
    commitment = Commitment(
        training_id=plan.training_id,
        round_number=request.round_number,
        merchant=merchant,
        model_hash=request.model_hash,
        ciphertext_hash=sha256_hex(encrypted.ciphertext),
        boxes_hash=boxes_hash(boxes),
        parcel_hashes=published.commitments,
        degree_proof=published.proof,
    )
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    sent = {"ciphertext": encrypted.ciphertext}
    sent |= {f"box-{x}": box for x, box in enumerate(boxes, start=1)}
    return SignedCommitment(commitment=commitment, signature=signature.hex()), sent


def deal_to_committee(
    scheme: CommitteeScheme,
    key: KeyMaterial | None,
    *,
    plan: TrainingPlan,
    round_number: int,
    dealer: str,
    sealing_keys: Mapping[str, bytes],
    rng: Randomness,
) -> tuple[list[bytes], Published]:
    """Deal a round's key: one sealed box a member, in the committee's order, and what is published."""
    dealing = scheme.deal(
        key,
        members=len(plan.committee),
        threshold=plan.threshold,
        statement=dealing_statement(training_id=plan.training_id, round_number=round_number, dealer=dealer),
        rng=rng,
    )
    boxes = []
    for (member, public), parcel in zip(sealing_keys.items(), dealing.parcels, strict=True):
        binding = box_binding(
            training_id=plan.training_id, round_number=round_number, dealer=dealer, member=member
        )
        boxes.append(seal(public, parcel, binding=binding))
    return boxes, dealing.published
