"""Whom the server does without after members of the committee complained about dealt shares.

A complaint shows that its member or its dealer is at fault, not which, and no share may be shown to find out.
But taking at most ``colluders`` merchants to be at fault, a dealer that more members complain about is one of
them, and so is a member that complains about more dealers: its complaints then say nothing. What is left are
suspects. A round that was lost over them is followed by rounds without them, as far as the minimum of
contributors allows, and in turns where it doesn't allow it for all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Blame:
    """What is known of a training's dealers: members that complained, by dealer, over all rounds.

    ``aside`` are the suspects that the next round does without, ``turn`` counts the rounds lost over them.
    """

    colluders: int
    complaints: dict[str, set[str]] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()
    turn: int = 0

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, *, colluders: int) -> Blame:
        """Return what :meth:`state` wrote; nobody is blamed where there is none."""
        if state is None:
            return cls(colluders=colluders)
        return cls(
            colluders=colluders,
            complaints={dealer: set(by) for dealer, by in state["complaints"].items()},
            aside=frozenset(state["aside"]),
            turn=int(state["turn"]),
        )

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        complaints = {dealer: sorted(by) for dealer, by in sorted(self.complaints.items())}
        return {"complaints": complaints, "aside": sorted(self.aside), "turn": self.turn}

    @property
    def disbelieved(self) -> frozenset[str]:
        """The members that complained about more dealers than may be at fault."""
        members = set().union(*self.complaints.values())
        return frozenset(
            member
            for member in members
            if sum(member in by for by in self.complaints.values()) > self.colluders
        )

    def _believable(self) -> dict[str, set[str]]:
        """Return the complaints without those of members that complained about too many dealers."""
        disbelieved = self.disbelieved
        return {dealer: by - disbelieved for dealer, by in self.complaints.items() if by - disbelieved}

    @property
    def excluded(self) -> frozenset[str]:
        """The dealers at fault: more members complain about them than may be at fault themselves."""
        return frozenset(dealer for dealer, by in self._believable().items() if len(by) > self.colluders)

    @property
    def suspects(self) -> frozenset[str]:
        """The dealers that somebody complains about, and that may be honest."""
        return frozenset(self._believable()) - self.excluded

    @property
    def left_out(self) -> frozenset[str]:
        """Whom the next round doesn't ask for an upload."""
        return self.excluded | (self.aside & self.suspects)

    def hear(self, complaints: Mapping[str, Collection[str]]) -> None:
        """Note a round's complaints: members, by dealer."""
        for dealer, by in complaints.items():
            self.complaints.setdefault(dealer, set()).update(by)

    def lost_over_complaints(self, *, spare: int) -> None:
        """Put suspects aside, ``spare`` of them at most: those whose turn it is."""
        suspects = sorted(self.suspects)
        count = min(max(spare, 0), len(suspects))
        first = self.turn * count
        self.aside = frozenset(suspects[(first + i) % len(suspects)] for i in range(count))
        self.turn += 1

    def lost_for_contributors(self) -> None:
        """Ask the suspects again: too few others were there."""
        self.aside = frozenset()
