"""Record what rounds have shown of each merchant, and decide whom the next round leaves out.

Five things are recorded: complaints about dealt shares (:mod:`fedrec.server.complaints`), sums that didn't
open where no single merchant is known to be the cause (:mod:`fedrec.server.rotation`), wrong answers of
committee members, noise layers that were dealt so that they can't be removed, and late replies
(:mod:`fedrec.server.stragglers`). None of them changes a
round that is under way: its survivor set is what came in time, and that set's sum is opened or the round is
lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, replace

from fedrec._internal.text import listed
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.complaints import Complaints
from fedrec.server.earlier_conduct import EarlierConduct
from fedrec.server.lost_rounds import Losses
from fedrec.server.reservation import ConductRecord
from fedrec.server.rotation import Rotation

_MOST_UNINFORMATIVE, _MOST_UNINFORMATIVE_OF_GROUPS = 1.0, 5.0
"""A training stops once the running count of sums that didn't open and cleared nobody exceeds this. The limit
is higher where groups can be left out."""


@dataclass(frozen=True)
class LeftOut:
    """The merchants that a round asks for no upload.

    Attributes:
        suspected: those that may have caused a lost round.
        resting: those that were late several times in a row.
    """

    suspected: frozenset[str]
    resting: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """All merchants that aren't asked."""
        return self.suspected | self.resting


class Conduct:
    """The record of one training's merchants; :meth:`record` is kept in the checkpoint.

    Args:
        plan: the training's plan.
        record: what :meth:`record` returned, or None for a new training.
        earlier: the record that a new training goes on from, of sums that didn't open. Everything else in it
            costs no round to find out again, and isn't held against a merchant for good.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        record: ConductRecord | None = None,
        earlier: EarlierConduct | None = None,
    ) -> None:
        found = ConductRecord() if record is None else record.model_copy(deep=True)
        names = [peer.name for peer in plan.roster]
        self._plan = plan
        self.complaints = Complaints.of(
            found.complaints, colluders=plan.colluders, corrupt_witnesses=plan.corrupt_witnesses
        )
        # Each training has its own order, so that no merchant is always the first to be left out.
        order = sorted(names, key=lambda name: _drawn(plan, name))
        self.rotation = (
            Rotation.continued(earlier.rotation, order=order, before=earlier.merchants)
            if record is None and earlier is not None
            else Rotation.of(found.rotation, order=order)
        )
        self.lateness = found.lateness
        self.losses = found.losses
        self._uninformative = found.untold
        self.answered_wrongly = set(found.answered_wrongly)
        self.noisy = set(found.noisy)

    def record(self) -> ConductRecord:
        """Return the record, as it is at this moment."""
        return ConductRecord(
            complaints=self.complaints.record(),
            rotation=self.rotation.evidence(),
            lateness=deepcopy(self.lateness),
            losses=replace(self.losses),
            untold=replace(self._uninformative),
            answered_wrongly=tuple(sorted(self.answered_wrongly)),
            noisy=tuple(sorted(self.noisy)),
        )

    def left_out(self, connected: Collection[str], *, round_number: int) -> LeftOut:
        """Choose the merchants that a round asks for no upload.

        As many as the plan's minimum are always asked, unless suspects by complaints leave fewer.

        Args:
            connected: names of the merchants that are connected.
            round_number: the round.

        Returns:
            The merchants that are left out, by reason.
        """
        suspected = self.complaints.left_out
        free = set(connected) - suspected
        spare = len(free) - self._plan.min_contributors
        turned = self.rotation.left_out(free, room=spare)
        free -= turned
        spare -= len(turned)
        noisy = frozenset(sorted(self.noisy & free)[: max(spare, 0)])
        free -= noisy
        spare -= len(noisy)
        resting = [name for name in self.lateness.resting(round_number) if name in free]
        return LeftOut(suspected=suspected | turned | noisy, resting=frozenset(resting[: max(spare, 0)]))

    def distrusted(self, left_out: LeftOut) -> frozenset[str]:
        """Return the members whose answers an opening leaves out while enough others answer."""
        return left_out.all | self.answered_wrongly | self.complaints.disbelieved

    def opened(self, contributors: Collection[str]) -> None:
        """Record a round that was opened, with these contributors."""
        self.rotation.opened(contributors)
        self.losses.opened()
        self._uninformative.opened()

    def lost_at_opening(self, suspects: Collection[str], *, connected: Collection[str]) -> str | None:
        """Record a round whose sum didn't open, with no complaint that says why.

        Args:
            suspects: names of merchants, at least one of which is at fault.
            connected: names of the merchants that were connected.

        Returns:
            Why the training must stop, or None if it can go on.
        """
        told = self.rotation.lost(suspects)
        room = len(set(connected) - self.complaints.left_out) - self._plan.min_contributors
        if told and room > 0:
            # The search goes on: every such round clears a merchant, so there are few such rounds.
            return None
        self.losses.lost()
        self._uninformative.lost()
        if self._uninformative.level <= (_MOST_UNINFORMATIVE if room <= 1 else _MOST_UNINFORMATIVE_OF_GROUPS):
            return None
        why = (
            f"{len(connected)} merchants are too few to find out which: "
            "all of them must take part in every round"
            if room <= 0
            else f"more than {room} seem to be at fault, and no more can be left out of a round"
        )
        return f"sums don't open, and one of these is the cause: {listed(sorted(suspects))}; {why}"

    def forgive(self) -> None:
        """Reset the counts of lost rounds, for an operator who resumes a training that was stopped."""
        self.losses, self._uninformative = Losses(), Losses()
        if not self.rotation.undecided:
            self.rotation = Rotation(order=self.rotation.order)

    def lost_over_complaints(self, *, connected: Collection[str]) -> None:
        """Record a round that was lost because members complained instead of answering."""
        spare = len(set(connected) - self.complaints.excluded) - self._plan.min_contributors
        self.complaints.lost_over_complaints(spare=spare)
        self.rotation.lost_otherwise()
        self.losses.lost()

    def lost_for_contributors(self) -> None:
        """Record a round that was lost because too few merchants contributed."""
        self.complaints.lost_for_contributors()
        self.rotation.lost_for_contributors()
        self.losses.lost()

    def lost_for_answers(self) -> None:
        """Record a round that was lost because too few committee members answered, or answered rightly."""
        self.rotation.lost_otherwise()
        self.losses.lost()

    def stopped_by(self, wrong: Collection[str]) -> str | None:
        """Tell whether sums can still open after a round that was lost.

        Args:
            wrong: names of the members whose answers were wrong in that round.

        Returns:
            Why the training must stop, or None if it can go on.
        """
        seats, threshold = len(self._plan.committee), self._plan.threshold
        if not wrong or seats - len(wrong) >= threshold:
            return None
        return (
            f"no sum opens: wrong answers came from {listed(sorted(wrong))}, and of "
            f"{seats} seats {threshold} must answer; plan again without them, or with more seats"
        )

    def notes(self, *, round_number: int) -> dict[str, str]:
        """Return notes for the operator on merchants that are late or left out, by name."""
        found: dict[str, list[str]] = {}
        for name, times in self.lateness.in_a_row.copy().items():
            until = self.lateness.until.get(name, 0)
            rests = f", not asked before round {until}" if round_number < until else ""
            found.setdefault(name, []).append(f"late {times} times in a row{rests}")
        for name in self.rotation.aside:
            found.setdefault(name, []).append(
                "left out in turn, since sums didn't open: one of several suspects"
            )
        for name in self.complaints.left_out:
            found.setdefault(name, []).append("left out, since members complained about what it dealt")
        for name in self.noisy.copy():
            found.setdefault(name, []).append(
                "left out while others suffice: it dealt noise layers that can't be removed"
            )
        for name in self.answered_wrongly.copy():
            found.setdefault(name, []).append(
                "not asked to open sums while enough others answer: its answer was wrong"
            )
        return {name: "; ".join(texts) for name, texts in sorted(found.items())}


def _drawn(plan: TrainingPlan, name: str) -> bytes:
    return hashlib.sha256(f"fedrec/rotation/1:{plan.training_id}:{name}".encode()).digest()
