"""A merchant's part in opening sums: it answers one survivor set of a round, as one who may open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrec.clients.context import MerchantContext, OpenTraining
from fedrec.clients.reply_encoding import decode_reply, encode_reply
from fedrec.errors import AggregationError, ProtocolError, RefusedError
from fedrec.privacy.accounting.entry_contents import Answer
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.identity import SealingKey
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import Commitment, box_binding, dealing_statement
from fedrec.protocol.transport import request_hash, take_blob

Blobs = Mapping[str, bytes]


def unmask(
    context: MerchantContext, request: UnmaskRequest, blobs: Blobs
) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Answer one survivor set of a round, about its sum alone; any other set gets a no."""
    joined = context.training(request.training_id)
    plan, number = joined.plan, request.round_number
    if context.name not in plan.committee:
        raise RefusedError("this merchant is not on the committee")
    if number > plan.rounds:
        raise RefusedError(f"round {number} is beyond the plan's {plan.rounds}")
    # What is asked, whatever receipt comes with it.
    hashed = request_hash(request.model_copy(update={"receipt": None}), blobs)
    stored = context.store.reply("answer", plan.training_id, number, request_hash=hashed)
    if stored is not None:
        return decode_reply(stored, UnmaskReply)
    survivors = check_survivors(request.survivors, plan=plan, round_number=number)
    parts = request_parts(survivors, blobs, scheme=joined.derived.scheme)
    context.accept_receipt(plan, request.receipt)
    # A key is used only once the entry is on disk: whatever fails below, no other set gets a second try.
    context.ledger.answer(Answer(training_id=plan.training_id, round_number=number, request_hash=hashed))
    context.on_event("marked")
    answered, sent = _answer(context, joined, survivors, parts, round_number=number)
    reply = answered.model_copy(update={"head": context.signed_head(plan, number, "answered")})
    context.store.put_answer(plan.training_id, number, request_hash=hashed, body=encode_reply(reply, sent))
    context.on_event("answered")
    return reply, sent


def _answer(
    context: MerchantContext,
    joined: OpenTraining,
    survivors: Sequence[Commitment],
    parts: Sequence[bytes],
    *,
    round_number: int,
) -> tuple[UnmaskReply, dict[str, bytes]]:
    plan, scheme = joined.plan, joined.derived.scheme
    secrets = context.store.training(plan.training_id).secrets
    if isinstance(scheme, CommitteeScheme) and secrets.sealing_private is not None:
        return answer_as_member(
            scheme,
            survivors,
            parts,
            plan=plan,
            round_number=round_number,
            member=context.name,
            sealing_key=SealingKey.from_private_bytes(secrets.sealing_private),
        )
    if isinstance(scheme, HolderScheme) and secrets.decryption_private is not None:
        return answer_as_holder(scheme, parts, merchant=context.name, private_key=secrets.decryption_private)
    raise RefusedError("this merchant has no key of this training")


def request_parts(survivors: Sequence[Commitment], blobs: Blobs, *, scheme: Scheme) -> list[bytes]:
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
