"""The round: train, fix the survivor set, unmask, update (DESIGN section 2), and never the same one twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedrec.errors import AggregationError, FedrecError, ProtocolError, TrainingError
from fedrec.privacy.aggregation.committee import (
    check_commitment,
    check_encryption_key,
    check_sealing_key,
    check_sealing_keys,
)
from fedrec.privacy.aggregation.registry import opener
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, SumOfCiphertexts
from fedrec.privacy.derive import derive
from fedrec.privacy.identity import verify
from fedrec.protocol import (
    JOINED_CONTEXT,
    CloseReply,
    CloseRequest,
    Joined,
    JoinReply,
    JoinRequest,
    Receipt,
    SignedEncryptionKey,
    SignedSealingKey,
    TrainingPlan,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    boxes_hash,
    sha256_hex,
)
from fedrec.server.blame import Blame
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.cohort import Answer, Answers, Reply, ask
from fedrec.server.opening import Upload, gather, unmask_requests
from fedrec.server.optimizer import ServerOptimizer
from fedrec.server.receipts import ReceiptBook
from fedrec.server.rounds import RoundRecord, read_record
from fedrec.wire import pack, take_blob

_log = logging.getLogger(__name__)


@dataclass
class _Traffic:
    bytes_up: int = 0
    bytes_down: int = 0
    upload_bytes: int = 0
    seconds_train: float = 0.0
    seconds_unmask: float = 0.0
    contributors: tuple[str, ...] = ()

    def count(self, answers: Answers[Reply]) -> None:
        """Add the bytes of one exchange."""
        self.bytes_down += answers.bytes_down
        self.bytes_up += answers.bytes_up


class CohortIncompleteError(TrainingError):
    """Too few merchants are there, or one whose key the committee needs: they may come yet."""


class _LostRoundError(TrainingError):
    """The round can't be opened; the training goes on with the next."""


@dataclass
class Coordinator:
    """Runs one training over a Flower Grid.

    ``on_round`` is called after every round, opened or lost; after a restart once more for the last one.
    ``timeout`` is in seconds, per exchange. After ``most_lost`` lost rounds in a row the training stops.
    ``seeded`` is whether any merchant said, when it joined, that its noise comes from a seed.
    """

    grid: Grid
    plan: TrainingPlan
    optimizer: ServerOptimizer
    checkpoint: Checkpoint
    receipts: ReceiptBook
    on_round: Callable[[RoundRecord], None]
    timeout: float = 3600.0
    most_lost: int | None = None
    refusals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._derived = derive(self.plan)
        self._nodes: dict[str, int] = {}
        self._asked: set[int] = set()
        self._keys: dict[str, SignedSealingKey] = {}
        self._encryption_key: SignedEncryptionKey | None = None
        self._encryption_key_bytes = b""
        self._blame = Blame(colluders=self.plan.colluders)
        self.seeded = False

    def run(self) -> None:
        """Join the cohort, run every round that is left, close the training."""
        self._join()
        done = max(self.checkpoint.restore(self.optimizer), self.checkpoint.last_reserved())
        self._blame = Blame.from_state(self.checkpoint.blame(), colluders=self.plan.colluders)
        last = self.checkpoint.last_record()
        if last is not None:
            # A crash may have come between the state, which holds this round, and its report.
            self.on_round(read_record(last))
        lost = 0
        for round_number in range(done + 1, self.plan.rounds + 1):
            present = set(self.grid.get_node_ids())
            self._join_late(present)
            self._check_present(present)
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
                node: pack(CloseRequest(training_id=self.plan.training_id, receipt=self.receipts.last(name)))
                for name, node in self._nodes.items()
            },
            message_type="query.close",
            reply_type=CloseReply,
            max_blob_bytes=0,
            timeout=self.timeout,
            group_id="close",
        )

    def _join(self) -> None:
        """Join whoever is there; ``TrainingError`` when they are too few, or the committee lacks a key."""
        # A committee member that was there once and is away now, at a restart, is missed at openings alone.
        self._keys = {key.statement.merchant: key for key in self.checkpoint.sealing_keys()}
        failed = self._ask_to_join(self.grid.get_node_ids())
        if len(self._nodes) < self.plan.min_contributors:
            told = [f"{name}: {reason}" for name, reason in self.refusals.items()] + failed
            raise CohortIncompleteError(
                f"{len(self._nodes)} of {self.plan.cohort} merchants joined, "
                f"{self.plan.min_contributors} are needed" + (f" ({told[0]})" if told else "")
            )
        scheme = self._derived.scheme
        try:
            if isinstance(scheme, CommitteeScheme):
                check_sealing_keys(self._sealing_keys, plan=self.plan)
                self.checkpoint.keep_sealing_keys(self._sealing_keys)
            elif isinstance(scheme, HolderScheme):
                check_encryption_key(self._encryption_key, self._encryption_key_bytes, plan=self.plan)
        except ProtocolError as error:
            told = [f"{name}: {self.refusals[name]}" for name in self.plan.committee if name in self.refusals]
            raise CohortIncompleteError(
                f"the committee is not complete: {told[0] if told else error}"
            ) from None

    def _join_late(self, present: set[int]) -> None:
        """Let merchants in that have come since, if any of the cohort is missing."""
        came = present - self._asked
        if came and len(self._nodes) < self.plan.cohort:
            self._ask_to_join(sorted(came))

    def _check_present(self, present: set[int]) -> None:
        """Raise ``CohortIncompleteError`` before a round that can't have enough contributors is charged."""
        there = [name for name, node in self._nodes.items() if node in present]
        excluded = self._blame.excluded
        if len(set(there) - excluded) < self.plan.min_contributors:
            away = sorted({peer.name for peer in self.plan.roster} - set(there))
            raise CohortIncompleteError(
                f"{len(there)} merchants are connected, {self.plan.min_contributors} are needed"
                + (f"; away: {', '.join(away)}" if away else "")
                + (f"; left out: {', '.join(sorted(excluded))}" if excluded else "")
            )

    def _ask_to_join(self, nodes: Iterable[int]) -> list[str]:
        """Ask nodes to join, and note who does; returns why others didn't answer."""
        asked = list(nodes)
        self._asked |= set(asked)
        request = pack(JoinRequest(plan=self.plan))
        scheme = self._derived.scheme
        answers = ask(
            self.grid,
            dict.fromkeys(asked, request),
            message_type="query.join",
            reply_type=JoinReply,
            max_blob_bytes=scheme.public_key_bytes if isinstance(scheme, HolderScheme) else 0,
            timeout=self.timeout,
            group_id="join",
        )
        names = {peer.name for peer in self.plan.roster}
        for answer in answers.replies:
            name = answer.body.merchant
            if name not in names or name in self._nodes:
                continue
            if answer.body.refused is not None:
                self.refusals[name] = answer.body.refused
                continue
            if not self._joins(answer.body):
                # Another node may have taken the name; the one that it belongs to can still answer.
                self.refusals[name] = "a reply under this name is not signed by its merchant"
                continue
            try:
                self._keep_sealing_key(answer.body)
            except ProtocolError as error:
                self.refusals[name] = str(error)
                continue
            self.refusals.pop(name, None)
            self._nodes[name] = answer.node_id
            self.seeded |= answer.body.seeded
            if answer.body.encryption_key is not None and name == self.plan.committee[0]:
                self._encryption_key = answer.body.encryption_key
                self._encryption_key_bytes = answer.blobs.get("encryption-key", b"")
        return list(answers.failed.values())

    def _keep_sealing_key(self, reply: JoinReply) -> None:
        """Keep a member's first sealing key; ``ProtocolError`` for one that the cohort would refuse."""
        key = reply.sealing_key
        if key is None or reply.merchant in self._keys:
            return
        if key.statement.merchant != reply.merchant:
            raise ProtocolError("a sealing key is of another merchant than the reply that brings it")
        check_sealing_key(key, plan=self.plan)
        self._keys[reply.merchant] = key

    @property
    def _sealing_keys(self) -> tuple[SignedSealingKey, ...]:
        return tuple(self._keys[name] for name in self.plan.committee if name in self._keys)

    def _joins(self, reply: JoinReply) -> bool:
        """Whether a join reply comes from the merchant that it names."""
        joined = Joined(training_id=self.plan.training_id, merchant=reply.merchant, seeded=reply.seeded)
        return reply.signature is not None and verify(
            self.plan.key_of(reply.merchant),
            joined.canonical_bytes(),
            bytes.fromhex(reply.signature),
            context=JOINED_CONTEXT,
        )

    def _round(self, round_number: int) -> RoundRecord:
        started = time.monotonic()
        traffic = _Traffic()
        reason: str | None = None
        try:
            self._apply(self._collect(round_number, traffic))
        except _LostRoundError as error:
            reason = str(error)
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
            raise _LostRoundError(
                f"{len(uploads)} contributors, fewer than the {self.plan.min_contributors} required"
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
        blob = self.optimizer.parameters.astype("<f4").tobytes()
        model_hash = sha256_hex(blob)
        request = TrainRequest(
            training_id=self.plan.training_id,
            round_number=round_number,
            model_hash=model_hash,
            sealing_keys=self._sealing_keys,
            encryption_key=self._encryption_key,
        )
        blobs = {"model": blob}
        if self._encryption_key is not None:
            blobs["encryption-key"] = self._encryption_key_bytes
        left_out = self._blame.left_out
        contents = {
            node: pack(request.model_copy(update={"receipt": self.receipts.last(name)}), blobs)
            for name, node in self._nodes.items()
            if name not in left_out
        }
        names = {node: name for name, node in self._nodes.items()}
        uploads: dict[str, Upload] = {}
        receipts: dict[str, Receipt] = {}

        def take(answer: Answer[TrainReply]) -> None:
            """Add an upload to the sum as it comes: the order of additions doesn't matter to it."""
            merchant = names[answer.node_id]
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
            contents,
            message_type="train",
            reply_type=TrainReply,
            max_blob_bytes=self._derived.upload_bytes,
            timeout=self.timeout,
            group_id=str(round_number),
            take=take,
        )
        traffic.count(answers)
        traffic.seconds_train = time.monotonic() - started
        order = [name for name in self._nodes if name in uploads]
        self.receipts.keep([receipts[name] for name in order])
        return [uploads[name] for name in order]

    def _check_upload(self, answer: Answer[TrainReply], *, round_number: int, model_hash: str) -> Upload:
        if answer.body.refused is not None or answer.body.signed is None:
            raise ProtocolError(answer.body.refused or "neither an upload nor a refusal")
        if self._nodes.get(answer.body.merchant) != answer.node_id:
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
            self._nodes[member]: content
            for member, content in unmask_requests(self.plan, uploads, round_number=round_number).items()
            if member in self._nodes
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
        members = {self._nodes[name]: name for name in self.plan.committee if name in self._nodes}
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
                here = len(self._nodes.keys() - self._blame.excluded)
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
        mean = opened.astype(np.float64) * (
            self._derived.unit / (self.plan.sample_rate * self.plan.records_total)
        )
        if self.plan.local_steps > 1 or self.plan.mode == "local":
            self.optimizer.move(-self.plan.local_learning_rate * mean)
        else:
            self.optimizer.step(mean)
