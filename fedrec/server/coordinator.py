"""The round: train, fix the survivor set, unmask, update (DESIGN section 2), and never the same one twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedrec.errors import AggregationError, FedrecError, ProtocolError, TrainingError
from fedrec.privacy.aggregation.committee import check_commitment
from fedrec.privacy.aggregation.registry import opener
from fedrec.privacy.aggregation.scheme import SumOfCiphertexts
from fedrec.privacy.derive import derive
from fedrec.protocol.messages import CloseReply, CloseRequest, TrainReply, TrainRequest, UnmaskReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import Receipt, boxes_hash
from fedrec.protocol.transport import hash_blobs, pack, take_blob, with_body
from fedrec.server.attendance import Attendance
from fedrec.server.blame import Blame
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.cohort import Answer, Answers, Reply, ask
from fedrec.server.opening import Upload, gather, unmask_requests
from fedrec.server.optimizer import ServerOptimizer
from fedrec.server.receipts import ReceiptBook
from fedrec.server.requests import RequestSigner
from fedrec.server.rounds import RoundRecord, read_record

_log = logging.getLogger(__name__)


@dataclass
class _Traffic:
    bytes_up: int = 0
    bytes_down: int = 0
    upload_bytes: int = 0
    seconds_train: float = 0.0
    seconds_unmask: float = 0.0
    contributors: tuple[str, ...] = ()
    refused: bool = False

    def count(self, answers: Answers[Reply]) -> None:
        """Add the bytes of one exchange."""
        self.bytes_down += answers.bytes_down
        self.bytes_up += answers.bytes_up


class _LostRoundError(TrainingError):
    """The round can't be opened; the training goes on with the next.

    ``refused`` where merchants' own rules took so many away: they will hold for a while.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass
class Coordinator:
    """Runs one training over a Flower Grid.

    ``on_round`` is called after every round, opened or lost; after a restart once more for the last one.
    ``timeout`` is in seconds, per exchange. After ``most_lost`` lost rounds in a row the training stops.
    ``before_round`` is called before every round, with the number of rounds just before it that were lost to
    refusals: who didn't refuse is charged for each of them.
    """

    grid: Grid
    plan: TrainingPlan
    optimizer: ServerOptimizer
    checkpoint: Checkpoint
    receipts: ReceiptBook
    signer: RequestSigner
    on_round: Callable[[RoundRecord], None]
    timeout: float = 3600.0
    most_lost: int | None = None
    before_round: Callable[[int], None] = lambda lost: None
    refusals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._derived = derive(self.plan)
        self._cohort = Attendance(
            self.grid,
            self.plan,
            self._derived.scheme,
            self.signer,
            timeout=self.timeout,
            refusals=self.refusals,
        )
        self._blame = Blame(colluders=self.plan.colluders)
        self._lost_to_refusals = 0

    @property
    def seeded(self) -> bool:
        """Whether any merchant said, when it joined, that its noise comes from a seed."""
        return self._cohort.seeded

    def run(self) -> None:
        """Join the cohort, run every round that is left, close the training."""
        self._cohort.open(self.checkpoint.sealing_keys())
        if self._cohort.sealing_keys:
            self.checkpoint.keep_sealing_keys(self._cohort.sealing_keys)
        done = max(self.checkpoint.restore(self.optimizer), self.checkpoint.last_reserved())
        self._blame = Blame.from_state(self.checkpoint.blame(), colluders=self.plan.colluders)
        last = self.checkpoint.last_record()
        if last is not None:
            # A crash may have come between the state, which holds this round, and its report.
            self.on_round(read_record(last))
        lost = 0
        for round_number in range(done + 1, self.plan.rounds + 1):
            self.before_round(self._lost_to_refusals)
            self._cohort.refresh(excluded=self._blame.excluded)
            self.checkpoint.reserve(round_number)
            record = self._round(round_number)
            self.checkpoint.save(self.optimizer, round_number=round_number, record=asdict(record))
            self.on_round(record)
            lost = 0 if record.opened else lost + 1
            if self.most_lost is not None and lost >= self.most_lost and round_number < self.plan.rounds:
                raise TrainingError(
                    f"{lost} rounds in a row were lost, the last because of: {record.reason}; the others "
                    "would be charged for nothing: mend it, then resume"
                )
        self.close()

    def close(self) -> None:
        """Tell the merchants that the training is over, so that they delete its keys."""
        ask(
            self.grid,
            {
                node: self.signer.sign(
                    pack(CloseRequest(training_id=self.plan.training_id, receipt=self.receipts.last(name))),
                    kind="query.close",
                    training_id=self.plan.training_id,
                    recipient=name,
                )
                for name, node in self._cohort.nodes.items()
            },
            message_type="query.close",
            reply_type=CloseReply,
            max_blob_bytes=0,
            timeout=self.timeout,
            group_id="close",
        )

    def _round(self, round_number: int) -> RoundRecord:
        started = time.monotonic()
        traffic = _Traffic()
        reason: str | None = None
        refused = False
        try:
            self._apply(self._collect(round_number, traffic))
        except _LostRoundError as error:
            reason, refused = str(error), error.refused
        self._lost_to_refusals = self._lost_to_refusals + 1 if refused else 0
        return RoundRecord(
            round=round_number,
            opened=reason is None,
            contributors=len(traffic.contributors),
            dropouts=self.plan.cohort - len(traffic.contributors),
            seconds=time.monotonic() - started,
            seconds_train=traffic.seconds_train,
            seconds_unmask=traffic.seconds_unmask,
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            upload_bytes=traffic.upload_bytes,
            reason=reason,
            merchants=traffic.contributors,
        )

    def _collect(self, round_number: int, traffic: _Traffic) -> NDArray[np.int64]:
        """Return the opened sum, shape (d,), int64; ``_LostRoundError`` when it can't be opened."""
        total = self._derived.scheme.new_sum()
        uploads = self._train(round_number, traffic, total)
        took_part = {upload.merchant for upload in uploads}
        traffic.contributors = tuple(peer.name for peer in self.plan.roster if peer.name in took_part)
        if len(uploads) < self.plan.min_contributors:
            self._blame.lost_for_contributors()
            self.checkpoint.keep_blame(self._blame.state())
            told = [
                f"{name}: {self.refusals[where]}"
                for name in self._cohort.nodes
                if (where := f"round {round_number}, {name}") in self.refusals
            ]
            raise _LostRoundError(
                f"{len(uploads)} contributors, fewer than the {self.plan.min_contributors} required"
                + (
                    f" ({told[0]}" + (f"; and {len(told) - 1} more" if told[1:] else "") + ")" if told else ""
                ),
                refused=traffic.refused,
            )
        started = time.monotonic()
        try:
            # A failed opening is final: another survivor set of the same round would differ by one merchant.
            opened = self._derived.scheme.open(
                total,
                answers=self._unmask(round_number, uploads, traffic) if self.plan.committee else {},
                threshold=self.plan.threshold,
                contributors=len(uploads),
                training_id=self.plan.training_id,
                round_number=round_number,
            )
        except AggregationError as error:
            raise _LostRoundError(f"the sum could not be opened: {error}") from None
        finally:
            traffic.seconds_unmask = time.monotonic() - started
        for x, reason in opened.wrong.items():
            self._note(round_number, self.plan.committee[x - 1], reason)
        return opened.values

    def _note(self, round_number: int, merchant: str, reason: str) -> None:
        self.refusals[f"round {round_number}, {merchant}"] = reason
        _log.info("round %d, %s: %s", round_number, merchant, reason)

    def _train(self, round_number: int, traffic: _Traffic, total: SumOfCiphertexts) -> list[Upload]:
        """Gather the round's uploads, every one that is well formed added to ``total``."""
        started = time.monotonic()
        model_hash = sha256_hex(self._model())
        names = {node: name for name, node in self._cohort.nodes.items()}
        uploads: dict[str, Upload] = {}
        receipts: dict[str, Receipt] = {}

        def take(answer: Answer[TrainReply]) -> None:
            """Add an upload to the sum as it comes: the order of additions doesn't matter to it."""
            merchant = names[answer.node_id]
            traffic.refused |= answer.body.refused is not None
            try:
                upload = self._check_upload(answer, round_number=round_number, model_hash=model_hash)
                receipt = self.receipts.sign(
                    answer.body.head, plan=self.plan, merchant=merchant, round_number=round_number
                )
                total.add(upload.ciphertext)
            except FedrecError as error:
                # By the node that sent it: the name inside may be anybody's.
                self._note(round_number, merchant, str(error))
                return
            if opener(self.plan.scheme) != "holder":
                upload = replace(upload, ciphertext=b"")
            uploads[merchant], receipts[merchant] = upload, receipt
            size = len(answer.body.canonical_bytes()) + sum(map(len, answer.blobs.values()))
            traffic.upload_bytes = max(traffic.upload_bytes, size)

        answers = ask(
            self.grid,
            # Not by a name of its own, so that it is gone once it is sent.
            self._train_requests(round_number, model_hash=model_hash),
            message_type="train",
            reply_type=TrainReply,
            max_blob_bytes=self._derived.upload_bytes,
            timeout=self.timeout,
            group_id=str(round_number),
            take=take,
        )
        traffic.count(answers)
        traffic.seconds_train = time.monotonic() - started
        order = [name for name in self._cohort.nodes if name in uploads]
        self.receipts.keep([receipts[name] for name in order])
        return [uploads[name] for name in order]

    def _model(self) -> bytes:
        return self.optimizer.parameters.astype("<f4").tobytes()

    def _train_requests(self, round_number: int, *, model_hash: str) -> dict[int, RecordDict]:
        """Return the request to every node that isn't left out; all of them hold one copy of the model."""
        request = TrainRequest(
            training_id=self.plan.training_id,
            round_number=round_number,
            model_hash=model_hash,
            sealing_keys=self._cohort.sealing_keys,
            encryption_key=self._cohort.encryption_key,
        )
        blobs = {"model": self._model()}
        if self._cohort.encryption_key is not None:
            blobs["encryption-key"] = self._cohort.encryption_key_bytes
        left_out, shared = self._blame.left_out, pack(request, blobs)
        hashes = hash_blobs(shared)
        return {
            node: self.signer.sign(
                with_body(shared, request.model_copy(update={"receipt": self.receipts.last(name)})),
                kind="train",
                training_id=self.plan.training_id,
                round_number=round_number,
                recipient=name,
                blob_hashes=hashes,
            )
            for name, node in self._cohort.nodes.items()
            if name not in left_out
        }

    def _check_upload(self, answer: Answer[TrainReply], *, round_number: int, model_hash: str) -> Upload:
        if answer.body.refused is not None or answer.body.signed is None:
            raise ProtocolError(answer.body.refused or "neither an upload nor a refusal")
        if self._cohort.nodes.get(answer.body.merchant) != answer.node_id:
            raise ProtocolError("an upload came from another node than the merchant joined from")
        commitment = check_commitment(answer.body.signed, plan=self.plan, round_number=round_number)
        if commitment.merchant != answer.body.merchant or commitment.model_hash != model_hash:
            raise ProtocolError("the commitment is of another merchant or model")
        ciphertext = take_blob(answer.blobs, "ciphertext")
        if sha256_hex(ciphertext) != commitment.ciphertext_hash:
            raise ProtocolError("the ciphertext is not the one committed to")
        boxes = tuple(
            take_blob(answer.blobs, f"box-{x}") for x in range(1, len(commitment.parcel_hashes) + 1)
        )
        if boxes_hash(boxes) != commitment.boxes_hash:
            raise ProtocolError("the sealed shares are not the ones committed to")
        return Upload(
            merchant=commitment.merchant, signed=answer.body.signed, ciphertext=ciphertext, boxes=boxes
        )

    def _unmask(self, round_number: int, uploads: Sequence[Upload], traffic: _Traffic) -> Mapping[int, bytes]:
        requests = {
            self._cohort.nodes[member]: self.signer.sign(
                content,
                kind="query.unmask",
                training_id=self.plan.training_id,
                round_number=round_number,
                recipient=member,
            )
            for member, content in unmask_requests(self.plan, uploads, round_number=round_number).items()
            if member in self._cohort.nodes
        }
        answers = ask(
            self.grid,
            requests,
            message_type="query.unmask",
            reply_type=UnmaskReply,
            max_blob_bytes=self._derived.scheme.answer_bytes,
            timeout=self.timeout,
            group_id=str(round_number),
        )
        traffic.count(answers)
        members = {
            self._cohort.nodes[name]: name for name in self.plan.committee if name in self._cohort.nodes
        }
        gathered = gather(
            answers,
            plan=self.plan,
            members=members,
            dealers={upload.merchant for upload in uploads},
        )
        for member, reason in gathered.refused.items():
            self._note(round_number, member, reason)
        for dealer, by in gathered.complaints.items():
            self._note(round_number, dealer, f"dealt shares that don't check, says {', '.join(sorted(by))}")
        lost = len(gathered.answers) < self.plan.threshold
        if gathered.complaints:
            self._blame.hear(gathered.complaints)
            if lost:
                here = len(self._cohort.nodes.keys() - self._blame.excluded)
                self._blame.lost_over_complaints(spare=here - self.plan.min_contributors)
            # At once: whoever is to blame must not come back by a restart.
            self.checkpoint.keep_blame(self._blame.state())
        if lost:
            without = ", ".join(sorted(self._blame.left_out))
            raise _LostRoundError(
                f"{len(gathered.answers)} committee members answered, "
                f"fewer than the threshold of {self.plan.threshold}"
                + (f"; the next round does without {without}" if without else "")
            )
        return gathered.answers

    def _apply(self, opened: NDArray[np.int64]) -> None:
        mean = opened.astype(np.float64)
        mean *= self._derived.unit / (self.plan.sample_rate * self.plan.records_total)
        if self.plan.local_steps > 1 or self.plan.mode == "local":
            self.optimizer.move(-self.plan.local_learning_rate * mean)
        else:
            self.optimizer.step(mean)
