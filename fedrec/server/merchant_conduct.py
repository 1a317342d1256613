"""What rounds have shown of a training's merchants, and whom the next one does without because of it.

Four things are noted: complaints about dealt shares (:mod:`fedrec.server.blame`), sums that didn't open for a
reason that names nobody (:mod:`fedrec.server.rotation`), answers that contradicted the other members', and
who was late. None of them changes a round that is under way: its set of survivors is what came in time, and
is opened or lost as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fedrec._internal.text import listed
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.blame import Blame
from fedrec.server.lost_rounds import Losses
from fedrec.server.rotation import Rotation
from fedrec.server.stragglers import Lateness

_MOST_UNTOLD, _MOST_UNTOLD_OF_GROUPS = 1.0, 5.0
"""More losses at openings than this that clear nobody, nearly in a row, stop a training: more are given where
groups can be left out."""


@dataclass(frozen=True)
class LeftOut:
    """Whom a round asks for no upload: for what it may have done, and for being late."""

    suspected: frozenset[str]
    resting: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Everybody who isn't asked."""
        return self.suspected | self.resting


class Conduct:
    """The record of one training's merchants; :meth:`state` is kept in the checkpoint."""

    def __init__(self, plan: TrainingPlan, *, state: Mapping[str, Any] | None = None) -> None:
        found: Mapping[str, Any] = state or {}
        names = [peer.name for peer in plan.roster]
        self._plan = plan
        self.blame = Blame.from_state(found.get("blame"), colluders=plan.colluders)
        # In an order of the training's own: nobody is the first to be left out in all of them.
        self.rotation = Rotation.from_state(
            found.get("rotation"), order=sorted(names, key=lambda name: _drawn(plan, name))
        )
        self.lateness = Lateness.from_state(found.get("lateness"))
        self.losses = Losses(**found.get("losses", {}))
        self._untold = Losses(**found.get("untold", {}))
        self.contradicted: set[str] = set(found.get("contradicted", ()))

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "blame": self.blame.state(),
            "rotation": self.rotation.state(),
            "lateness": self.lateness.state(),
            "losses": vars(self.losses),
            "untold": vars(self._untold),
            "contradicted": sorted(self.contradicted),
        }

    def left_out(self, there: Collection[str], *, round_number: int) -> LeftOut:
        """Return whom a round asks for no upload, of those that are ``there``; the minimum is asked."""
        suspected = self.blame.left_out
        free = set(there) - suspected
        spare = len(free) - self._plan.min_contributors
        turned = self.rotation.left_out(free, room=spare)
        free -= turned
        spare -= len(turned)
        resting = [name for name in self.lateness.resting(round_number) if name in free]
        return LeftOut(suspected=suspected | turned, resting=frozenset(resting[: max(spare, 0)]))

    def distrusted(self, left_out: LeftOut) -> frozenset[str]:
        """Return the members that an opening does without while enough others answer."""
        return left_out.all | self.contradicted | self.blame.disbelieved

    def opened(self, contributors: Collection[str]) -> None:
        """Note a round that was opened."""
        self.rotation.opened(contributors)
        self.losses.opened()
        self._untold.opened()

    def lost_at_opening(self, suspects: Collection[str], *, there: Collection[str]) -> str | None:
        """Note a round whose sum didn't open, and no complaint says why; returns why to stop, if so."""
        told = self.rotation.lost(suspects)
        room = len(set(there) - self.blame.left_out) - self._plan.min_contributors
        if told and room > 0:
            # The search goes on: every such round clears somebody, so that there are few of them.
            return None
        self.losses.lost()
        self._untold.lost()
        if self._untold.level <= (_MOST_UNTOLD if room <= 1 else _MOST_UNTOLD_OF_GROUPS):
            return None
        why = (
            f"{len(there)} merchants can't tell who: all of them must take part in every round"
            if room <= 0
            else f"more than {room} seem to be at fault, and no more can be left out of a round"
        )
        return f"sums don't open, and one of these is the cause: {listed(sorted(suspects))}; {why}"

    def forgive(self) -> None:
        """Begin to count anew, where a person has a training go on that was stopped."""
        self.losses, self._untold = Losses(), Losses()
        if not self.rotation.undecided:
            self.rotation = Rotation(order=self.rotation.order)

    def lost_over_complaints(self, *, there: Collection[str]) -> None:
        """Note a round that was lost because members complained instead of answering."""
        spare = len(set(there) - self.blame.excluded) - self._plan.min_contributors
        self.blame.lost_over_complaints(spare=spare)
        self.rotation.lost_otherwise()
        self.losses.lost()

    def lost_for_contributors(self) -> None:
        """Note a round in which too few took part."""
        self.blame.lost_for_contributors()
        self.rotation.lost_for_contributors()
        self.losses.lost()

    def lost_for_answers(self) -> None:
        """Note a round in which too few members answered."""
        self.rotation.lost_otherwise()
        self.losses.lost()

    def told(self, *, round_number: int) -> dict[str, str]:
        """Return what the operator is told of merchants that stand out, by name."""
        found: dict[str, list[str]] = {}
        for name, times in self.lateness.in_a_row.copy().items():
            until = self.lateness.until.get(name, 0)
            rests = f", not asked before round {until}" if round_number < until else ""
            found.setdefault(name, []).append(f"late {times} times in a row{rests}")
        for name in self.rotation.aside:
            found.setdefault(name, []).append("left out in turn, since sums didn't open: one of several")
        for name in self.blame.left_out:
            found.setdefault(name, []).append("left out, since members complained about what it dealt")
        for name in self.contradicted.copy():
            found.setdefault(name, []).append("not asked to open while others do: it contradicted them")
        return {name: "; ".join(texts) for name, texts in sorted(found.items())}


def _drawn(plan: TrainingPlan, name: str) -> bytes:
    return hashlib.sha256(f"fedrec/rotation/1:{plan.training_id}:{name}".encode()).digest()
