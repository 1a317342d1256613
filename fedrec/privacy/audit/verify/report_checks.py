"""Check the numbers in a training's report against its plan and the ledgers' entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .charge_checks import figures_multipliers, multipliers
from .encoding import close
from .epsilon_checks import History
from .epsilons import (
    MIN_DELTA,
    Steps,
    check_epsilon,
    checked_pld_epsilon,
    matches,
    pld_epsilon_of_copies,
    rdp_epsilon,
    rdp_step,
)
from .figures_checks import check_figures
from .ledger import DUPLICATES, ROUNDING_VARIANCE, charges_of, costs_of, is_of_figures
from .outcome import Merchant, Problem
from .plans import Plan
from .reports import MerchantLine, Report
from .summary_checks import kinds_of

COUNT_SIGMA = 20.0
"""Standard deviation of the noise in the count that every merchant of a training declared, in records."""
_COUNT_MULTIPLIER = math.sqrt(COUNT_SIGMA**2 - ROUNDING_VARIANCE)
_SERVER, _BROKEN = 0, 1
"""Position of each view's noise multiplier: the server's, and that of whoever reads single updates."""


def check_report(report: Report, plan: Plan, merchants: Iterable[Merchant]) -> Iterator[Problem]:
    """Check the privacy section of a training's report against its plan and the ledgers.

    Args:
        report: the report.
        plan: the training's plan.
        merchants: the bundle's merchants.

    Yields:
        Each value that differs.
    """
    checks = _ReportChecks(report, plan, list(merchants))
    wrong_steps = list(checks.steps())
    if wrong_steps:
        # All other figures follow from the number of steps.
        yield from wrong_steps
        return
    for check in (
        checks.site_figures,
        checks.aggregation,
        checks.settings,
        checks.epsilons,
        checks.copies,
        checks.rating,
        checks.events,
        checks.cross_check,
        checks.merchants,
    ):
        yield from check()


class _ReportChecks:
    """The checks of one report; each yields the values that differ.

    Args:
        report: the report.
        plan: the training's plan.
        merchants: the bundle's merchants.
    """

    def __init__(self, report: Report, plan: Plan, merchants: Sequence[Merchant]) -> None:
        self._report, self._plan, self._merchants = report, plan, merchants
        self._privacy = report.privacy
        training_id = report.run.training_id
        self._charged = {
            merchant.name: [
                entry["charge"]
                for entry in charges_of(merchant.entries)
                if entry["charge"]["training_id"] == training_id
            ]
            for merchant in merchants
        }
        self._charges = [charge for charges in self._charged.values() for charge in charges]
        self._private = plan.privacy.private
        self._multipliers = multipliers(plan)

    def steps(self) -> Iterator[Problem]:
        """Check that the steps are those charged, or more, but no more than the plan's."""
        steps, plan = self._privacy.steps, self._plan
        least = max(
            (c["round_number"] * c["steps"] for c in self._charges if not is_of_figures(c)), default=0
        )
        if not least <= steps <= plan.rounds * plan.local_steps:
            yield Problem(None, f"the attached report's steps are {steps}; {least} were charged")

    def site_figures(self) -> Iterator[Problem]:
        charged = any(is_of_figures(charge) for charge in self._charges)
        yield from check_figures(self._report.site_figures, self._plan, charged=charged)

    @cached_property
    def _figures(self) -> tuple[float, float] | None:
        """The noise multipliers of the site figures, in both views; None where their round was not begun."""
        section = self._report.site_figures
        # Whether the round was begun, the report says; it can't say no where it was charged.
        begun = any(is_of_figures(charge) for charge in self._charges)
        begun |= section is not None and bool(section["begun"])
        return figures_multipliers(self._plan) if begun and self._plan.site_figures is not None else None

    def aggregation(self) -> Iterator[Problem]:
        for name in ("scheme", "trust"):
            stated = getattr(self._report.secure_aggregation, name)
            if stated != getattr(self._plan, name):
                yield Problem(None, f"the attached report's {name} is not the plan's: {str(stated)[:200]}")

    def settings(self) -> Iterator[Problem]:
        plan = self._plan
        expected = {
            name: getattr(plan, name)
            for name in ("mode", "unit", "sample_rate", "clip", "colluders", "min_contributors")
        }
        expected |= {"adjacency": "add-or-remove", "duplicate_policy": DUPLICATES[plan.unit]}
        expected |= {"delta": plan.delta if self._private else None}
        expected |= {"noise_multiplier": self._multipliers[_SERVER] if self._private else None}
        if any(charge["seeded"] for charge in self._charges):
            expected["seeded"] = True
        for name, value in expected.items():
            stated = getattr(self._privacy, name)
            same = (
                close(stated, value) if isinstance(value, float) and stated is not None else stated == value
            )
            if not same:
                yield Problem(None, f"the attached report's {name} is {stated}, {value} follows")

    @cached_property
    def _betas(self) -> float:
        """What rounding takes off delta."""
        beta = max((charge["beta"] for charge in self._charges), default=MIN_DELTA)
        return float((self._privacy.steps + (self._figures is not None)) * beta)

    def _history(self, view: int) -> Steps:
        """Return the training's noised steps, in one view."""
        figures: Steps = () if self._figures is None else ((1.0, self._figures[view], 1),)
        steps = self._privacy.steps
        training: Steps = ((self._plan.sample_rate, self._multipliers[view], steps),) if steps else ()
        return ((1.0, _COUNT_MULTIPLIER, 1), *figures, *training)

    def epsilons(self) -> Iterator[Problem]:
        def proved(view: int, delta: float) -> float:
            left = delta - self._betas
            if not self._private or left < MIN_DELTA:
                return math.inf
            return checked_pld_epsilon(self._history(view), left)

        stated, delta = self._privacy, self._plan.delta
        for name, recorded, computed in (
            ("epsilon", stated.epsilon, proved(_SERVER, delta)),
            ("epsilon_aggregation_broken", stated.epsilon_aggregation_broken, proved(_BROKEN, delta)),
            ("epsilon_at_1e-5", stated.epsilon_at_usual_delta, proved(_SERVER, 1e-5)),
        ):
            what = f"PLD, the attached report's {name}"
            yield from check_epsilon(recorded, computed, what=what, entry=None)

    def copies(self) -> Iterator[Problem]:
        if set(self._privacy.epsilon_of_copies) != {"2", "4"}:
            yield Problem(None, "the attached report has an epsilon for other numbers of copies than 2 and 4")
            return
        for copies, stated in self._privacy.epsilon_of_copies.items():
            left = self._plan.delta - int(copies) * self._betas
            found = math.inf
            if self._private:
                found = pld_epsilon_of_copies(self._history(_SERVER), left, copies=int(copies))
            # Both are above the exact epsilon, by their discretization.
            if not matches(stated, found, within=5e-3):
                yield Problem(
                    None, f"the attached report's epsilon for {copies} copies is {stated}, not {found:.4g}"
                )

    def rating(self) -> Iterator[Problem]:
        stated, privacy = self._privacy.rating.word, self._privacy
        word = rating(None if privacy.seeded else privacy.epsilon)
        if stated != word:
            yield Problem(None, f"the attached report calls its budget {stated}, it is {word}")

    def events(self) -> Iterator[Problem]:
        training = (self._plan.sample_rate, self._multipliers[_SERVER], self._privacy.steps)
        expected = [_event("training", *training)]
        if self._figures is not None:
            expected.append(_event("figures", 1.0, self._figures[_SERVER], 1))
        expected.append(_event("count", 1.0, COUNT_SIGMA, 1))
        if not _same_events(self._privacy.events, expected):
            yield Problem(None, "the attached report lists other events than plan and counts give")

    def cross_check(self) -> Iterator[Problem]:
        by_rdp = math.inf
        if self._private:
            history = self._history(_SERVER)
            stepped = sum(rdp_step(rate, noise) * count for rate, noise, count in history)
            by_rdp = rdp_epsilon(np.asarray(stepped), self._plan.delta - self._betas)
        stated = self._privacy.cross_checks["rdp"]
        yield from check_epsilon(stated, by_rdp, what="RDP, in the attached report", entry=None)

    def merchants(self) -> Iterator[Problem]:
        known = {merchant.name: merchant for merchant in self._merchants}
        for line in self._privacy.per_merchant:
            merchant = known.get(line.merchant)
            if merchant is not None:
                yield from self._merchant(line, merchant)

    def _merchant(self, line: MerchantLine, merchant: Merchant) -> Iterator[Problem]:
        name, charges = merchant.name, self._charged[merchant.name]
        rounds = len({charge["round_number"] for charge in charges})
        if line.rounds_charged != rounds:
            yield Problem(None, f"the attached report counts {line.rounds_charged} rounds of {name}")
        counts = sum(entry["kind"] == "count" for entry in merchant.entries)
        left = self._plan.delta - sum(charge["beta"] * charge["steps"] for charge in charges)
        own: Steps = ((1.0, _COUNT_MULTIPLIER, counts), *kinds_of(charges))
        epsilon = checked_pld_epsilon(own, left) if left >= MIN_DELTA else math.inf
        last = costs_of(merchant.entries)[-1]["epsilons"]
        lifetime = History.of(merchant.entries).spent(epsilon=float(last["cap_epsilon"]), delta=last["delta"])
        what = f"PLD, epsilon of {name} in the attached report"
        yield from check_epsilon(line.epsilon, epsilon, what=what, entry=None)
        what = f"the lifetime filter, epsilon_lifetime of {name} in the attached report"
        yield from check_epsilon(line.epsilon_lifetime, lifetime, what=what, entry=None)


def rating(epsilon: float | None) -> str:
    """Rate an epsilon in words, on the scale that reports use."""
    scale = ((1.0, "strong"), (4.0, "moderate"), (10.0, "weak"))
    return next(
        (word for most, word in scale if epsilon is not None and epsilon <= most), "little protection"
    )


def _same_events(stated: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> bool:
    if len(stated) != len(events):
        return False
    return all(
        set(said) == set(event)
        and said["kind"] == event["kind"]
        and all(close(said[name], event[name]) for name in ("sample_rate", "noise_multiplier", "steps"))
        for said, event in zip(stated, events, strict=True)
    )


def _event(kind: str, sample_rate: float, noise_multiplier: float, steps: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "sample_rate": sample_rate,
        "noise_multiplier": noise_multiplier,
        "steps": steps,
    }
