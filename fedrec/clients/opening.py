"""A merchant's part in opening sums: it deals its key to the committee, and answers as one who may open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrec.errors import AggregationError, ProtocolError
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, KeyMaterial, Scheme
from fedrec.privacy.identity import SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import UnmaskReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import Commitment, box_binding, dealing_statement
from fedrec.protocol.transport import take_blob

Blobs = Mapping[str, bytes]


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


def parts_of(survivors: Sequence[Commitment], blobs: Blobs, *, scheme: Scheme) -> list[bytes]:
    """Return what an unmask request brought of each survivor, in order: a sealed box, or a ciphertext.

    Raises ``ProtocolError`` when one is missing, or a ciphertext is not the one that its merchant signed.
    """
    if not isinstance(scheme, HolderScheme):
        return [take_blob(blobs, f"box-{position}") for position in range(1, len(survivors) + 1)]
    ciphertexts = []
    for position, commitment in enumerate(survivors, start=1):
        ciphertext = take_blob(blobs, f"ciphertext-{position}")
        if sha256_hex(ciphertext) != commitment.ciphertext_hash:
            raise ProtocolError(f"the ciphertext of '{commitment.merchant}' is not the one it committed to")
        ciphertexts.append(ciphertext)
    return ciphertexts


def answer_as_member(
    scheme: CommitteeScheme,
    survivors: Sequence[Commitment],
    boxes: Sequence[bytes],
    *,
    plan: TrainingPlan,
    round_number: int,
    member: str,
    sealing_key: SealingKey,
) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Answer with the sum of this member's shares, or name the dealers whose shares don't check."""
    shares: list[bytes] = []
    complaints: list[str] = []
    number = plan.committee.index(member) + 1
    for commitment, box in zip(survivors, boxes, strict=True):
        dealer = commitment.merchant
        try:
            parcel = sealing_key.open(
                box,
                binding=box_binding(
                    training_id=plan.training_id, round_number=round_number, dealer=dealer, member=member
                ),
            )
            share = scheme.accept(
                parcel,
                Published(commitments=commitment.parcel_hashes, proof=commitment.degree_proof),
                member=number,
                threshold=plan.threshold,
                statement=dealing_statement(
                    training_id=plan.training_id, round_number=round_number, dealer=dealer
                ),
            )
        except AggregationError:
            complaints.append(dealer)
        else:
            shares.append(share)
    if complaints:
        return UnmaskReply(merchant=member, complaints=tuple(complaints)), {}
    return UnmaskReply(merchant=member), {"answer": scheme.combine_shares(shares)}


def answer_as_holder(
    scheme: HolderScheme, ciphertexts: Sequence[bytes], *, merchant: str, private_key: bytes
) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Add ciphertexts, and answer with the integers of their sum.

    Raises ``AggregationError`` for one that is malformed, or when the sum doesn't decrypt.
    """
    total = scheme.new_sum()
    for ciphertext in ciphertexts:
        total.add(ciphertext)
    answer = scheme.answer(total, private_key=private_key, contributors=len(ciphertexts))
    return UnmaskReply(merchant=merchant), {"answer": answer}
