"""Check a plan against the policy and the ledger that 'fedrec client init' creates."""

from __future__ import annotations

from fedrec.clients.charging import round_charge
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.errors import BudgetExceededError, RefusedError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.lifetime_cap import LifetimeCap
from fedrec.privacy.accounting.lifetime_spend import Lifetime
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.plan import TrainingPlan


def refusal_by_defaults(plan: TrainingPlan, derived: Derived) -> str | None:
    """Return the reason for which a merchant with the default policy and a new ledger refuses a plan.

    Roster and server are assumed to be those that the merchant approved.

    Args:
        plan: the plan.
        derived: the parameters derived from it.

    Returns:
        The reason, or None if the merchant would join.

    """
    policy = MerchantPolicy.parse(TEMPLATE)
    try:
        policy.check(plan)
        policy.check_cost(plan, derived)
        if plan.committee:
            policy.check_window(plan)
    except RefusedError as error:
        return str(error)
    lifetime = Lifetime()
    lifetime.add(
        Count(
            number=1,
            unit=plan.unit,
            size=0,
            sigma=COUNT_SIGMA,
            delta=plan.delta,
            code=code_name(),
            policy_hash=policy.hash,
            seeded=False,
        )
    )
    charge = round_charge(
        plan,
        derived,
        round_number=1,
        model_hash=plan.initial_model_hash,
        policy_hash=policy.hash,
        seeded=False,
    )
    try:
        LifetimeCap(policy.lifetime_epsilon, policy.lifetime_delta).check_ahead(
            lifetime, charge, rounds=plan.rounds
        )
    except BudgetExceededError as error:
        return str(error)
    return None
