"""Check plans, and the sensitivity and noise of each charge against its plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .encoding import EXACT, close
from .epsilons import Steps
from .ledger import charges_of, is_of_figures
from .modes import MODES
from .noise_shares import LEAST_SHARE, SMOOTHING, charged_own, check_levels, own_multiplier
from .outcome import Merchant, Problem
from .plans import Plan
from .seats import check_committee
from .sensitivities import plan_sensitivity, sensitivity
from .trust import check_trust, counts_sum

LARGEST_DELTA = 0.01
_SAME = {
    "sample_rate": "sample_rate", "clip": "clip", "clipping": "clipping", "delta": "delta",
    "mode": "mode", "unit": "unit", "model": "model", "run": "nonce", "dimension": "dimension",
    "min_contributors": "min_contributors", "colluders": "colluders", "steps": "local_steps",
    "rounds": "rounds",
}  # fmt: skip
"""Fields of a charge, and those of its plan that they must equal."""


def check_plan(plan: Plan, *, servers: Container[str]) -> Iterator[Problem]:
    """Check a plan against the servers' keys and the rules that every merchant applies.

    Args:
        plan: the plan.
        servers: the bundle's server keys.

    Yields:
        Each rule that the plan breaks.
    """
    here = f"the plan of nonce {plan.nonce[:32]}"
    parties = [*plan.roster, *plan.witnesses]
    names = [peer.name for peer in parties]
    keys, cohort = {peer.signing_key for peer in parties}, len(plan.roster)
    least, colluders = plan.min_contributors, plan.colluders
    if plan.server_key not in servers:
        yield Problem(None, f"{here} is another server's than the bundle says")
    if len(set(names)) != len(names) or len(keys) != len(names):
        yield Problem(None, f"{here} has a merchant or a key twice on its roster")
    if not 1 <= least <= cohort or not 0 <= colluders <= cohort:
        yield Problem(None, f"{here} asks for {least} contributors of {cohort}, {colluders} colluding")
    if plan.privacy.shared and (colluders < 1 or least - colluders < 2):
        yield Problem(None, f"{here} leaves fewer than two honest shares of noise in a sum")
    most = min(LARGEST_DELTA, 1 / max(1, plan.records_total))
    if plan.privacy.private and plan.delta > most:
        yield Problem(
            None, f"{here} has a delta of {plan.delta:.3g}: above {most:.3g} it allows whole records"
        )
    yield from check_levels(plan, here)
    figures = plan.site_figures
    if figures is not None and (figures.noise_multiplier is not None) != plan.privacy.private:
        yield Problem(None, f"{here} has site figures whose noise doesn't go with mode {plan.mode}")
    yield from check_trust(plan, here)
    yield from check_committee(plan, here)


def multipliers(plan: Plan) -> tuple[float, float]:
    """Return a plan's noise multipliers: of the server's view, and of a merchant's noise in every sum."""
    fullest = max(plan.noise_levels, default=plan.min_contributors)
    return _multipliers(plan, plan.noise_multiplier or 0.0, dimension=plan.dimension, contributors=fullest)


def figures_multipliers(plan: Plan) -> tuple[float, float]:
    """Return the noise multipliers of a plan's site figures, whose noise all stays in the sum."""
    return _multipliers(
        plan,
        plan.figures_noise,
        dimension=figures_dimension(plan),
        contributors=plan.min_contributors,
    )


def plan_steps(plan: Plan) -> Steps:
    """Return all that a merchant is charged for by a plan, in the server's view; site figures come last."""
    steps = plan.rounds * plan.local_steps
    training = (float(plan.sample_rate), multipliers(plan)[0], steps)
    if plan.site_figures is None:
        return (training,)
    return (training, (1.0, figures_multipliers(plan)[0], 1))


def figures_dimension(plan: Plan) -> int:
    """Return the number of site figures: a count for each class, the correct ones, and the loss."""
    return len(plan.classes) + 2


def _multipliers(plan: Plan, planned: float, *, dimension: int, contributors: int) -> tuple[float, float]:
    own = own_multiplier(
        planned,
        mode=plan.mode,
        sensitivity=plan_sensitivity(dimension),
        honest=contributors - plan.colluders,
    )
    return (planned if counts_sum(plan) else own), own


def check_charges(entries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    """Check each charge's sensitivity and noise against the values that they are computed from."""
    for entry in charges_of(entries):
        charge, number = entry["charge"], entry["sequence"]
        delta = sensitivity(scale=charge["scale"], dimension=charge["dimension"], beta=charge["beta"])
        if not close(charge["sensitivity"], delta):
            yield Problem(number, f"its sensitivity is {charge['sensitivity']:.6g}, not {delta:.6g}")
        planned = charge["planned_noise_multiplier"]
        own = charged_own(charge, sensitivity=delta)
        if (planned != 0) != MODES[charge["mode"]].private:
            yield Problem(number, f"a noise multiplier of {planned:g} doesn't go with mode {charge['mode']}")
        if not close(charge["broken_noise_multiplier"], own):
            yield Problem(
                number,
                f"its own share of noise is {charge['broken_noise_multiplier']:.6g}, not the {own:.6g} "
                "that follows",
            )
        if planned and math.hypot(own * delta, SMOOTHING) < LEAST_SHARE * (1 - EXACT):
            yield Problem(number, f"a merchant's share of its noise is below {LEAST_SHARE:g} grid units")
        if not any(close(charge["guaranteed_noise_multiplier"], value) for value in (planned, own)):
            yield Problem(
                number,
                f"it guarantees a noise multiplier of {charge['guaranteed_noise_multiplier']:.6g}, "
                f"{planned:.6g} is planned",
            )


def check_against_plans(merchant: Merchant, plans: Mapping[str, Plan]) -> Iterator[Problem]:
    """Check a merchant's charges and answers against their trainings' plans.

    Args:
        merchant: the merchant; gets a gap if plans are missing.
        plans: the bundle's plans by training id.

    Yields:
        Each difference.
    """
    without: Counter[str] = Counter()
    for other in merchant.entries:
        if other["kind"] == "answer":
            yield from _answer_problems(merchant, other, plans)
    for entry in charges_of(merchant.entries):
        training_id = entry["charge"]["training_id"]
        if training_id in plans:
            yield from _charge_problems(merchant, entry, plans[training_id])
        else:
            without[training_id] += 1
    if without:
        merchant.gaps.append(
            f"{sum(without.values())} charges of {len(without)} trainings whose plans aren't here"
        )


def _charge_problems(merchant: Merchant, entry: Mapping[str, Any], plan: Plan) -> Iterator[Problem]:
    """Check a charge, of a training's round or of its site figures, against the training's plan."""
    charge, number = entry["charge"], entry["sequence"]
    stated, noise, (guaranteed, own) = plan, plan.noise_multiplier or 0.0, multipliers(plan)
    if is_of_figures(charge):
        if plan.site_figures is None:
            yield Problem(number, "it is of site figures, which the plan doesn't ask for")
            return
        noise, (guaranteed, own) = plan.figures_noise, figures_multipliers(plan)
        stated = replace(plan, sample_rate=1.0, clip=1.0, local_steps=1, dimension=figures_dimension(plan))
    for name, planned in _SAME.items():
        term = getattr(stated, planned)
        if charge[name] != term:
            yield Problem(number, f"its {name} is {charge[name]}, the plan's is {term}")
    if not close(charge["planned_noise_multiplier"], noise):
        yield Problem(
            number, f"its noise multiplier is {charge['planned_noise_multiplier']}, the plan's {noise}"
        )
    if not close(charge["guaranteed_noise_multiplier"], guaranteed):
        yield Problem(
            number,
            f"it guarantees a noise multiplier of {charge['guaranteed_noise_multiplier']:.6g}; the plan "
            f"with scheme {plan.scheme} gives {guaranteed:.6g}",
        )
    if not close(charge["broken_noise_multiplier"], own):
        yield Problem(
            number,
            f"its own share of noise is {charge['broken_noise_multiplier']:.6g}; the plan's noise levels "
            f"give {own:.6g}",
        )
    if charge["round_number"] == 1 and charge["model_hash"] != plan.initial_model_hash:
        yield Problem(number, "the first round's model is not the one that the plan names")
    keys = {peer.name: peer.signing_key for peer in plan.roster}
    if keys.get(merchant.name) != merchant.key_of(number):
        yield Problem(number, "the plan's roster has another key for this merchant")


def _answer_problems(
    merchant: Merchant, entry: Mapping[str, Any], plans: Mapping[str, Plan]
) -> Iterator[Problem]:
    answer, plan = entry["answer"], plans.get(entry["answer"]["training_id"])
    if plan is None:
        return
    if merchant.name not in plan.committee:
        yield Problem(entry["sequence"], "it answers in a training on whose committee its merchant is not")
    if answer["round_number"] > plan.rounds + (plan.site_figures is not None):
        yield Problem(entry["sequence"], "it answers in a round beyond the plan's")
