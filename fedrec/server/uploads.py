"""Collect a round's uploads: make the requests, and check each upload before it is added to the sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from flwr.app import RecordDict

from fedrec.errors import FedrecError, ProtocolError
from fedrec.privacy.aggregation.committee import check_commitment
from fedrec.privacy.aggregation.dealing import Published, read_commitments
from fedrec.privacy.aggregation.scheme import SumOfCiphertexts
from fedrec.protocol.messages import TrainReply, TrainRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import Strict, sha256_hex
from fedrec.protocol.statements import Receipt, SignedCommitment, boxes_hash
from fedrec.protocol.transport import hash_blobs, pack, take_blob, with_body
from fedrec.server.attendance import Attendance
from fedrec.server.message_exchange import Answer
from fedrec.server.receipts import ReceiptBook
from fedrec.server.request_signing import RequestSigner


@dataclass(frozen=True)
class Upload:
    """One merchant's checked upload.

    Attributes:
        merchant: its name.
        signed: its signed commitment.
        ciphertext: kept only where a holder of the key opens sums, else empty.
        boxes: the sealed key shares, one per committee member.
    """

    merchant: str
    signed: SignedCommitment
    ciphertext: bytes
    boxes: tuple[bytes, ...]


def train_requests(
    model: bytes,
    *,
    plan: TrainingPlan,
    round_number: int,
    cohort: Attendance,
    receipts: ReceiptBook,
    signer: RequestSigner,
    without: Collection[str],
) -> dict[int, RecordDict]:
    """Make the request to every node that is asked for an upload; all requests share one copy of the model.

    Args:
        model: the parameters, little-endian float32.
        plan: the training's plan.
        round_number: the round.
        cohort: the merchants that have joined, and the keys of the committee.
        receipts: the server's book of receipts.
        signer: signs the requests.
        without: names of merchants that aren't asked.

    Returns:
        The requests, by node id.
    """
    request = TrainRequest(
        training_id=plan.training_id,
        round_number=round_number,
        model_hash=sha256_hex(model),
        sealing_keys=cohort.sealing_keys,
        encryption_key=cohort.encryption_key,
    )
    blobs = {"model": model}
    if cohort.encryption_key is not None:
        blobs["encryption-key"] = cohort.encryption_key_bytes
    shared = pack(request, blobs)
    hashes = hash_blobs(shared)
    return {
        node: signer.sign(
            with_body(shared, request.model_copy(update={"receipt": receipts.last(name)})),
            kind="train",
            training_id=plan.training_id,
            round_number=round_number,
            recipient=name,
            blob_hashes=hashes,
        )
        for name, node in cohort.merchant_nodes.items()
        if name not in without
    }


class UploadCollector:
    """The uploads of one round. Every valid one is added to ``total`` as it arrives.

    Args:
        total: the sum of ciphertexts.
        plan: the training's plan.
        round_number: the round.
        model_hash: hash of the model that was sent.
        nodes: node ids of the merchants that have joined, by name.
        receipts: the server's book of receipts.
        note: called with merchant and reason for each upload that isn't counted. The merchant is the one that
            joined from that node, since a reply may claim any name.

    Attributes:
        refused: whether any merchant refused.
        largest: bytes of the largest upload.
    """

    def __init__(
        self,
        total: SumOfCiphertexts,
        *,
        plan: TrainingPlan,
        round_number: int,
        model_hash: str,
        nodes: Mapping[str, int],
        receipts: ReceiptBook,
        note: Callable[[str, str], None],
    ) -> None:
        self._total, self._plan, self._round, self._model_hash = total, plan, round_number, model_hash
        self._names = {node: name for name, node in nodes.items()}
        self._book, self._note = receipts, note
        self._boxes = len(plan.committee) if plan.trust.opened_by == "committee" else 0
        self._uploads: dict[str, Upload] = {}
        self._receipts: dict[str, Receipt] = {}
        self.refused = False
        self.largest = 0

    def __len__(self) -> int:
        return len(self._uploads)

    def __contains__(self, merchant: object) -> bool:
        return merchant in self._uploads

    def take(self, answer: Answer[TrainReply]) -> None:
        """Check a reply, and add its upload to the sum; uploads may be added in any order."""
        self.add(self._names[answer.node_id], answer.body, answer.blobs)

    def add(self, merchant: str, reply: TrainReply, blobs: Mapping[str, bytes]) -> Receipt | None:
        """Check a merchant's reply, and add its upload to the sum.

        Args:
            merchant: the merchant that the reply must be of.
            reply: the reply.
            blobs: its blobs by name.

        Returns:
            The receipt for the upload, which isn't kept yet; None if it isn't counted.
        """
        self.refused |= reply.refused is not None
        try:
            upload = self._checked(merchant, reply, blobs)
            receipt = self._book.sign(
                reply.head,
                plan=self._plan,
                merchant=merchant,
                round_number=self._round,
                moment="charged",
            )
            self._total.add(upload.ciphertext)
        except FedrecError as error:
            self._note(merchant, str(error))
            return None
        if self._plan.trust.opened_by != "holder":
            upload = replace(upload, ciphertext=b"")
        self._uploads[merchant], self._receipts[merchant] = upload, receipt
        self.largest = max(self.largest, reply_bytes(reply, blobs))
        return receipt

    def uploads(self) -> list[Upload]:
        """Return the uploads so far, in the roster's order."""
        return [self._uploads[peer.name] for peer in self._plan.roster if peer.name in self._uploads]

    def close(self) -> list[Upload]:
        """Fix the survivor set: store the receipts durably, and return the uploads in the roster's order."""
        uploads = self.uploads()
        self._book.keep([self._receipts[upload.merchant] for upload in uploads])
        return uploads

    def _checked(self, merchant: str, reply: TrainReply, blobs: Mapping[str, bytes]) -> Upload:
        if reply.refused is not None:
            raise ProtocolError(str(reply.refused))
        if reply.signed is None:
            raise ProtocolError("neither an upload nor a refusal")
        if reply.merchant != merchant:
            raise ProtocolError("an upload came from another node than the merchant joined from")
        commitment = check_commitment(reply.signed, plan=self._plan, round_number=self._round)
        if commitment.merchant != merchant or commitment.model_hash != self._model_hash:
            raise ProtocolError("the commitment is of another merchant or model")
        # Found out later, a point off the curve would make every member complain, and cost the round.
        read_commitments(
            Published(commitments=commitment.key_commitments), threshold=len(commitment.key_commitments)
        )
        ciphertext = take_blob(blobs, "ciphertext")
        if sha256_hex(ciphertext) != commitment.ciphertext_hash:
            raise ProtocolError("the ciphertext is not the one committed to")
        boxes = tuple(take_blob(blobs, f"box-{x}") for x in range(1, self._boxes + 1))
        if boxes_hash(boxes) != commitment.boxes_hash:
            raise ProtocolError("the sealed shares are not the ones committed to")
        return Upload(merchant=merchant, signed=reply.signed, ciphertext=ciphertext, boxes=boxes)


def reply_bytes(reply: Strict, blobs: Mapping[str, bytes]) -> int:
    """Return the size of a reply.

    Args:
        reply: its body.
        blobs: its blobs by name.

    Returns:
        Bytes.
    """
    return len(reply.canonical_bytes()) + sum(map(len, blobs.values()))
