"""Check plans, and the sensitivity and noise of each charge against its plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from .encoding import EXACT, close
from .ledger import charges_of
from .modes import MODES
from .outcome import Merchant, Problem
from .seats import check_committee
from .trust import check_trust, counts_sum

TRUNCATION_BETA = 2.0**-60
"""The part of beta for truncated samples; the rest is for rounding."""
FLOAT_SLACK = 2.0**-16
"""Relative excess of a clipped gradient over the clipping norm by floating point."""
INFLATION = 1.025
"""Largest ratio of the sensitivity to the clipping norm on a plan's grid, which is the coarsest such grid."""
BETA = 1e-12
"""Probability per step that the sensitivity is exceeded, in the derivation of a plan's grid."""
LARGEST_DELTA = 0.01
SMOOTHING, LEAST_SHARE = 3.0, 8.0
"""In grid units: discrete noise of variance V, of shares of at least 8, counts as a Gaussian of V - 9."""


def check_plan(plan: Mapping[str, Any], *, servers: Container[str]) -> Iterator[Problem]:
    """Check a plan against the servers' keys and the rules that every merchant applies.

    Args:
        plan: the plan, as parsed from JSON.
        servers: the bundle's server keys.

    Yields:
        Each rule that the plan breaks.
    """
    here = f"the plan of nonce {str(plan['nonce'])[:32]}"
    parties = [*plan["roster"], *plan.get("witnesses", ())]
    names = [peer["name"] for peer in parties]
    keys, cohort = {peer["signing_key"] for peer in parties}, len(plan["roster"])
    least, colluders = plan["min_contributors"], plan["colluders"]
    if plan["server_key"] not in servers:
        yield Problem(None, f"{here} is another server's than the bundle says")
    if len(set(names)) != len(names) or len(keys) != len(names):
        yield Problem(None, f"{here} has a merchant or a key twice on its roster")
    if not 1 <= least <= cohort or not 0 <= colluders <= cohort:
        yield Problem(None, f"{here} asks for {least} contributors of {cohort}, {colluders} colluding")
    if MODES[plan["mode"]].shared and (colluders < 1 or least - colluders < 2):
        yield Problem(None, f"{here} leaves fewer than two honest shares of noise in a sum")
    most = min(LARGEST_DELTA, 1 / max(1, plan["records_total"]))
    if MODES[plan["mode"]].private and plan["delta"] > most:
        yield Problem(
            None, f"{here} has a delta of {plan['delta']:.3g}: above {most:.3g} it allows whole records"
        )
    yield from check_trust(plan, here)
    yield from check_committee(plan, here)


def multipliers(plan: Mapping[str, Any]) -> tuple[float, float]:
    """Return a plan's noise multipliers: of the server's view, and of one merchant's own share."""
    planned = plan["noise_multiplier"] or 0.0
    own = _own(planned, plan, sensitivity=plan_sensitivity(plan["dimension"]))
    return (planned if counts_sum(plan) else own), own


def noise_share(planned: float, terms: Mapping[str, Any], *, sensitivity: float) -> float:
    """Compute the noise share that each merchant adds.

    Args:
        planned: the noise multiplier planned for a sum.
        terms: a plan or a charge: mode, fewest contributors and colluders.
        sensitivity: Delta, in grid units.

    Returns:
        The parameter of the discrete Gaussian, in grid units.
    """
    if planned == 0:
        return 0.0
    honest = terms["min_contributors"] - terms["colluders"] if MODES[terms["mode"]].shared else 1
    return math.sqrt(((planned * sensitivity) ** 2 + SMOOTHING**2) / max(1, honest))


def _own(planned: float, terms: Mapping[str, Any], *, sensitivity: float) -> float:
    """Return the noise multiplier of one merchant's own share."""
    if planned == 0 or not MODES[terms["mode"]].shared:
        return float(planned)
    variance = noise_share(planned, terms, sensitivity=sensitivity) ** 2
    return math.sqrt(max(0.0, variance - SMOOTHING**2)) / sensitivity


@lru_cache(maxsize=256)
def plan_sensitivity(dimension: int) -> float:
    """Compute the sensitivity on a plan's grid.

    Args:
        dimension: d, number of parameters.

    Returns:
        Delta, in grid units.

    Raises:
        ValueError: no grid is fine enough.
    """
    for bits in range(41):
        bound = sensitivity(scale=1 << bits, dimension=dimension, beta=BETA)
        if bound <= INFLATION * (1 << bits):
            return bound
    raise ValueError(f"there is no grid for {dimension} parameters")


def check_charges(entries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Check each charge's sensitivity and noise against the values that they are computed from."""
    for entry in charges_of(entries):
        charge, number = entry["charge"], entry["sequence"]
        delta = sensitivity(scale=charge["scale"], dimension=charge["dimension"], beta=charge["beta"])
        if not close(charge["sensitivity"], delta):
            yield Problem(number, f"its sensitivity is {charge['sensitivity']:.6g}, not {delta:.6g}")
        planned = charge["planned_noise_multiplier"]
        own = _own(planned, charge, sensitivity=delta)
        if (planned != 0) != MODES[charge["mode"]].private:
            yield Problem(number, f"a noise multiplier of {planned:g} doesn't go with mode {charge['mode']}")
        if not close(charge["broken_noise_multiplier"], own):
            yield Problem(
                number,
                f"its own share of noise is {charge['broken_noise_multiplier']:.6g}, not the {own:.6g} "
                "that follows",
            )
        if planned and noise_share(planned, charge, sensitivity=delta) < LEAST_SHARE * (1 - EXACT):
            yield Problem(number, f"a merchant's share of its noise is below {LEAST_SHARE:g} grid units")
        if not any(close(charge["guaranteed_noise_multiplier"], value) for value in (planned, own)):
            yield Problem(
                number,
                f"it guarantees a noise multiplier of {charge['guaranteed_noise_multiplier']:.6g}, "
                f"{planned:.6g} is planned",
            )


@lru_cache(maxsize=1024)
def sensitivity(*, scale: int, dimension: int, beta: float) -> float:
    """Bound the L2 norm of one record's change of a rounded sum, except with probability beta.

    This is the bound of Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for
    Federated Learning with Secure Aggregation", section 4, times the floating-point slack. A part of beta is
    for truncated samples.

    Args:
        scale: S, grid units per clipping norm.
        dimension: d, number of coordinates.
        beta: probability per step that the bound is exceeded.

    Returns:
        Delta, in grid units.
    """
    rounding = beta - TRUNCATION_BETA if beta > TRUNCATION_BETA else beta
    deviation = math.sqrt(2.0 * math.log(1.0 / rounding)) * (scale + math.sqrt(dimension) / 2.0)
    return (1.0 + FLOAT_SLACK) * math.sqrt(scale**2 + dimension / 4.0 + deviation)


def check_against_plans(merchant: Merchant, plans: Mapping[str, Any]) -> Iterator[Problem]:
    """Check a merchant's charges and answers against their trainings' plans.

    Args:
        merchant: the merchant; gets a gap if plans are missing.
        plans: the bundle's plans by training id.

    Yields:
        Each difference.
    """
    without: Counter[str] = Counter()
    same = {
        "sample_rate": "sample_rate", "clip": "clip", "clipping": "clipping", "delta": "delta",
        "mode": "mode", "unit": "unit", "model": "model", "run": "nonce", "dimension": "dimension",
        "min_contributors": "min_contributors", "colluders": "colluders", "steps": "local_steps",
        "rounds": "rounds",
    }  # fmt: skip
    for other in merchant.entries:
        if other["kind"] == "answer":
            yield from _answer_problems(merchant, other, plans)
    for entry in charges_of(merchant.entries):
        charge, number = entry["charge"], entry["sequence"]
        plan = plans.get(charge["training_id"])
        if plan is None:
            without[charge["training_id"]] += 1
            continue
        for name, planned in same.items():
            if charge[name] != plan[planned]:
                yield Problem(number, f"its {name} is {charge[name]}, the plan's is {plan[planned]}")
        noise, (guaranteed, _) = plan["noise_multiplier"] or 0.0, multipliers(plan)
        if not close(charge["planned_noise_multiplier"], noise):
            yield Problem(
                number, f"its noise multiplier is {charge['planned_noise_multiplier']}, the plan's {noise}"
            )
        if not close(charge["guaranteed_noise_multiplier"], guaranteed):
            yield Problem(
                number,
                f"it guarantees a noise multiplier of {charge['guaranteed_noise_multiplier']:.6g}; the plan "
                f"with scheme {plan['scheme']} gives {guaranteed:.6g}",
            )
        if charge["round_number"] == 1 and charge["model_hash"] != plan["initial_model_hash"]:
            yield Problem(number, "the first round's model is not the one that the plan names")
        keys = {peer["name"]: peer["signing_key"] for peer in plan["roster"]}
        if keys.get(merchant.name) != merchant.key_of(number):
            yield Problem(number, "the plan's roster has another key for this merchant")
    if without:
        merchant.gaps.append(
            f"{sum(without.values())} charges of {len(without)} trainings whose plans aren't here"
        )


def _answer_problems(
    merchant: Merchant, entry: Mapping[str, Any], plans: Mapping[str, Any]
) -> Iterator[Problem]:
    answer, plan = entry["answer"], plans.get(entry["answer"]["training_id"])
    if plan is None:
        return
    if merchant.name not in plan["committee"]:
        yield Problem(entry["sequence"], "it answers in a training on whose committee its merchant is not")
    if answer["round_number"] > plan["rounds"]:
        yield Problem(entry["sequence"], "it answers in a round beyond the plan's")
