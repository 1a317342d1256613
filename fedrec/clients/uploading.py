"""Make a merchant's upload of a round: encrypt its integers, deal the key, and sign a commitment to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrec.clients.context import OpenTraining
from fedrec.clients.noise_layers import add_layers
from fedrec.privacy.aggregation.committee import check_encryption_key, check_sealing_keys
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.layer_seeds import SeedCommitments, SeedDealing, deal_seeds
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
from fedrec.protocol.transport import Blobs, take_blob


@dataclass(frozen=True)
class RoundKeys:
    """The checked public keys of a round: the committee's sealing keys by name, or the training's key."""

    sealing: Mapping[str, bytes] = field(default_factory=dict)
    encryption: bytes | None = None


def round_keys(request: TrainRequest, blobs: Blobs, *, plan: TrainingPlan, scheme: Scheme) -> RoundKeys:
    """Check the public keys of a train request, under which the upload is encrypted.

    Args:
        request: the server's request.
        blobs: its blobs by name.
        plan: the training's plan.
        scheme: its aggregation scheme.

    Returns:
        The keys.

    Raises:
        ProtocolError: a key is missing, or isn't signed by its merchant.
    """
    if isinstance(scheme, CommitteeScheme):
        return RoundKeys(sealing=check_sealing_keys(request.sealing_keys, plan=plan))
    if isinstance(scheme, HolderScheme):
        key = take_blob(blobs, "encryption-key")
        return RoundKeys(encryption=check_encryption_key(request.encryption_key, key, plan=plan))
    return RoundKeys()


@dataclass(frozen=True)
class RoundSecrets:
    """What a merchant deals to the committee in a round.

    Attributes:
        key: the key of its ciphertext.
        seeds: the seeds of the noise layers that may be removed.
    """

    key: KeyMaterial | None
    seeds: Sequence[int] = field(default=(), repr=False)


def make_upload(
    values: NDArray[np.int64],
    request: TrainRequest,
    *,
    training: OpenTraining,
    keys: RoundKeys,
    identity: SigningIdentity,
    merchant: str,
    rng: Randomness,
) -> tuple[SignedCommitment, dict[str, bytes]]:
    """Add the noise layers, encrypt a contribution and sign a commitment to it.

    Args:
        values: the contribution in grid units, int64 (d,) or that of site figures, with the noise that stays
            in every sum; changed.
        request: the server's request.
        training: the training, with the parameters of the round.
        keys: the checked public keys of the round.
        identity: the merchant's signing identity.
        merchant: its name.
        rng: the stream of the round.

    Returns:
        The signed commitment, and the blobs of the upload: ``ciphertext`` and one box per committee member.
    """
    plan, scheme = training.plan, training.derived.scheme
    seeds = add_layers(values, noise=training.derived.noise, rng=rng)
    if values.size < scheme.parameters.dimension:
        # Site figures may share the parameters of a model, which has more numbers.
        values = np.pad(values, (0, scheme.parameters.dimension - values.size))
    encrypted = scheme.encrypt(
        values,
        training_id=plan.training_id,
        round_number=request.round_number,
        rng=rng.child("encryption", plan.training_id),
        public_key=keys.encryption,
    )
    boxes: list[bytes] = []
    published, layers = Published(commitments=()), SeedCommitments()
    if isinstance(scheme, CommitteeScheme):
        boxes, published, layers = deal_to_committee(
            scheme,
            RoundSecrets(encrypted.key, seeds),
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
        key_commitments=published.commitments,
        layer_seed_hashes=layers.seeds,
        layer_part_hashes=layers.parts,
    )
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    sent = {"ciphertext": encrypted.ciphertext}
    sent |= {f"box-{x}": box for x, box in enumerate(boxes, start=1)}
    return SignedCommitment(commitment=commitment, signature=signature.hex()), sent


def deal_to_committee(
    scheme: CommitteeScheme,
    secrets: RoundSecrets,
    *,
    plan: TrainingPlan,
    round_number: int,
    dealer: str,
    sealing_keys: Mapping[str, bytes],
    rng: Randomness,
) -> tuple[list[bytes], Published, SeedCommitments]:
    """Deal a round's key and the seeds of its noise layers to the committee.

    Args:
        scheme: the aggregation scheme.
        secrets: the round's key and seeds.
        plan: the training's plan.
        round_number: the round.
        dealer: the name of the merchant that deals the key.
        sealing_keys: the members' public keys by name, in the committee's order.
        rng: randomness of the shares.

    Returns:
        One sealed box per member, in the committee's order, and the values that the dealer publishes of the
        key and of the seeds.
    """
    members, threshold = len(plan.committee), plan.threshold
    dealing = scheme.deal(secrets.key, members=members, threshold=threshold, rng=rng)
    layers = SeedDealing(parts=(b"",) * members, published=SeedCommitments())
    if secrets.seeds:
        statement = dealing_statement(training_id=plan.training_id, round_number=round_number, dealer=dealer)
        layers = deal_seeds(
            secrets.seeds, members=members, threshold=threshold, statement=statement, rng=rng.child("layers")
        )
    boxes = []
    contents = map(bytes.__add__, dealing.parcels, layers.parts)
    for (member, public), parcel in zip(sealing_keys.items(), contents, strict=True):
        binding = box_binding(
            training_id=plan.training_id, round_number=round_number, dealer=dealer, member=member
        )
        boxes.append(seal(public, parcel, binding=binding))
    return boxes, dealing.published, layers.published
