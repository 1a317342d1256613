"""Open a campaign's sum as the members of its committee come, one after another and on any day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fedrec._internal.text import listed
from fedrec.errors import ProtocolError, RefusalCode, TrainingError
from fedrec.protocol.messages import UnmaskReply
from fedrec.server.attendance import Attendance
from fedrec.server.layer_removal import Opened
from fedrec.server.receipts import ReceiptBook
from fedrec.server.sum_opening import Opening
from fedrec.server.uploads import reply_bytes
from fedrec.server.window.standing_requests import StandingRequests
from fedrec.server.window.stored_replies import StoredReplies

_FINAL: Final[tuple[RefusalCode, ...]] = ("training", "message")
"""Refusals that the same request gets again whenever it comes: the keys are gone, or the set is wrong."""


class LostCampaignError(TrainingError):
    """The campaign is over without a sum; what was charged stays charged."""


@dataclass
class LateOpening:
    """Ask each member about the one survivor set while it is connected, and store its answer.

    Args:
        opening: the sum, its survivor set, and the answers.
        replies: the stored answers.
        cohort: who is connected.
        receipts: the server's book of receipts.
        note: called with a merchant and what was found out about it.

    Attributes:
        bytes_up: bytes of the answers.
        bytes_down: bytes of the requests of this process.
    """

    opening: Opening
    replies: StoredReplies
    cohort: Attendance
    receipts: ReceiptBook
    note: Callable[[str, str], None]
    bytes_up: int = 0
    _final: set[str] = field(default_factory=set)
    _requests: StandingRequests[UnmaskReply] = field(init=False)

    def __post_init__(self) -> None:
        self._requests = StandingRequests(self.opening.grid, self.opening.settings)

    @property
    def bytes_down(self) -> int:
        """Bytes of the requests that this process sent."""
        return self._requests.bytes_down

    def run(self, wait: Callable[[], None]) -> Opened:
        """Ask until the sum is open.

        Args:
            wait: called between two checks of who is connected; it waits, and raises an error to end the run.

        Returns:
            The opened sum.

        Raises:
            LostCampaignError: too few members can still answer, or enough have, and the sum doesn't open.
        """
        self._restore()
        while True:
            self.opening.try_to_open()
            if self.opening.opened is not None:
                return self.opening.opened
            self._check_possible()
            awaited = self._ask()
            if self._take():
                continue
            if not awaited:
                # Nobody is there whose answer could take more noise off a sum that opens.
                self.opening.accept_noise()
            if self.opening.opened is None:
                wait()

    def _restore(self) -> None:
        """Count the stored answers; one that can't be used is asked for again."""
        for member in self.opening.members:
            try:
                stored = self.replies.answer(member)
            except ProtocolError as error:
                self.note(member, f"its stored answer can't be used: {error}")
                continue
            if stored is not None and (receipts := self.opening.take(member, *stored)) is not None:
                self.receipts.keep([receipt for receipt in receipts if not self.receipts.has(receipt)])
                self._count(member, *stored)

    def _check_possible(self) -> None:
        """Raise ``LostCampaignError`` if the members that are left can't open the sum."""
        opening = self.opening
        if opening.failure is not None:
            raise LostCampaignError(
                f"the sum could not be opened: {opening.failure}; one of these is the cause: "
                f"{listed(sorted(opening.suspects()))}"
            )
        left = len(set(opening.members) - self._final - self.cohort.closed_by)
        if opening.answered + left < opening.plan.threshold:
            complained = [name for names in opening.complaints.values() for name in names]
            told = [f"{name}: {reason}" for name, reason in {**opening.refused, **opening.wrong}.items()]
            told += [f"{name} has closed the training" for name in sorted(self.cohort.closed_by)]
            if complained:
                told.append(f"{listed(sorted(set(complained)))} got shares that don't verify")
            raise LostCampaignError(
                f"{opening.answered + left} committee members can answer, fewer than the threshold of "
                f"{opening.plan.threshold}" + (f" ({'; '.join(told)})" if told else "")
            )

    def _ask(self) -> bool:
        """Ask the members that are connected and haven't answered; the others join, to be told the end.

        Returns:
            Whether any of those members is connected.
        """
        opening = self.opening
        connected = self.cohort.admit([peer.name for peer in opening.plan.parties])
        awaited = set(opening.members) - self._final
        due = self._requests.due(connected & awaited)
        if due:
            self._requests.send(
                {self.cohort.nodes[member]: opening.request(member) for member in due},
                names={self.cohort.nodes[member]: member for member in due},
            )
        return bool(connected & awaited)

    def _take(self) -> bool:
        """Store the answers that have come, then their receipts; return whether there was any."""
        taken = False
        for member, answer in self._requests.pull():
            if member in self._final:
                continue
            receipts = self.opening.take(member, answer.body, answer.blobs)
            if receipts is not None and member not in self.opening.refused:
                self.replies.keep(member, answer.body, answer.blobs)
                self.receipts.keep(receipts)
                self._count(member, answer.body, answer.blobs)
                taken = True
                continue
            self.note(member, self.opening.refused.get(member, "its answer is not valid"))
            if answer.body.refused is not None and answer.body.refused.code in _FINAL:
                self._final.add(member)
        return taken

    def _count(self, member: str, reply: UnmaskReply, blobs: dict[str, bytes]) -> None:
        self._final.add(member)
        self.bytes_up += reply_bytes(reply, blobs)
        for found in (self.opening.wrong, self.opening.wrong_layers):
            if member in found:
                self.note(member, found[member])
        for dealer in reply.complaints:
            self.note(dealer, f"dealt shares that don't verify, according to {member}")
