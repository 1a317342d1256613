"""Every figure of a ledger's entries, from the raw history alone.

That is what each training costs by itself, by PLD, and what the lifetime filter counts for all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .cap import Spent, cap_spent
from .epsilons import CROSS_CHECK, fits, held, pld_epsilon, rdp_epsilon, rdp_step
from .ledger import cost, costs_of
from .outcome import Problem

GUARANTEED, BROKEN = "guaranteed_noise_multiplier", "broken_noise_multiplier"
NOMINAL_CAP = 10.0
"""What the filter's order is chosen for where a policy sets no cap, as in simulations."""
_RATIO = 1.7
"""PLD is composed anew where a training's steps have grown by this; it is interpolated between."""
_ALIKE = ("sample_rate", GUARANTEED, BROKEN, "beta", "delta", "rounds", "steps")


class _Training:
    """A training: its first charge, and the steps charged so far."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        self.first = first
        self.steps = 0

    @property
    def planned(self) -> int:
        return int(self.first["rounds"] * self.first["steps"])

    def spent(self, noise: str) -> Spent:
        first = self.first
        return Spent(
            float(first["sample_rate"]), float(first[noise]), self.planned, self.steps, float(first["beta"])
        )


class History:
    """What a ledger was charged: trainings in the order of their first charges, and counts."""

    def __init__(self) -> None:
        self.trainings: dict[str, _Training] = {}
        self.counts: list[Mapping[str, Any]] = []

    @staticmethod
    def of(entries: Iterable[Mapping[str, Any]]) -> History:
        """Add up all charges and counts."""
        found = History()
        for entry in costs_of(entries):
            found.add(entry)
        return found

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in a charge or a count."""
        if entry["kind"] == "count":
            self.counts.append(cost(entry))
        else:
            charge = entry["charge"]
            self.trainings.setdefault(charge["training_id"], _Training(charge)).steps += charge["steps"]

    def spent(self, *, epsilon: float, delta: float, noise: str = GUARANTEED) -> float:
        """Epsilon that counts against a cap, in the server's view or by another of the noise multipliers."""
        return cap_spent(
            [training.spent(noise) for training in self.trainings.values()],
            [(count["sample_rate"], count[noise]) for count in self.counts],
            epsilon=epsilon,
            delta=delta,
        )


class _Point(NamedTuple):
    """An entry's figure of its training alone, and what it is to follow from."""

    entry: int
    recorded: float | None
    rate: float
    noise: float
    steps: int
    delta: float

    def rough(self) -> float:
        return rdp_epsilon(rdp_step(self.rate, self.noise) * self.steps, self.delta)

    def exact(self) -> float:
        return pld_epsilon(((self.rate, self.noise, self.steps),), self.delta, self.rough())


def spending(entries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Recompute every figure of the entries."""
    history, runs = History(), dict[str, list[_Point]]()
    for entry in costs_of(entries):
        recorded, number = entry["epsilons"], entry["sequence"]
        about = cost(entry)
        at = {"epsilon": float(recorded["cap_epsilon"]), "delta": recorded["delta"]}
        yield from held(
            recorded["spent_before"], history.spent(**at), what="the lifetime filter, before it", entry=number
        )
        history.add(entry)
        yield from held(
            recorded["spent_after"], history.spent(**at), what="the lifetime filter, after it", entry=number
        )
        run, steps, delta = f"count {number}", 1, entry[entry["kind"]]["delta"]
        if entry["kind"] == "charge":
            run = about["training_id"]
            training = history.trainings[run]
            steps, delta = training.steps, delta - training.steps * about["beta"]
            if any(about[name] != training.first[name] for name in _ALIKE):
                yield Problem(number, "its rate, noise or rounds are not those its training began with")
            if training.steps > training.planned:
                yield Problem(number, f"its training is charged {training.steps} of {training.planned} steps")
        runs.setdefault(run, []).append(
            _Point(
                number,
                recorded["own_epsilon"],
                float(about["sample_rate"]),
                float(about[GUARANTEED]),
                steps,
                delta,
            )
        )
    for points in runs.values():
        yield from _hold_run(points)


def _hold_run(run: Sequence[_Point]) -> Iterator[Problem]:
    """Check the figures of one training: at knots composed anew, between them by a curve.

    A figure that is off the curve is composed anew too, so that the curve spares time and judges nothing. RDP
    at its best order, computed by other formulas, may lie above PLD and not below.
    """
    by_steps = {point.steps: point for point in run}
    counts = sorted(by_steps)
    knots = [0]
    while knots[-1] < len(counts) - 1:
        wanted = bisect_left(counts, _RATIO * counts[knots[-1]])
        knots.append(min(max(wanted, knots[-1] + 1), len(counts) - 1))
    chosen = [counts[knot] for knot in knots]
    known = {steps: by_steps[steps].exact() for steps in chosen}
    for point in run:
        if point.steps in known or not fits(point.recorded, _between(chosen, known, point.steps)):
            yield from held(point.recorded, point.exact(), what="PLD, of its own", entry=point.entry)
        rough = point.rough()
        if math.isfinite(rough) and (point.recorded is None or point.recorded > CROSS_CHECK * rough):
            yield Problem(point.entry, "its epsilon by PLD is above the one by RDP")


def _between(chosen: Sequence[int], known: Mapping[int, float], steps: int) -> float:
    """Interpolate epsilon at ``steps`` by a cubic through four knots, in logarithms; NaN if it can't be."""
    first = max(0, min(bisect_left(chosen, steps) - 2, len(chosen) - 4))
    near = [at for at in chosen[first : first + 4] if at > 0]
    if len(near) < 4 or not all(0 < known[at] < math.inf for at in near):
        return math.nan
    total, here = 0.0, math.log(steps)
    for at in near:
        weight = 1.0
        for other in near:
            if other != at:
                weight *= (here - math.log(other)) / (math.log(at) - math.log(other))
        total += weight * math.log(known[at])
    return math.exp(total)
