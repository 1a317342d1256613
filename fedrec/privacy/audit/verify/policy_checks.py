"""Check each charge against the merchant's policy that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from .charge_checks import plan_steps
from .encoding import parsed_by_hash, utc
from .epsilon_checks import NOMINAL_CAP
from .epsilons import TOLERANCE, checked_pld_epsilon
from .ledger import costs_of, is_of_figures, round_of
from .modes import MODES
from .outcome import Merchant, Problem
from .plans import Plan
from .seats import fingerprint
from .trust import has_committee, opens_in_clear

GRACE = timedelta(minutes=5)
"""Largest delay of a charge after the merchant's check of the hours; its epsilon is computed in between."""


def check_policies(merchant: Merchant, plans: Mapping[str, Plan]) -> Iterator[Problem]:
    """Check every charge and count against the policy that it names.

    Args:
        merchant: the merchant; gets a gap for each check that isn't possible.
        plans: the bundle's plans by training id.

    Yields:
        Each rule that an entry breaks.
    """
    known = policies_of(merchant)
    missing = by_own_clock = 0
    days: Counter[str] = Counter()
    rounds: set[tuple[str, int]] = set()
    previous = None
    for entry in costs_of(merchant.entries):
        if entry["kind"] == "count":
            rules = known.get(entry["count"]["policy_hash"])
            missing += rules is None
            if rules is not None:
                for rule, breaks in _broken_by_cost(rules, entry).items():
                    if breaks:
                        yield Problem(entry["sequence"], f"it breaks the policy's rule '{rule}'")
            continue
        charge, number, day = entry["charge"], entry["sequence"], entry["created_at"][:10]
        days[day] += round_of(charge) not in rounds
        rounds.add(round_of(charge))
        rules = known.get(charge["policy_hash"])
        if rules is None:
            missing += 1
        else:
            timed = rules["hours"] is not None or rules["largest_rounds_per_day"] is not None
            by_own_clock += timed and rules["clock"] != "utc"
            version = merchant.versions.get(number)
            changed = None not in (previous, version) and previous != version
            broken = _broken_rules(rules, entry, rounds_today=days[day], changed=changed)
            for rule, breaks in _broken_by_plan(rules, plans.get(charge["training_id"]), charge).items():
                broken[rule] = broken.get(rule, False) or breaks
            for rule, breaks in broken.items():
                if breaks:
                    yield Problem(number, f"it breaks the policy's rule '{rule}'")
        previous = merchant.versions.get(number)
    if missing:
        merchant.gaps.append(f"{missing} charges or counts under policies that aren't here")
    if by_own_clock:
        merchant.gaps.append(f"{by_own_clock} charges whose hours or days go by the merchant's own clock")


def policies_of(merchant: Merchant) -> dict[str, Any]:
    """Return the merchant's policies in the bundle, by hash."""
    return parsed_by_hash(merchant.raw["policies"], what="policy")


def _broken_rules(
    rules: Mapping[str, Any], entry: Mapping[str, Any], *, rounds_today: int, changed: bool
) -> dict[str, bool]:
    charge, utc, most = entry["charge"], rules["clock"] == "utc", rules["largest_rounds_per_day"]
    return {
        "modes": charge["mode"] not in rules["modes"],
        "models": rules["models"] is not None and charge["model"] not in rules["models"],
        # Figures take every unit: that is allowed by a rule of its own.
        "largest_sample_rate": not is_of_figures(charge)
        and charge["sample_rate"] > rules["largest_sample_rate"],
        "site_figures": is_of_figures(charge) and not rules.get("site_figures", False),
        "least_noise_multiplier": charge["guaranteed_noise_multiplier"] < rules["least_noise_multiplier"],
        "least_contributors": charge["min_contributors"] < rules["least_contributors"],
        "least_colluders": (MODES[charge["mode"]].shared and charge["colluders"] < rules["least_colluders"]),
        "largest_training_delta": charge["delta"] > (rules["largest_training_delta"] or 1),
        "largest_rounds_per_day": most is not None and utc and rounds_today > most,
        "hours": rules["hours"] is not None and utc and not _within(entry["created_at"], rules["hours"]),
        "changed_data": changed and rules["changed_data"] == "refuse",
        **_broken_by_cost(rules, entry),
    }


def _broken_by_cost(rules: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, bool]:
    """Return which of the rules for all entries with a cost, charges and counts, are broken."""
    about, epsilons = entry[entry["kind"]], entry["epsilons"]
    after, lifetime = epsilons["spent_after"], rules["lifetime_epsilon"]
    whole_delta = about["delta"] if lifetime is None else rules["lifetime_delta"]
    cap = NOMINAL_CAP if lifetime is None else lifetime
    return {
        "units": about["unit"] not in rules["units"],
        "lifetime_epsilon": epsilons["cap_epsilon"] != cap
        or (lifetime is not None and (after is None or after > lifetime)),
        "lifetime_delta": epsilons["delta"] != whole_delta,
    }


def _broken_by_plan(
    rules: Mapping[str, Any], plan: Plan | None, charge: Mapping[str, Any]
) -> dict[str, bool]:
    if plan is None:
        return {}
    largest = rules["largest_training_epsilon"]
    history = plan_steps(plan)
    steps = sum(count for _, _, count in history)
    # At the policy's delta: at its own, a plan could pass by choosing a large delta.
    whole_delta = plan.delta if rules["lifetime_delta"] is None else rules["lifetime_delta"]
    committed = has_committee(plan)
    return _broken_sizes(rules, plan) | {
        # Those who open an encrypted sum may collude too, in every privacy mode.
        "least_colluders": (
            (plan.privacy.shared or not opens_in_clear(plan)) and plan.colluders < rules["least_colluders"]
        ),
        "least_committee": committed and len(plan.committee) < rules["least_committee"],
        "least_corrupt_members": committed and plan.corrupt_members < rules["least_corrupt_members"],
        **(_broken_by_witnesses(rules, plan) if committed else {}),
        "largest_seat_risk": committed and plan.seat_risk > rules["largest_seat_risk"],
        "schemes": plan.scheme not in rules["schemes"],
        "initial_models": (
            rules["initial_models"] is not None and plan.initial_model_hash not in rules["initial_models"]
        ),
        "model_code": plan.model_code is not None and plan.model_code not in rules["model_code"],
        "roster_fingerprint": rules["roster_fingerprint"]
        not in (None, fingerprint(plan.roster, plan.witnesses)),
        "server_key": rules["server_key"] not in (None, plan.server_key),
        "largest_training_epsilon": largest is not None
        and checked_pld_epsilon(history, whole_delta - charge["beta"] * steps) > largest * (1 + TOLERANCE),
    }


def _broken_by_witnesses(rules: Mapping[str, Any], plan: Plan) -> dict[str, bool]:
    """Return which rules on witnesses are broken; an older policy has none."""
    keys, approved = [peer.signing_key for peer in plan.witnesses], rules.get("witness_keys")
    strangers = 0 if approved is None else sum(key not in approved for key in keys)
    return {
        "least_witnesses": len(keys) - strangers < rules.get("least_witnesses", 0),
        "witness_keys": plan.corrupt_witnesses < strangers,
    }


def _broken_sizes(rules: Mapping[str, Any], plan: Plan) -> dict[str, bool]:
    """Return which of the limits on a training's size are broken; None is no limit, as in simulations."""
    sizes = {
        "largest_steps": plan.rounds * plan.local_steps,
        "largest_parameters": plan.dimension,
        "largest_classes": len(plan.classes),
        "largest_image_size": plan.image_size,
        "largest_input_mib": plan.record_values * plan.views * plan.records_largest * 4 / 2**20,
    }
    return {rule: rules[rule] is not None and size > rules[rule] for rule, size in sizes.items()}


def _within(created_at: str, spans: Sequence[str]) -> bool:
    """Return whether a charge was written in one of the spans, such as 22:00-06:00, or up to GRACE later."""
    written, day = utc(created_at), timedelta(days=1)
    for span in spans:
        start, end = (
            datetime.combine(written.date(), time.fromisoformat(part), tzinfo=UTC) for part in span.split("-")
        )
        # A span that ends as it starts is a whole day. One may be shorter than GRACE.
        if (written - start) % day < ((end - start) % day or day) + GRACE:
            return True
    return False
