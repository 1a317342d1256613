"""The round: train, fix the survivor set, unmask, update (DESIGN section 2), and never the same one twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedrec.errors import AggregationError, FedrecError, ProtocolError, TrainingError
from fedrec.privacy.aggregation.committee import check_commitment, check_sealing_keys
from fedrec.privacy.derive import derive
from fedrec.protocol import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    SignedCommitment,
    SignedSealingKey,
    TrainingPlan,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
    pack,
    sha256_hex,
    take_blob,
)
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.cohort import Answer, Answers, Reply, ask
from fedrec.server.optimizer import ServerOptimizer


@dataclass(frozen=True)
class RoundRecord:
    """What the server knows of a finished round; ``reason`` says why one was lost."""

    round: int
    opened: bool
    contributors: int
    dropouts: int
    seconds: float
    seconds_train: float
    seconds_unmask: float
    bytes_up: int
    bytes_down: int
    upload_bytes: int
    reason: str | None = None


@dataclass
class _Upload:
    merchant: str
    signed: SignedCommitment
    ciphertext: bytes
    shares: list[bytes]


@dataclass
class _Traffic:
    bytes_up: int = 0
    bytes_down: int = 0
    upload_bytes: int = 0
    seconds_train: float = 0.0
    seconds_unmask: float = 0.0
    contributors: int = 0

    def count(self, answers: Answers[Reply]) -> None:
        """Add the bytes of one exchange."""
        self.bytes_down += answers.bytes_down
        self.bytes_up += answers.bytes_up


class _LostRoundError(TrainingError):
    """The round can't be opened; the training goes on with the next."""


@dataclass
class Coordinator:
    """Runs one training over a Flower Grid.

    ``on_round`` is called after every round, opened or lost. ``timeout`` is in seconds, per exchange.
    """

    grid: Grid
    plan: TrainingPlan
    optimizer: ServerOptimizer
    checkpoint: Checkpoint
    on_round: Callable[[RoundRecord], None]
    timeout: float = 3600.0
    refusals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._derived = derive(self.plan)
        self._nodes: dict[str, int] = {}
        self._sealing_keys: tuple[SignedSealingKey, ...] = ()

    def run(self) -> None:
        """Join the cohort, run every round that is left, close the training."""
        self._join()
        done = max(self.checkpoint.restore(self.optimizer), self.checkpoint.last_reserved())
        for round_number in range(done + 1, self.plan.rounds + 1):
            self.checkpoint.reserve(round_number)
            record = self._round(round_number)
            self.checkpoint.save(self.optimizer, round_number=round_number)
            self.on_round(record)
        self.close()

    def close(self) -> None:
        """Tell the merchants that the training is over, so that they delete its keys."""
        request = pack(CloseRequest(training_id=self.plan.training_id))
        ask(
            self.grid,
            dict.fromkeys(self._nodes.values(), request),
            message_type="query.close",
            reply_type=CloseReply,
            max_blob_bytes=0,
            timeout=self.timeout,
            group_id="close",
        )

    def _join(self) -> None:
        request = pack(JoinRequest(plan=self.plan))
        answers = ask(
            self.grid,
            dict.fromkeys(self.grid.get_node_ids(), request),
            message_type="query.join",
            reply_type=JoinReply,
            max_blob_bytes=0,
            timeout=self.timeout,
            group_id="join",
        )
        names = {peer.name for peer in self.plan.roster}
        keys: dict[str, SignedSealingKey] = {}
        for answer in answers.replies:
            name = answer.body.merchant
            if name not in names or name in self._nodes:
                continue
            if answer.body.refused is not None:
                self.refusals[name] = answer.body.refused
                continue
            self._nodes[name] = answer.node_id
            if answer.body.sealing_key is not None:
                keys[name] = answer.body.sealing_key
        if len(self._nodes) < self.plan.min_contributors:
            told = [f"{name}: {reason}" for name, reason in self.refusals.items()] + list(
                answers.failed.values()
            )
            raise TrainingError(
                f"{len(self._nodes)} of {self.plan.cohort} merchants joined, "
                f"{self.plan.min_contributors} are needed" + (f" ({told[0]})" if told else "")
            )
        if self.plan.committee:
            self._sealing_keys = tuple(keys[name] for name in self.plan.committee if name in keys)
            try:
                check_sealing_keys(self._sealing_keys, plan=self.plan)
            except ProtocolError as error:
                raise TrainingError(f"the committee is not complete: {error}") from None

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
            contributors=traffic.contributors,
            dropouts=self.plan.cohort - traffic.contributors,
            seconds=time.monotonic() - started,
            seconds_train=traffic.seconds_train,
            seconds_unmask=traffic.seconds_unmask,
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            upload_bytes=traffic.upload_bytes,
            reason=reason,
        )

    def _collect(self, round_number: int, traffic: _Traffic) -> NDArray[np.int64]:
        """Return the opened sum, shape (d,), int64; ``_LostRoundError`` when it can't be opened."""
        uploads = self._train(round_number, traffic)
        traffic.contributors = len(uploads)
        if len(uploads) < self.plan.min_contributors:
            raise _LostRoundError(
                f"{len(uploads)} contributors, fewer than the {self.plan.min_contributors} required"
            )
        started = time.monotonic()
        try:
            total = self._derived.scheme.new_sum()
            for upload in uploads:
                total.add(upload.ciphertext)
            shares = self._unmask(round_number, uploads, traffic) if self.plan.committee else {}
            # A failed opening is final: another survivor set of the same round would differ by one merchant.
            return self._derived.scheme.open(
                total,
                member_shares=shares,
                threshold=self.plan.threshold,
                contributors=len(uploads),
                training_id=self.plan.training_id,
                round_number=round_number,
            )
        except AggregationError as error:
            raise _LostRoundError(f"the sum could not be opened: {error}") from None
        finally:
            traffic.seconds_unmask = time.monotonic() - started

    def _train(self, round_number: int, traffic: _Traffic) -> list[_Upload]:
        started = time.monotonic()
        blob = self.optimizer.parameters.astype("<f4").tobytes()
        model_hash = sha256_hex(blob)
        request = TrainRequest(
            training_id=self.plan.training_id,
            round_number=round_number,
            model_hash=model_hash,
            sealing_keys=self._sealing_keys,
        )
        content = pack(request, {"model": blob})
        answers = ask(
            self.grid,
            dict.fromkeys(self._nodes.values(), content),
            message_type="train",
            reply_type=TrainReply,
            max_blob_bytes=self._derived.max_upload_bytes,
            timeout=self.timeout,
            group_id=str(round_number),
        )
        traffic.count(answers)
        traffic.seconds_train = time.monotonic() - started
        uploads: list[_Upload] = []
        for answer in answers.replies:
            try:
                uploads.append(self._check_upload(answer, round_number=round_number, model_hash=model_hash))
            except FedrecError as error:
                self.refusals[f"round {round_number}, {answer.body.merchant}"] = str(error)
                continue
            size = len(answer.body.canonical_bytes()) + sum(map(len, answer.blobs.values()))
            traffic.upload_bytes = max(traffic.upload_bytes, size)
        return uploads

    def _check_upload(self, answer: Answer[TrainReply], *, round_number: int, model_hash: str) -> _Upload:
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
        self._derived.scheme.check_ciphertext(ciphertext)
        shares = [take_blob(answer.blobs, f"share-{x}") for x in range(1, len(self.plan.committee) + 1)]
        if tuple(map(sha256_hex, shares)) != commitment.share_hashes:
            raise ProtocolError("the sealed shares are not the ones committed to")
        return _Upload(
            merchant=commitment.merchant, signed=answer.body.signed, ciphertext=ciphertext, shares=shares
        )

    def _unmask(self, round_number: int, uploads: Sequence[_Upload], traffic: _Traffic) -> dict[int, bytes]:
        request = UnmaskRequest(
            training_id=self.plan.training_id,
            round_number=round_number,
            survivors=tuple(upload.signed for upload in uploads),
        )
        requests = {
            self._nodes[member]: pack(
                request, {f"share-{i}": upload.shares[x] for i, upload in enumerate(uploads, start=1)}
            )
            for x, member in enumerate(self.plan.committee)
            if member in self._nodes
        }
        answers = ask(
            self.grid,
            requests,
            message_type="query.unmask",
            reply_type=UnmaskReply,
            max_blob_bytes=self._derived.max_share_bytes,
            timeout=self.timeout,
            group_id=str(round_number),
        )
        traffic.count(answers)
        x_of_node = {
            self._nodes[name]: x for x, name in enumerate(self.plan.committee, start=1) if name in self._nodes
        }
        shares: dict[int, bytes] = {}
        for answer in answers.replies:
            x = x_of_node[answer.node_id]
            try:
                if answer.body.refused is not None:
                    raise ProtocolError(answer.body.refused)
                share = take_blob(answer.blobs, "share")
                if self._derived.scheme.check_share(share) != x:
                    raise ProtocolError("the share is of another member")
            except FedrecError as error:
                self.refusals[f"round {round_number}, {self.plan.committee[x - 1]}"] = str(error)
                continue
            shares[x] = share
        if len(shares) < self.plan.threshold:
            raise _LostRoundError(
                f"{len(shares)} committee members answered, fewer than the threshold of {self.plan.threshold}"
            )
        return shares

    def _apply(self, opened: NDArray[np.int64]) -> None:
        mean = opened.astype(np.float64) * (
            self._derived.unit / (self.plan.sample_rate * self.plan.records_total)
        )
        if self.plan.local_steps > 1 or self.plan.mode == "local":
            self.optimizer.move(-self.plan.local_learning_rate * mean)
        else:
            self.optimizer.step(mean)
