"""Help to open a round's sum: answer exactly one survivor set, as a committee member or key holder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from fedrec.clients.store import MerchantStore
from fedrec.errors import AggregationError, ProtocolError, RefusedError
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.layer_seeds import SeedCommitments, accept_part, open_part
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.derived_parameters import Derived
from fedrec.privacy.identity import SealingKey
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import (
    Commitment,
    Receipt,
    SignedLedgerHead,
    box_binding,
    dealing_statement,
)
from fedrec.protocol.transport import Blobs, request_hash, take_blob


class JoinedTraining(Protocol):
    """A training that a party joined."""

    @property
    def plan(self) -> TrainingPlan:
        """Its plan."""
        ...

    @property
    def derived(self) -> Derived:
        """The parameters derived from the plan."""
        ...


class Opener(Protocol):
    """The state of a party that helps to open sums: a merchant or a witness."""

    @property
    def name(self) -> str:
        """The party's name."""
        ...

    @property
    def store(self) -> MerchantStore:
        """Its open store."""
        ...

    def training(self, training_id: str) -> JoinedTraining:
        """Return a training that was joined and is open; ``RefusedError`` for any other."""
        ...

    def mark_answer(
        self, plan: TrainingPlan, *, round_number: int, request_hash: str, receipt: Receipt | None
    ) -> None:
        """Record durably that a request is answered, before any key is used.

        Args:
            plan: the training's plan.
            round_number: the round.
            request_hash: hash of the request.
            receipt: the receipt that came with it.

        Raises:
            FedrecError: a request of the round was recorded before, or the party refuses.
        """
        ...

    def answered_head(self, plan: TrainingPlan, round_number: int) -> SignedLedgerHead | None:
        """Sign the head of the ledger after :meth:`mark_answer`.

        Args:
            plan: the training's plan.
            round_number: the round.

        Returns:
            The signed head; None of a party without a ledger.
        """
        ...

    def on_event(self, event: str, /) -> None:
        """Note a durable step."""
        ...


def unmask(context: Opener, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Answer an unmask request about the sum of one survivor set; refuse every other set of the round.

    Args:
        context: the state of the merchant or witness.
        request: the server's request.
        blobs: its blobs by name: one per survivor.

    Returns:
        The reply and its blobs.

    Raises:
        RefusedError: this party can't open sums of the training, or another set was answered before.
        ProtocolError: the survivor set or a blob is wrong.
        AggregationError: the key holder's sum doesn't decrypt.
    """
    joined = context.training(request.training_id)
    plan, number = joined.plan, request.round_number
    if context.name not in plan.committee:
        raise RefusedError("this merchant or witness is not on the committee")
    if number > plan.last_round:
        raise RefusedError(f"round {number} is beyond the plan's {plan.last_round}")
    # Hashed without the receipt, which may differ when the same set is asked again.
    hashed = request_hash(request.model_copy(update={"receipt": None}), blobs)
    stored = context.store.reply("answer", plan.training_id, number, request_hash=hashed)
    if stored is not None:
        return decode_reply(stored, UnmaskReply)
    survivors = check_survivors(request.survivors, plan=plan, round_number=number)
    parts = request_parts(survivors, blobs, scheme=joined.derived.of_round(number).scheme)
    # The key is used only after the entry is on disk: if anything fails below, no other set can be answered.
    context.mark_answer(plan, round_number=number, request_hash=hashed, receipt=request.receipt)
    context.on_event("marked")
    answered, sent = _answer(context, joined, survivors, parts)
    reply = answered.model_copy(update={"head": context.answered_head(plan, number)})
    context.store.put_answer(plan.training_id, number, request_hash=hashed, body=encode_reply(reply, sent))
    context.on_event("answered")
    return reply, sent


def _answer(
    context: Opener,
    joined: JoinedTraining,
    survivors: Sequence[Commitment],
    parts: Sequence[bytes],
) -> tuple[UnmaskReply, dict[str, bytes]]:
    # The survivors' commitments are all of one round.
    plan, derived = joined.plan, joined.derived.of_round(survivors[0].round_number)
    scheme = derived.scheme
    secrets = context.store.training(plan.training_id).secrets
    if isinstance(scheme, CommitteeScheme) and secrets.sealing_private is not None:
        return answer_as_member(
            scheme,
            survivors,
            parts,
            plan=plan,
            member=context.name,
            sealing_key=SealingKey.from_private_bytes(secrets.sealing_private),
            kept=derived.noise.kept_layers(len(survivors)),
        )
    if isinstance(scheme, HolderScheme) and secrets.decryption_private is not None:
        return answer_as_holder(scheme, parts, merchant=context.name, private_key=secrets.decryption_private)
    raise RefusedError("this merchant or witness has no key of this training")


def request_parts(survivors: Sequence[Commitment], blobs: Blobs, *, scheme: Scheme) -> list[bytes]:
    """Take the part of each survivor from the blobs of an unmask request.

    Args:
        survivors: the checked commitments of the survivors.
        blobs: the blobs of the request, by name.
        scheme: the training's aggregation scheme.

    Returns:
        A ciphertext per survivor if one merchant holds the key, else a sealed box, in the survivors' order.

    Raises:
        ProtocolError: a blob is missing, or a ciphertext isn't the one that its merchant signed.
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
    member: str,
    sealing_key: SealingKey,
    kept: int,
) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Answer as a member of the committee with the sum of its shares, or complain about invalid shares.

    The answer also opens the member's shares of the noise layers that a sum of these survivors doesn't need.
    Which they are follows from the number of survivors; nobody can ask for others.

    Args:
        scheme: the training's aggregation scheme.
        survivors: the checked commitments of the survivors.
        boxes: the sealed box of each survivor for this member, in the survivors' order.
        plan: the training's plan.
        member: the name of this merchant or witness.
        sealing_key: its private key for the boxes.
        kept: how many noise layers the sum of the survivors keeps.

    Returns:
        The reply, and the blobs ``answer`` and ``layers``. If shares are invalid, the reply names their
        dealers and there is no blob.

    Raises:
        AggregationError: no share is wrong, and their sum is: a chance of 2**-128.
    """
    number = plan.committee.index(member) + 1
    opened: dict[str, tuple[bytes, Published]] = {}
    layers: list[bytes] = []
    for commitment, box in zip(survivors, boxes, strict=True):
        dealer, round_number = commitment.merchant, commitment.round_number
        statement = dealing_statement(training_id=plan.training_id, round_number=round_number, dealer=dealer)
        binding = box_binding(
            training_id=plan.training_id, round_number=round_number, dealer=dealer, member=member
        )
        with suppress(AggregationError):
            content = sealing_key.open(box, binding=binding)
            parcel, part = content[: scheme.parcel_bytes], content[scheme.parcel_bytes :]
            hashes = SeedCommitments(commitment.layer_seed_hashes, commitment.layer_part_hashes)
            accept_part(part, hashes, member=number, statement=statement)
            opened[dealer] = (parcel, Published(commitments=commitment.key_commitments))
            layers.append(open_part(part, kept=kept, member=number, statement=statement))
    parcels, published = [parcel for parcel, _ in opened.values()], [shown for _, shown in opened.values()]
    answer = right_sum(scheme, parcels, published, member=number, threshold=plan.threshold)
    if answer is None or len(opened) < len(survivors):
        wrong = scheme.wrong_parcels(parcels, published, member=number, threshold=plan.threshold)
        valid = set(opened) - {list(opened)[position] for position in wrong}
        complaints = tuple(one.merchant for one in survivors if one.merchant not in valid)
        if not complaints:
            raise AggregationError("the key shares don't add up to a right answer, but each of them is right")
        return UnmaskReply(merchant=member, complaints=complaints), {}
    blobs = {"answer": answer}
    if any(layers):
        blobs["layers"] = b"".join(layers)
    return UnmaskReply(merchant=member), blobs


def right_sum(
    scheme: CommitteeScheme,
    parcels: Sequence[bytes],
    published: Sequence[Published],
    *,
    member: int,
    threshold: int,
) -> bytes | None:
    """Add a member's shares if their sum is the one that the dealers committed to.

    That is what the server checks, and all that an opening needs. The single shares, which take many times as
    long, are checked only to find who is at fault.

    Args:
        scheme: the training's aggregation scheme.
        parcels: the member's opened parcels.
        published: the public part of each dealing.
        member: number of the member, from 1.
        threshold: shares that reconstruct a key.

    Returns:
        The member's answer; None if a parcel or a dealing is malformed, or the sum isn't right.
    """
    try:
        answer = scheme.combine_shares(parcels, member=member)
        scheme.dealt_sum(published, threshold=threshold).check(answer, member=member)
    except AggregationError:
        return None
    return answer


def answer_as_holder(
    scheme: HolderScheme, ciphertexts: Sequence[bytes], *, merchant: str, private_key: bytes
) -> tuple[UnmaskReply, dict[str, bytes]]:
    """Answer as the key holder: add the ciphertexts and decrypt their sum.

    Args:
        scheme: the training's aggregation scheme.
        ciphertexts: the ciphertext of each survivor.
        merchant: this merchant's name.
        private_key: the training's private key.

    Returns:
        The reply, and the blob ``answer`` with the integers of the sum.

    Raises:
        AggregationError: a ciphertext is malformed, or the sum doesn't decrypt.
    """
    total = scheme.new_sum()
    for ciphertext in ciphertexts:
        total.add(ciphertext)
    answer = scheme.answer(total, private_key=private_key, contributors=len(ciphertexts))
    return UnmaskReply(merchant=merchant), {"answer": answer}
