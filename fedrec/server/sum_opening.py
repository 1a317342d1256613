"""Open the sum of a round: ask the committee, or the holder of the key, and combine the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedrec.errors import AggregationError, FedrecError, ProtocolError
from fedrec.privacy.aggregation.dealing import DealtSum, Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, Scheme, SumOfCiphertexts
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt
from fedrec.protocol.transport import pack, take_blob
from fedrec.server.layer_removal import LayerRemoval, Opened
from fedrec.server.message_exchange import Answer, Answers, ExchangeSettings, ask
from fedrec.server.receipts import ReceiptBook
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.request_signing import RequestSigner
from fedrec.server.stragglers import GracePeriod, waiting
from fedrec.server.uploads import Upload

Int64Array = NDArray[np.int64]


@dataclass
class Opening:
    """One sum, and the answers to the one request about it.

    Each answer is checked as it comes, against the commitments of all dealers in the sum. The sum is opened
    as soon as enough right ones are there, which determine its key: a failure is final, and a dealer's fault.
    Another set of uploads is never asked about. More answers are waited for only to remove the noise layers
    that the sum doesn't need; if they can't be removed in the end, the sum is used with them.

    Args:
        grid: the Flower Grid.
        plan: the training's plan.
        derived: the parameters derived from it.
        round_number: the round.
        total: the sum of ciphertexts.
        uploads: the survivor set.
        nodes: node ids of the merchants that have joined, by name.
        receipts: the server's book of receipts.
        signer: signs the requests.
        distrusted: members that are asked only where the others' answers aren't enough.
        timeout: in seconds, how long each exchange waits.
        grace: when to go on without late members; None waits for all of them.
        board: shows whose answers are waited for.

    Attributes:
        opened: the sum without the layers that it doesn't need; None while it isn't opened.
        removal: the layers, and whose couldn't be removed.
        failure: why it couldn't be opened although enough right answers came.
        refused: why members gave no valid answer, by name.
        wrong: what is wrong with answers that don't verify, by the name of the member at fault.
        wrong_layers: the same of what members with right answers opened of noise layers.
        complaints: names of the members that were dealt shares that don't verify, by dealer.
    """

    grid: Grid
    plan: TrainingPlan
    derived: Derived
    round_number: int
    total: SumOfCiphertexts
    uploads: Sequence[Upload]
    nodes: Mapping[str, int]
    receipts: ReceiptBook
    signer: RequestSigner
    distrusted: Collection[str]
    timeout: float
    grace: GracePeriod | None
    board: ReplyBoard = field(default_factory=ReplyBoard)
    opened: Opened | None = None
    failure: AggregationError | None = None
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    wrong_layers: dict[str, str] = field(default_factory=dict)
    complaints: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _answers: dict[int, bytes] = field(default_factory=dict)
    _signed: list[Receipt] = field(default_factory=list)
    _dealt: DealtSum | None = field(init=False, default=None)
    _sum: Int64Array | None = None

    def __post_init__(self) -> None:
        commitments = tuple(upload.signed.commitment for upload in self.uploads)
        self.removal = LayerRemoval(self.plan, self.derived.noise, commitments)
        if isinstance(self.scheme, CommitteeScheme):
            dealings = [Published(commitments=commitment.key_commitments) for commitment in commitments]
            self._dealt = self.scheme.dealt_sum(dealings, threshold=self.plan.threshold)

    @property
    def scheme(self) -> Scheme:
        """The aggregation scheme."""
        return self.derived.scheme

    @property
    def answered(self) -> int:
        """How many members have answered, and not wrongly."""
        return len(self._answers)

    @property
    def is_over(self) -> bool:
        """Whether the sum is opened, or has turned out not to open."""
        return self.opened is not None or self.failure is not None

    def run(self, count: Callable[[Answers[UnmaskReply]], None]) -> None:
        """Ask the members, and open the sum if possible; ``count`` gets the result of every exchange."""
        if not self.plan.committee:
            self.try_to_open()
            return
        joined = [member for member in self.members if member in self.nodes]
        first = [member for member in joined if member not in self.distrusted]
        if len(first) < self.plan.threshold:
            first = joined
        for members in (first, [member for member in joined if member not in first]):
            if members and not self.is_over:
                count(self._ask({self.nodes[member]: self.request(member) for member in members}))
        self.accept_noise()
        self.receipts.keep(self._signed)

    @property
    def members(self) -> tuple[str, ...]:
        """The merchants whose answers open the sum."""
        return self.plan.committee[:1] if self.plan.trust.opened_by == "holder" else self.plan.committee

    @property
    def settings(self) -> ExchangeSettings[UnmaskReply]:
        """What the requests to the members have in common."""
        return ExchangeSettings(
            message_type="query.unmask",
            reply_type=UnmaskReply,
            max_blob_bytes=self.derived.answer_bytes,
            timeout=self.timeout,
            group_id=str(self.round_number),
            board=self.board,
        )

    def request(self, member: str) -> RecordDict:
        """Make and sign the request to a member: always about the same survivor set."""
        return self.signer.sign(
            unmask_request(
                member, self.uploads, plan=self.plan, round_number=self.round_number, receipts=self.receipts
            ),
            kind="query.unmask",
            training_id=self.plan.training_id,
            round_number=self.round_number,
            recipient=member,
        )

    def suspects(self) -> frozenset[str]:
        """Return merchants of whom at least one is at fault, where enough answered and the sum didn't open.

        Answers of committee members were held against the dealers' commitments. So the key is the sum of the
        dealt ones, and one of the dealers encrypted under another. A key holder's answer isn't checked.
        """
        dealers = frozenset(upload.merchant for upload in self.uploads)
        return dealers if self._dealt is not None else dealers | set(self.members)

    def _ask(self, requests: Mapping[int, RecordDict]) -> Answers[UnmaskReply]:
        names = {self.nodes[name]: name for name in self.plan.committee if name in self.nodes}

        def take(answer: Answer[UnmaskReply]) -> None:
            # Receipts reveal a ledger that was put back.
            self._signed += self.take(names[answer.node_id], answer.body, answer.blobs) or ()

        with waiting(self.grace, asked=len(requests), needed=self.plan.threshold) as ends:

            def end(seconds: float) -> float | None:
                if self.grace is not None:
                    self.try_to_open()
                return seconds if self.is_over else ends(self.answered, seconds)

            answers = ask(
                self.grid,
                requests,
                self.settings,
                take=take,
                end=end,
            )
        self.try_to_open()
        return answers

    def take(self, member: str, reply: UnmaskReply, blobs: Mapping[str, bytes]) -> list[Receipt] | None:
        """Check a member's reply, and count its answer if it is right.

        Args:
            member: the member that the reply came from.
            reply: the reply.
            blobs: its blobs by name.

        Returns:
            The receipts for the reply, which aren't kept yet: one of a merchant's, none of a witness's. None
            if the reply isn't valid.
        """
        dealers = {upload.merchant for upload in self.uploads}
        for dealer in dealers.intersection(reply.complaints):
            self.complaints[dealer].add(member)
        try:
            receipts = self._receipts(member, reply)
        except FedrecError as error:
            self.refused[member] = str(error)
            return None
        self.refused.pop(member, None)
        if not reply.complaints:
            self._take_answer(member, blobs)
        return receipts

    def _take_answer(self, member: str, blobs: Mapping[str, bytes]) -> None:
        number = self.plan.committee.index(member) + 1
        try:
            answer = take_blob(blobs, "answer")
        except FedrecError as error:
            self.refused[member] = str(error)
            return
        try:
            if self._dealt is not None:
                self._dealt.check(answer, member=number)
        except AggregationError as error:
            self.wrong[member] = str(error)
            return
        self._answers[number] = answer
        try:
            self.removal.take(number, blobs)
        except FedrecError as error:
            self.wrong_layers[member] = str(error)

    def _receipts(self, member: str, reply: UnmaskReply) -> list[Receipt]:
        """Sign the receipt for a merchant's reply: every answer is in its ledger, complaints too."""
        if reply.refused is not None:
            raise ProtocolError(str(reply.refused))
        if member not in self.plan.signing_keys:
            return []
        receipt = self.receipts.sign(
            reply.head,
            plan=self.plan,
            merchant=member,
            round_number=self.round_number,
            moment="answered",
        )
        return [receipt]

    def try_to_open(self) -> None:
        """Open the sum if enough members have answered rightly; once, since other answers tell the same.

        It is used only once all layers that it doesn't need can be removed, or by :meth:`accept_noise`.
        """
        if self._sum is None and not self.is_over and self.answered >= self.plan.threshold:
            try:
                self._sum = self.scheme.open(
                    self.total,
                    answers=self._answers,
                    threshold=self.plan.threshold,
                    contributors=len(self.uploads),
                    training_id=self.plan.training_id,
                    round_number=self.round_number,
                )
            except AggregationError as error:
                self.failure = error
        if self.removal.possible:
            self.accept_noise()

    def accept_noise(self) -> None:
        """Remove the layers that can be removed from the sum, if it opens, and use it as it then is."""
        if self._sum is not None and self.opened is None:
            self.opened = self.removal.remove(self._sum)


def unmask_request(
    member: str, uploads: Sequence[Upload], *, plan: TrainingPlan, round_number: int, receipts: ReceiptBook
) -> RecordDict:
    """Make the request to one committee member: the survivor set, and that member's sealed shares.

    Args:
        member: the member's name.
        uploads: the survivor set.
        plan: the training's plan.
        round_number: the round.
        receipts: the server's book of receipts.

    Returns:
        The request. A holder of the key gets the ciphertexts instead of shares.
    """
    request = UnmaskRequest(
        training_id=plan.training_id,
        round_number=round_number,
        survivors=tuple(upload.signed for upload in uploads),
        receipt=receipts.last(member),
    )
    if plan.trust.opened_by == "holder":
        blobs = {f"ciphertext-{n}": upload.ciphertext for n, upload in enumerate(uploads, start=1)}
        return pack(request, blobs)
    seat = plan.committee.index(member)
    return pack(request, {f"box-{n}": upload.boxes[seat] for n, upload in enumerate(uploads, start=1)})
