"""Recompute every epsilon of a ledger's entries from the charges.

These are the epsilon of each training by itself, by PLD, and the lifetime epsilon, by the lifetime filter.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .epsilons import (
    CROSS_CHECK,
    LARGEST,
    ORDERS,
    Steps,
    check_epsilon,
    matches,
    pld_epsilon,
    rdp_epsilon,
    rdp_step,
)
from .ledger import account, cost, costs_of, is_of_figures
from .lifetime_filter import TrainingSpend, lifetime_epsilon
from .outcome import Problem

GUARANTEED, BROKEN = "guaranteed_noise_multiplier", "broken_noise_multiplier"
NOMINAL_CAP = 10.0
"""The cap for which the filter's order is chosen if a policy sets none, as in simulations."""
_RATIO = 1.7
"""Ratio of the step counts at which PLD is computed; epsilons in between are interpolated."""
_ALIKE = ("sample_rate", GUARANTEED, BROKEN, "beta", "steps")


class _Training:
    """The first charge of a training, or of its site figures, and the number of steps charged so far."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        self.first = first
        self.steps = 0

    @property
    def planned(self) -> int:
        return 1 if is_of_figures(self.first) else int(self.first["rounds"] * self.first["steps"])

    def spent(self, noise: str) -> TrainingSpend:
        first = self.first
        return TrainingSpend(
            float(first["sample_rate"]), float(first[noise]), self.planned, self.steps, float(first["beta"])
        )


class History:
    """The costs in a ledger: trainings in the order of their first charges, and counts."""

    def __init__(self) -> None:
        self.trainings: dict[str, _Training] = {}
        self.counts: list[Mapping[str, Any]] = []

    @staticmethod
    def of(entries: Iterable[Mapping[str, Any]]) -> History:
        """Return the history of all charges and counts in the entries."""
        found = History()
        for entry in costs_of(entries):
            found.add(entry)
        return found

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a charge or a count."""
        if entry["kind"] == "count":
            self.counts.append(cost(entry))
        else:
            charge = entry["charge"]
            self.trainings.setdefault(account(charge), _Training(charge)).steps += charge["steps"]

    def kinds(self, training_id: str) -> tuple[Steps, float]:
        """Return what a training was charged so far, its site figures last, and what of delta is left."""
        parts = [
            self.trainings[name] for name in (training_id, f"{training_id}/figures") if name in self.trainings
        ]
        spent = sum(part.steps * part.first["beta"] for part in parts)
        steps = tuple(
            (float(part.first["sample_rate"]), float(part.first[GUARANTEED]), part.steps) for part in parts
        )
        return steps, parts[0].first["delta"] - spent

    def spent(self, *, epsilon: float, delta: float, noise: str = GUARANTEED) -> float:
        """Compute the lifetime epsilon.

        Args:
            epsilon: the cap.
            delta: the cap's delta.
            noise: name of the noise multiplier: ``GUARANTEED`` is the server's view, ``BROKEN`` the view of
                somebody who reads single updates.

        Returns:
            Epsilon at ``delta``; infinity if there is no bound.
        """
        return lifetime_epsilon(
            [training.spent(noise) for training in self.trainings.values()],
            [(count["sample_rate"], count[noise]) for count in self.counts],
            epsilon=epsilon,
            delta=delta,
        )


class _Point(NamedTuple):
    """An entry's epsilon of its own training, and what it is computed from."""

    entry: int
    recorded: float | None
    kinds: Steps
    delta: float

    @property
    def steps(self) -> int:
        return self.kinds[0][2]

    def rough(self) -> float:
        total = sum(
            (rdp_step(rate, noise) * steps for rate, noise, steps in self.kinds), np.zeros(len(ORDERS))
        )
        return rdp_epsilon(total, self.delta)

    def exact(self) -> float:
        return pld_epsilon(self.kinds, self.delta, self.rough())


def check_epsilons(entries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Check all epsilons of the entries, and that a training's charges agree with its first one."""
    history, runs = History(), dict[str, list[_Point]]()
    for entry in costs_of(entries):
        recorded, number = entry["epsilons"], entry["sequence"]
        about = cost(entry)
        at = {"epsilon": float(recorded["cap_epsilon"]), "delta": recorded["delta"]}
        yield from check_epsilon(
            recorded["spent_before"], history.spent(**at), what="the lifetime filter, before it", entry=number
        )
        history.add(entry)
        yield from check_epsilon(
            recorded["spent_after"], history.spent(**at), what="the lifetime filter, after it", entry=number
        )
        run, delta = f"count {number}", entry[entry["kind"]]["delta"]
        kinds: Steps = ((float(about["sample_rate"]), float(about[GUARANTEED]), 1),)
        if entry["kind"] == "charge":
            kinds, delta = history.kinds(about["training_id"])
            run = f"{about['training_id']} {kinds[1:]}"
            training = history.trainings[account(about)]
            # Site figures have a rate and noise of their own, and belong to a training of as many rounds.
            other = history.trainings.get(about["training_id"], training).first
            if any(about[name] != training.first[name] for name in _ALIKE) or (
                (other["rounds"], other["delta"]) != (about["rounds"], about["delta"])
            ):
                yield Problem(number, "its rate, noise or rounds are not those its training began with")
            if training.steps > training.planned:
                yield Problem(number, f"its training is charged {training.steps} of {training.planned} steps")
        runs.setdefault(run, []).append(_Point(number, recorded["own_epsilon"], kinds, delta))
    for points in runs.values():
        yield from _check_training(points)


def _check_training(run: Sequence[_Point]) -> Iterator[Problem]:
    """Check the epsilons of one training.

    They are computed by PLD at some step counts, and interpolated in between to save time. An epsilon that
    differs from the interpolation is computed by PLD, so that interpolation alone never fails an entry. The
    epsilon by RDP, from other formulas, must not be below that by PLD.

    Args:
        run: the training's entries.

    Yields:
        Each epsilon that isn't the recomputed one.
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
        if point.steps in known or not matches(point.recorded, _between(chosen, known, point.steps)):
            yield from check_epsilon(point.recorded, point.exact(), what="PLD, of its own", entry=point.entry)
        rough = point.rough()
        if rough <= LARGEST and (point.recorded is None or point.recorded > CROSS_CHECK * rough):
            yield Problem(point.entry, "its epsilon by PLD is above the one by RDP")


def _between(chosen: Sequence[int], known: Mapping[int, float], steps: int) -> float:
    """Interpolate epsilon at ``steps`` by a cubic of logarithms through four knots; NaN if not possible."""
    first = max(0, min(bisect_left(chosen, steps) - 2, len(chosen) - 4))
    knots = [at for at in chosen[first : first + 4] if at > 0]
    if len(knots) < 4 or not all(0 < known[at] < math.inf for at in knots):
        return math.nan
    total, target = 0.0, math.log(steps)
    for at in knots:
        weight = 1.0
        for other in knots:
            if other != at:
                weight *= (target - math.log(other)) / (math.log(at) - math.log(other))
        total += weight * math.log(known[at])
    return math.exp(total)
