"""What a merchant that left its policy and its ledger as 'fedrec client init' made them says to a plan."""

from __future__ import annotations

import math

from fedrec.clients.policy import TEMPLATE, MerchantPolicy
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.counts import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.filter import Training, read
from fedrec.privacy.derive import Derived, reported_views
from fedrec.protocol.plan import TrainingPlan


def refusal_by_defaults(plan: TrainingPlan, derived: Derived) -> str | None:
    """Return why such a merchant would refuse the plan, None where it would join.

    Roster and server are taken to be the ones that it approved.
    """
    policy = MerchantPolicy.parse(TEMPLATE)
    try:
        policy.check(plan)
        policy.check_cost(plan, derived)
    except RefusedError as error:
        return str(error)
    multiplier = reported_views(plan, derived.noise).server
    steps = plan.rounds * plan.local_steps
    training = Training(
        step=Event(plan.sample_rate, multiplier, 1),
        planned=steps,
        charged=steps,
        beta=derived.noise.beta,
    )
    epsilon, delta = policy.lifetime_epsilon or math.inf, policy.lifetime_delta or 0.0
    reading = read([training], releases=[count_event()], epsilon=epsilon, delta=delta)
    if reading.fits:
        return None
    return f"policy 'lifetime_epsilon': {reading.spent:.6g} > {epsilon:g} at delta {delta:g}"
