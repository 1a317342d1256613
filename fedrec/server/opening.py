"""The server's part in opening a sum: who is asked about which uploads, and what came back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import RecordDict

from fedrec.errors import FedrecError, ProtocolError
from fedrec.privacy.aggregation.registry import opener
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt, SignedCommitment
from fedrec.protocol.transport import pack, take_blob
from fedrec.server.cohort import Answers
from fedrec.server.receipts import ReceiptBook


@dataclass(frozen=True)
class Upload:
    """One merchant's checked upload; ``ciphertext`` is kept only where a holder of the key is asked."""

    merchant: str
    signed: SignedCommitment
    ciphertext: bytes
    boxes: tuple[bytes, ...]


@dataclass(frozen=True)
class Gathered:
    """Answers by member number, why members refused, and who complained about which dealer."""

    answers: Mapping[int, bytes]
    refused: Mapping[str, str]
    complaints: Mapping[str, frozenset[str]]


def unmask_requests(
    plan: TrainingPlan, uploads: Sequence[Upload], *, round_number: int, receipts: ReceiptBook
) -> dict[str, RecordDict]:
    """Return the request to every committee member, by name.

    It holds the survivor set, that member's part, and the last receipt that it was given.
    """
    request = UnmaskRequest(
        training_id=plan.training_id,
        round_number=round_number,
        survivors=tuple(upload.signed for upload in uploads),
    )
    if opener(plan.scheme) == "holder":
        blobs = {f"ciphertext-{n}": upload.ciphertext for n, upload in enumerate(uploads, start=1)}
        return {plan.committee[0]: pack(_with_receipt(request, receipts, plan.committee[0]), blobs)}
    return {
        member: pack(
            _with_receipt(request, receipts, member),
            {f"box-{n}": upload.boxes[x] for n, upload in enumerate(uploads, start=1)},
        )
        for x, member in enumerate(plan.committee)
    }


def _with_receipt(request: UnmaskRequest, receipts: ReceiptBook, member: str) -> UnmaskRequest:
    return request.model_copy(update={"receipt": receipts.last(member)})


def gather(
    answers: Answers[UnmaskReply],
    *,
    plan: TrainingPlan,
    members: Mapping[int, str],
    dealers: Collection[str],
    round_number: int,
    receipts: ReceiptBook,
) -> Gathered:
    """Sort the replies; ``members`` names the committee member at each node, ``dealers`` the survivors.

    A reply without a ledger head of its member counts as a refusal; the others' go into the book.
    """
    signed: list[Receipt] = []
    found: dict[int, bytes] = {}
    refused: dict[str, str] = {}
    complaints: dict[str, set[str]] = defaultdict(set)
    for answer in answers.replies:
        member = members[answer.node_id]
        try:
            if answer.body.refused is not None:
                raise ProtocolError(str(answer.body.refused))
            signed.append(
                receipts.sign(
                    answer.body.head,
                    plan=plan,
                    merchant=member,
                    round_number=round_number,
                    moment="answered",
                )
            )
            if not answer.body.complaints:
                found[plan.committee.index(member) + 1] = take_blob(answer.blobs, "answer")
        except FedrecError as error:
            refused[member] = str(error)
            continue
        for dealer in set(answer.body.complaints).intersection(dealers):
            complaints[dealer].add(member)
    receipts.keep(signed)
    return Gathered(
        answers=found,
        refused=refused,
        complaints={dealer: frozenset(by) for dealer, by in complaints.items()},
    )
