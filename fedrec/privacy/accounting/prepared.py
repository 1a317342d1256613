"""Epsilon of a training's charges worked out when it is joined, so that a charge only looks it up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.kinds import Charge, Cost, View
from fedrec.privacy.accounting.pld import epsilon_pld, epsilon_schedule
from fedrec.privacy.accounting.rdp import ORDERS, epsilon_from_rdp, rdp_vector

MAX_PREPARED = 4096
"""Most charges worked out ahead; later ones are composed as they come."""


@dataclass(frozen=True)
class _Schedule:
    """Epsilons after 0, 1, ... charges of one kind on top of ``after`` earlier ones, of a whole ``delta``."""

    event: Event
    delta_used: float
    delta: float
    after: int
    epsilons: tuple[float, ...]


class Totals:
    """Everything charged so far, in the two accountants' terms."""

    def __init__(self) -> None:
        self._count = 0
        self._steps: dict[View, dict[tuple[float, float], int]] = {"server": {}, "aggregation_broken": {}}
        self._rdp: NDArray[np.float64] = np.zeros(ORDERS.shape)
        self._spent = 0.0
        self._schedule: _Schedule | None = None

    def add(self, cost: Cost) -> None:
        """Count what was spent, once it is written."""
        self._count += 1
        for view, steps in self._steps.items():
            event = cost.event(view)
            kind = event.sample_rate, event.noise_multiplier
            steps[kind] = steps.get(kind, 0) + event.steps
        self._rdp = self._rdp + rdp_vector(cost.event())
        self._spent += cost.delta_used
        schedule = self._schedule
        if schedule is not None and (cost.event(), cost.delta_used) != (schedule.event, schedule.delta_used):
            self._schedule = None

    def prepare(self, charge: Charge, *, charges: int, delta: float) -> None:
        """Work out epsilon by PLD, server's view, for up to ``charges`` charges like this one to come."""
        count = min(charges, MAX_PREPARED)
        deltas = [delta - self._spent - k * charge.delta_used for k in range(count + 1)]
        self._schedule = _Schedule(
            event=charge.event(),
            delta_used=charge.delta_used,
            delta=delta,
            after=self._count,
            epsilons=epsilon_schedule(self.events(), charge.event(), deltas=deltas),
        )

    def events(self, view: View = "server") -> Sequence[Event]:
        """Return what was charged, for the accountants, one event of each kind."""
        return [Event(rate, sigma, steps) for (rate, sigma), steps in self._steps[view].items()]

    def rdp(self, *, delta: float, adding: Cost | None = None) -> float:
        """Epsilon by RDP, server's view, at ``delta`` less the betas, with one more cost if given."""
        if adding is None:
            left, vector = delta - self._spent, self._rdp
        else:
            left = delta - self._spent - adding.delta_used
            vector = self._rdp + rdp_vector(adding.event())
        return epsilon_from_rdp(vector, delta=left) if left >= MIN_DELTA else math.inf

    def rdp_ahead(self, charge: Charge, *, charges: int, delta: float) -> float:
        """Epsilon by RDP, server's view, as :meth:`rdp`, with ``charges`` more charges like this one."""
        left = delta - self._spent - charges * charge.delta_used
        vector = self._rdp + charges * rdp_vector(charge.event())
        return epsilon_from_rdp(vector, delta=left) if left >= MIN_DELTA else math.inf

    def pld(self, *, delta: float, adding: Cost | None = None, view: View = "server") -> float:
        """Epsilon by PLD at ``delta`` less the betas, one more cost if given; looked up if prepared."""
        found = self._look_up(delta=delta, adding=adding) if view == "server" else None
        if found is not None:
            return found
        left = delta - self._spent - (0.0 if adding is None else adding.delta_used)
        events = [*self.events(view), *(() if adding is None else (adding.event(view),))]
        return epsilon_pld(events, delta=left) if left >= MIN_DELTA else math.inf

    def _look_up(self, *, delta: float, adding: Cost | None) -> float | None:
        schedule = self._schedule
        if schedule is None or delta != schedule.delta:
            return None
        if adding is not None and (adding.event(), adding.delta_used) != (
            schedule.event,
            schedule.delta_used,
        ):
            return None
        position = self._count - schedule.after + (adding is not None)
        return schedule.epsilons[position] if position < len(schedule.epsilons) else None
