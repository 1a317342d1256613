"""Recompute what a report says of site figures: their noise, their intervals, and what count is detectable.

The opened sum itself isn't in a bundle. From the estimates, the plan and the number of contributors follows
everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

from .charge_checks import figures_dimension, figures_multipliers
from .epsilons import MIN_DELTA, check_epsilon, checked_pld_epsilon
from .noise_shares import needed_variance
from .outcome import Problem
from .plans import Plan
from .sensitivities import plan_grid

WEIGHTS = {"count": 0.8, "correct": 0.48, "loss": 0.36}
"""Weights of class, correctness and loss in a vector of a unit; their squares add up to 1."""
CONFIDENCE = 0.95
ROUNDING = 0.25
_CLOSE = 1e-6


def check_figures(section: Mapping[str, Any] | None, plan: Plan, *, charged: bool) -> Iterator[Problem]:
    """Check the section ``site_figures`` of a report.

    Args:
        section: the section; None where the report has none.
        plan: the training's plan.
        charged: whether a merchant in the bundle was charged for them.

    Yields:
        Each value that differs.
    """
    if (section is None) != (plan.site_figures is None):
        yield Problem(None, "the attached report's site figures are not what the plan asks for")
    if section is None or plan.site_figures is None:
        return
    if charged and not section["begun"]:
        yield Problem(None, "the attached report says that site figures were not begun; they were charged")
    private = plan.privacy.private
    for name, noise in zip(("epsilon", "epsilon_aggregation_broken"), figures_multipliers(plan), strict=True):
        left = plan.delta - 1e-12
        found = checked_pld_epsilon(((1.0, noise, 1),), left) if private and left >= MIN_DELTA else math.inf
        what = f"PLD, {name} of the attached report's site figures"
        yield from check_epsilon(section[name], found, what=what, entry=None)
    if not section["opened"]:
        return
    labels = [line["label"] for line in section["classes"]]
    contributors = section["contributors"]
    if labels != list(plan.classes):
        yield Problem(None, "the attached report's site figures are of other classes than the plan's")
    if not plan.min_contributors <= contributors <= len(plan.roster):
        yield Problem(None, f"the attached report's site figures are of {contributors} contributors")
        return
    for name, value in _follows(section, plan).items():
        stated = _stated(section, name)
        if value is None or stated is None:
            same = stated is value
        else:
            same = math.isclose(stated, value, rel_tol=_CLOSE, abs_tol=_CLOSE)
        if not same:
            yield Problem(None, f"the attached report's site figures: {name} is {stated}, {value} follows")


def _stated(section: Mapping[str, Any], name: str) -> Any:
    """Return a value of a section by its path, such as ``classes 0 low``."""
    found: Any = section
    for part in name.split():
        found = found[int(part)] if part.isdigit() else found[part]
    return found


def _follows(section: Mapping[str, Any], plan: Plan) -> dict[str, float | None]:
    """Return what follows from the estimates, by its path in the section."""
    classes = len(plan.classes)
    quantile = NormalDist().inv_cdf
    scale, bound = plan_grid(figures_dimension(plan))
    honest = plan.min_contributors - plan.colluders if plan.privacy.shared else 1
    share = needed_variance(plan.figures_noise, sensitivity=bound) / honest
    whole = math.sqrt(section["contributors"] * (share + ROUNDING)) / scale
    largest = 2 * math.log(max(2, classes))
    deviation = {name: whole / weight for name, weight in WEIGHTS.items()}
    deviation["loss"] *= largest
    threshold = quantile(1 - (1 - CONFIDENCE) / classes) * deviation["count"]
    found: dict[str, float | None] = {
        "largest_loss": largest,
        "confidence": CONFIDENCE,
        "threshold": threshold,
        "detectable": float(math.ceil(threshold + quantile(CONFIDENCE) * deviation["count"])),
    }
    found |= {f"deviation {name}": value for name, value in deviation.items()}
    reach = quantile(1 - (1 - CONFIDENCE) / (2 * classes)) * deviation["count"]
    for at, line in enumerate(section["classes"]):
        found[f"classes {at} low"], found[f"classes {at} high"] = line["count"] - reach, line["count"] + reach
        found[f"classes {at} found"] = float(line["count"] > threshold)
    records = math.fsum(line["count"] for line in section["classes"])
    spread = deviation["count"] * math.sqrt(classes)
    z = quantile((1 + CONFIDENCE) / 2)
    found["records estimate"] = records
    for name, own in (
        ("records", spread),
        ("correct", deviation["correct"]),
        ("loss_sum", deviation["loss"]),
    ):
        value = section[name]["estimate"]
        found[f"{name} low"], found[f"{name} high"] = value - z * own, value + z * own
    for name, above, own in (
        ("accuracy", "correct", deviation["correct"]),
        ("mean_loss", "loss_sum", deviation["loss"]),
    ):
        low, high = _ratio(section[above]["estimate"], records, z * own, z * spread)
        found[f"{name} estimate"] = section[above]["estimate"] / records if records else None
        found[f"{name} low"], found[f"{name} high"] = low, high
    return found


def _ratio(above: float, below: float, above_reach: float, below_reach: float) -> tuple[float | None, ...]:
    """Return the ends of Fieller's interval of a ratio, None where it has none: the roots of a quadratic."""
    leading, constant = below**2 - below_reach**2, above**2 - above_reach**2
    if leading <= 0:
        return None, None
    root = math.sqrt(max(0.0, (above * below) ** 2 - leading * constant))
    return (above * below - root) / leading, (above * below + root) / leading
