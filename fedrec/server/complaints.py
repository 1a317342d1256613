"""Decide which dealers the server leaves out after committee members complained about dealt shares.

A complaint shows that its member or its dealer is at fault, but not which, and no share may be disclosed to
find out. At most ``colluders`` merchants are assumed to be at fault, and so many witnesses as the plan takes
to be corrupt. So a dealer is at fault if more members complain about it than both together. A member is at
fault if it complains about more than ``colluders`` dealers, which are merchants; its complaints are then
ignored. All other dealers that are complained about are suspects. After a round lost
to complaints, the next rounds leave suspects out: all of them if the minimum of contributors allows it, else
some of them in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import NonNegativeInt

from fedrec.protocol.schema import Strict


class ComplaintsRecord(Strict):
    """The complaints about a training's dealers as they are stored; see :class:`Complaints`."""

    complaints: Mapping[str, tuple[str, ...]] = {}
    aside: tuple[str, ...] = ()
    turn: NonNegativeInt = 0


@dataclass
class Complaints:
    """The complaints about a training's dealers, over all rounds.

    Attributes:
        colluders: how many merchants are assumed to be at fault at most.
        corrupt_witnesses: how many witnesses are, beside them.
        complaints: names of the members that complained, by dealer.
        aside: the suspects that the next round leaves out.
        turn: how many rounds were lost to complaints.
    """

    colluders: int
    corrupt_witnesses: int = 0
    complaints: dict[str, set[str]] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()
    turn: int = 0

    @classmethod
    def of(cls, record: ComplaintsRecord, *, colluders: int, corrupt_witnesses: int = 0) -> Complaints:
        """Restore what :meth:`record` returned.

        Args:
            record: the record.
            colluders: how many merchants are assumed to be at fault at most.
            corrupt_witnesses: how many witnesses are, beside them.

        Returns:
            The complaints as they were.
        """
        return cls(
            colluders=colluders,
            corrupt_witnesses=corrupt_witnesses,
            complaints={dealer: set(by) for dealer, by in record.complaints.items()},
            aside=frozenset(record.aside),
            turn=record.turn,
        )

    def record(self) -> ComplaintsRecord:
        """Return the complaints and turns as they are stored."""
        return ComplaintsRecord(
            complaints={dealer: tuple(sorted(by)) for dealer, by in sorted(self.complaints.items())},
            aside=tuple(sorted(self.aside)),
            turn=self.turn,
        )

    @property
    def disbelieved(self) -> frozenset[str]:
        """The members whose complaints are ignored: they name more dealers than may be at fault."""
        members = set().union(*self.complaints.values())
        return frozenset(
            member
            for member in members
            if sum(member in by for by in self.complaints.values()) > self.colluders
        )

    def _believable(self) -> dict[str, set[str]]:
        """Return the complaints, without those of members in :attr:`disbelieved`."""
        disbelieved = self.disbelieved
        return {dealer: by - disbelieved for dealer, by in self.complaints.items() if by - disbelieved}

    @property
    def excluded(self) -> frozenset[str]:
        """The dealers at fault: more members complain about each than may be at fault themselves."""
        most = self.colluders + self.corrupt_witnesses
        return frozenset(dealer for dealer, by in self._believable().items() if len(by) > most)

    @property
    def suspects(self) -> frozenset[str]:
        """The dealers that some member complains about, and that may be honest."""
        return frozenset(self._believable()) - self.excluded

    @property
    def left_out(self) -> frozenset[str]:
        """The merchants that the next round asks for no upload."""
        return self.excluded | (self.aside & self.suspects)

    def add(self, complaints: Mapping[str, Collection[str]]) -> None:
        """Add a round's complaints: names of members, by dealer."""
        # Not in place: the server's status reads them from another thread.
        added = {dealer: self.complaints.get(dealer, set()) | set(by) for dealer, by in complaints.items()}
        self.complaints = {**self.complaints, **added}

    def lost_over_complaints(self, *, spare: int) -> None:
        """Choose the suspects that the next round leaves out: those whose turn it is, at most ``spare``."""
        suspects = sorted(self.suspects)
        count = min(max(spare, 0), len(suspects))
        first = self.turn * count
        self.aside = frozenset(suspects[(first + i) % len(suspects)] for i in range(count))
        self.turn += 1

    def lost_for_contributors(self) -> None:
        """Ask all suspects again in the next round: without them there were too few contributors."""
        self.aside = frozenset()
