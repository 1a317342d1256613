"""Open the sum of a round: ask the committee, or the holder of the key, and combine the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedrec.errors import AggregationError, FedrecError, ProtocolError
from fedrec.privacy.aggregation.scheme import Opened, Scheme, SumOfCiphertexts
from fedrec.privacy.aggregation.shamir import ContradictionError
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt
from fedrec.protocol.transport import pack, take_blob
from fedrec.server.layer_removal import LayerRemoval
from fedrec.server.message_exchange import Answer, Answers, ExchangeSettings, ask
from fedrec.server.receipts import ReceiptBook
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.request_signing import RequestSigner
from fedrec.server.stragglers import GracePeriod, waiting
from fedrec.server.uploads import Upload

_MOST_WAYS = 500
"""In how many ways answers are left out of an opening at most, to find wrong ones."""


@dataclass
class Opening:
    """One sum, and the answers to the one request about it.

    The sum is opened as soon as enough members have answered. If that fails, more answers to the same request
    are waited for; another set of uploads is never asked about. The same goes for the noise layers that the
    sum doesn't need; if they can't be removed in the end, the sum is used with them.

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
        opened: the sum without the layers that it doesn't need, and the members that answered wrongly; None
            while it isn't opened.
        removal: the layers, and whose couldn't be removed.
        failure: why it couldn't be opened although enough members answered.
        refused: why members gave no valid answer, by name.
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
    complaints: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _answers: dict[int, bytes] = field(default_factory=dict)
    _wrong: dict[int, str] = field(default_factory=dict)
    _signed: list[Receipt] = field(default_factory=list)
    _tried: int = -1
    _sum: Opened | None = None

    def __post_init__(self) -> None:
        self.removal = LayerRemoval(
            self.plan, self.derived.noise, tuple(upload.signed.commitment for upload in self.uploads)
        )

    @property
    def scheme(self) -> Scheme:
        """The aggregation scheme."""
        return self.derived.scheme

    @property
    def answered(self) -> int:
        """How many members have answered."""
        return len(self._answers)

    @property
    def opens(self) -> bool:
        """Whether the sum opens, if with more noise than it needs so far."""
        return self._sum is not None

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
            if members and self.opened is None:
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

        Dealers prove that their shares are consistent, so shares that contradict each other are the members'
        fault. Consistent shares are right if they include those of as many honest members as the threshold;
        then some upload is encrypted under another key than the one that was dealt.
        """
        members = {self.plan.committee[x - 1] for x in self._answers} | set(self.refused)
        if isinstance(self.failure, ContradictionError):
            return frozenset(members)
        dealers = {upload.merchant for upload in self.uploads}
        sure = self.answered - self.plan.threshold >= max(1, self.plan.corrupt_members)
        return frozenset(dealers if sure else dealers | members)

    def _ask(self, requests: Mapping[int, RecordDict]) -> Answers[UnmaskReply]:
        names = {self.nodes[name]: name for name in self.plan.committee if name in self.nodes}

        def take(answer: Answer[UnmaskReply]) -> None:
            # Receipts reveal a ledger that was put back.
            self._signed += self.take(names[answer.node_id], answer.body, answer.blobs) or ()

        with waiting(self.grace, asked=len(requests), needed=self.plan.threshold) as ends:

            def end(seconds: float) -> float | None:
                if self.grace is not None and self._tried < 0 and self.answered >= self.plan.threshold:
                    self.try_to_open()
                return seconds if self.opened else ends(self.answered, seconds)

            answers = ask(
                self.grid,
                requests,
                self.settings,
                take=take,
                end=end,
            )
        if self.opened is None and self.answered >= self.plan.threshold:
            self.try_to_open()
        return answers

    def take(self, member: str, reply: UnmaskReply, blobs: Mapping[str, bytes]) -> list[Receipt] | None:
        """Check a member's reply, and count its answer.

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
            number = self.plan.committee.index(member) + 1
            try:
                self._answers[number] = take_blob(blobs, "answer")
            except FedrecError as error:
                self.refused[member] = str(error)
                return receipts
            try:
                self.removal.take(number, blobs)
            except FedrecError as error:
                self._wrong[number] = str(error)
        return receipts

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
        """Open the sum from the answers so far, unless just these were tried before.

        It is used only once all layers that it doesn't need can be removed, or by :meth:`accept_noise`.
        """
        if self._sum is None and self._tried != self.answered:
            self._tried = self.answered
            try:
                self._sum = self._open(self._answers)
            except ContradictionError as error:
                self.failure = error
                self._leave_some_out()
            except AggregationError as error:
                self.failure = error
        if self.removal.possible:
            self.accept_noise()

    def accept_noise(self) -> None:
        """Remove the layers that can be removed from the sum, if it opens, and use it as it then is."""
        if self._sum is None or self.opened is not None:
            return
        self.opened = replace(
            self._sum,
            wrong={**self._wrong, **self._sum.wrong},
            noise_std=self.removal.remove(self._sum.values),
        )

    def _leave_some_out(self) -> None:
        """Open the sum although more answers are wrong than Reed-Solomon decoding can locate.

        One, then two and so on are left out in every way, as many as the threshold leaves. The key's size and
        the noise of the opened values show when the key is right; a wrong one is found out by its size,
        before the sum is touched. Members are named only if there is one way of leaving out so few: several
        that lie together can make others look like them.
        """
        spare = self.answered - self.plan.threshold
        tries = _MOST_WAYS
        for count in range(1, spare + 1):
            found: list[tuple[tuple[int, ...], Opened]] = []
            for left in islice(combinations(sorted(self._answers), count), tries):
                tries -= 1
                try:
                    found.append((left, self._open(self._without(left))))
                except AggregationError:
                    continue
                if len(found) > 1:
                    break
            if found:
                left, opened = found[0]
                named = left if len(found) == 1 else ()
                wrong = dict.fromkeys(named, "its key share contradicts the other members'")
                self._sum = replace(opened, wrong={**opened.wrong, **wrong})
                return

    def _without(self, left: Collection[int]) -> dict[int, bytes]:
        return {x: answer for x, answer in self._answers.items() if x not in left}

    def _open(self, answers: Mapping[int, bytes]) -> Opened:
        return self.scheme.open(
            self.total,
            answers=answers,
            threshold=self.plan.threshold,
            contributors=len(self.uploads),
            training_id=self.plan.training_id,
            round_number=self.round_number,
        )


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
