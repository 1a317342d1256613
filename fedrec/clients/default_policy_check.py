"""Check a plan against the policy and the ledger that 'fedrec client init' creates."""

from __future__ import annotations

from collections.abc import Iterable

from fedrec.clients.charging import figures_charge, round_charge
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.clients.refusals import broken_rule
from fedrec.errors import BudgetExceededError, RefusedError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_contents import Charge, Count
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
    return _refusal_by_rules(policy, plan, derived) or _refusal_by_cap(policy, plan, derived, earlier=())


def refusals_by_defaults(
    plan: TrainingPlan, derived: Derived, *, earlier: Iterable[Charge] = ()
) -> tuple[str, ...]:
    """Return every reason for which a merchant with the default policy refuses a plan.

    Args:
        plan: the plan.
        derived: the parameters derived from it.
        earlier: what is known to be in the merchant's ledger already, beside one noised count.

    Returns:
        The reasons, one for each rule that is broken; empty if the merchant would join.
    """
    default, policy = MerchantPolicy.parse(TEMPLATE), MerchantPolicy.parse(TEMPLATE)
    code = () if plan.model_code is None else (plan.model_code,)
    open_to_all = MerchantPolicy.without_limits(modes={plan.mode}, schemes={plan.scheme}, model_code=code)
    reasons: list[str] = []
    while (reason := _refusal_by_rules(policy, plan, derived)) is not None:
        reasons.append(reason)
        broken = broken_rule(reason)
        if broken is None or getattr(policy, broken) == getattr(open_to_all, broken):
            break
        # The others are found once this rule is out of the way.
        policy = policy.model_copy(update={broken: getattr(open_to_all, broken)})
    if plan.privacy_mode.private and derived.spend.multiplier > 0:
        cap = _refusal_by_cap(default, plan, derived, earlier=earlier)
        reasons += [] if cap is None else [cap]
    return tuple(reasons)


def _refusal_by_rules(policy: MerchantPolicy, plan: TrainingPlan, derived: Derived) -> str | None:
    try:
        policy.check(plan)
        policy.check_cost(plan, derived)
        if plan.committee:
            policy.check_window(plan)
    except RefusedError as error:
        return str(error)
    return None


def _refusal_by_cap(
    policy: MerchantPolicy, plan: TrainingPlan, derived: Derived, *, earlier: Iterable[Charge]
) -> str | None:
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
    for charged in earlier:
        lifetime.add(charged)
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
            lifetime, charge, rounds=plan.rounds, figures=figures_charge(plan, derived, charge)
        )
    except BudgetExceededError as error:
        return str(error)
    return None
