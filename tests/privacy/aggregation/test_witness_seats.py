"""Witnesses on the committee: their seats, the numbers that count them, and what the verifier says."""

from __future__ import annotations

import hashlib
import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedrec.clients.policy import MerchantPolicy
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, ProtocolError, RefusedError
from fedrec.privacy.aggregation.committee import check_plan, check_quorum
from fedrec.privacy.aggregation.seats import WitnessSeats, choose_seats, seat_order, seat_risk
from fedrec.privacy.audit.verify import seats as outsider
from fedrec.privacy.audit.verify.charge_checks import check_plan as recheck_plan
from fedrec.privacy.audit.verify.plans import Peer as AuditedPeer
from fedrec.privacy.audit.verify.policy_checks import _broken_by_plan
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.server.cohort_defaults import default_colluders, default_min_contributors
from fedrec.server.settled_options import settle
from fedrec.vision import model_registry
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort


def witnesses(count: int) -> tuple[Peer, ...]:
    return tuple(
        Peer(name=f"w{index}", signing_key=SigningIdentity.generate().public.hex()) for index in range(count)
    )


def witnessed(cohort: Cohort, count: int = 5, **changes: Any) -> TrainingPlan:
    """A plan for all merchants of a small cohort, and as many witnesses, with the default numbers."""
    others = changes.pop("witnesses", witnesses(count))
    found = choose_seats(cohort=cohort.size, colluders=1, witnesses=count)
    numbers = {
        "committee": seat_order(cohort.roster, others)[: found.members],
        "threshold": found.threshold,
        "corrupt_members": found.corrupt,
        "corrupt_witnesses": found.corrupt_witnesses,
        "seat_risk": 0.0,
    }
    return cohort.plan(witnesses=others, **numbers | changes)


@pytest.mark.parametrize("merchants", [3, 4, 5, 8, 10, 20, 40, 100, 280, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 20])
def test_the_default_numbers_withstand_every_choice_of_corrupt_seats(merchants: int, count: int) -> None:
    colluders = default_colluders(merchants)
    found = choose_seats(cohort=merchants, colluders=colluders, witnesses=count)
    drawn = found.members - count
    m, t, f = found.members, found.threshold, found.corrupt
    assert min(merchants, 10) <= drawn <= merchants and 2 * t - m > f and t > f
    assert found.corrupt_witnesses == (max(1, count // 2) if count else 0)
    # The f are every colluder that can have a seat and every corrupt witness, or the plan says the odds.
    if found.risk == 0:
        assert f >= found.corrupt_witnesses + min(colluders, drawn)
    assert found.risk <= 1e-8
    check_quorum(
        cohort=merchants,
        members=m,
        threshold=t,
        min_contributors=default_min_contributors(merchants=merchants, colluders=colluders, drop=Fraction(0)),
        colluders=colluders,
        corrupt_members=f,
        witnesses=WitnessSeats(count=count, corrupt=found.corrupt_witnesses),
    )


@pytest.mark.parametrize(("merchants", "expected"), [(3, (8, 6, 3)), (4, (9, 7, 3)), (100, (18, 13, 7))])
def test_five_witnesses_let_small_cohorts_lose_members(
    merchants: int, expected: tuple[int, int, int]
) -> None:
    found = choose_seats(cohort=merchants, colluders=default_colluders(merchants), witnesses=5)
    assert (found.members, found.threshold, found.corrupt) == expected
    # Two may be absent in the small ones, where three merchants alone have no room.
    assert found.members - found.threshold >= 2


def test_the_quorum_rule_with_witnesses_equals_brute_force() -> None:
    """No split of a committee's honest members, with all corrupt ones on both sides, opens two sets."""
    merchants = 4
    for count, threshold, bad, worse in itertools.product(range(1, 5), range(1, 9), range(5), range(5)):
        members = merchants + count
        try:
            check_quorum(
                cohort=merchants,
                members=members,
                threshold=threshold,
                min_contributors=4,
                colluders=max(1, bad - worse),
                corrupt_members=bad,
                witnesses=WitnessSeats(count=count, corrupt=worse),
            )
            accepted = True
        except ConfigError:
            accepted = False
        splits = range(max(0, members - bad) + 1)
        opens_two = any(min(part, members - bad - part) + bad >= threshold for part in splits)
        among_merchants = bad - worse >= max(1, bad - worse)
        expected = (
            bad >= 1
            and 1 <= worse <= count
            and worse <= bad
            and among_merchants
            and threshold <= members
            and threshold > bad
            and not opens_two
            and 4 - max(1, bad - worse) >= 2
        )
        assert accepted == expected, (count, threshold, bad, worse)


def test_witnesses_sit_first_in_an_order_that_nobody_chooses() -> None:
    roster = tuple(Peer(name=f"m{n}", signing_key=f"{n:064x}") for n in range(6))
    others = tuple(Peer(name=f"w{n}", signing_key=f"{100 + n:064x}") for n in range(3))
    order = seat_order(roster, others)
    start = b"fedrec/seats/1" + bytes.fromhex(roster_fingerprint(roster, others))
    expected = [
        peer.name
        for peers in (others, roster)
        for peer in sorted(
            peers, key=lambda peer: hashlib.sha256(start + bytes.fromhex(peer.signing_key)).digest()
        )
    ]
    assert list(order) == expected == outsider.draw_seats(shown(roster), 9, shown(others))
    assert roster_fingerprint(roster, others) == outsider.fingerprint(shown(roster), shown(others))
    # A party that changes its role, or a witness more, is another roster; without any it is what it was.
    prints = {
        roster_fingerprint(roster, others),
        roster_fingerprint((*roster, others[0]), others[1:]),
        roster_fingerprint(roster, others[:2]),
        roster_fingerprint(roster),
    }
    assert len(prints) == 4
    entries = [[peer.name, peer.signing_key] for peer in roster]
    text = json.dumps(["fedrec/roster/1", entries], separators=(",", ":"))
    assert roster_fingerprint(roster) == hashlib.sha256(text.encode()).hexdigest()


def shown(peers: tuple[Peer, ...]) -> list[AuditedPeer]:
    return [AuditedPeer(peer.name, peer.signing_key) for peer in peers]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"corrupt_witnesses": 0}, "0 corrupt witnesses"),
    ({"corrupt_witnesses": 6}, "6 corrupt witnesses are more than the 5"),
    ({"corrupt_witnesses": 3}, "hold more than 0 of the 1 colluders"),
    ({"corrupt_members": 1, "corrupt_witnesses": 2}, "can't include"),
    ({"threshold": 6}, "two different sets"),
    ({"committee": 4}, "no seat for each of 5 witnesses"),
    ({"committee": "friends"}, "fingerprint draws"),
    ({"seat_risk": 1e-9}, "states a seat risk"),
    ({"scheme": "none", "threshold": 0, "corrupt_members": 0, "committee": ()}, "has no committee"),
]


@pytest.mark.parametrize(("changes", "reason"), BROKEN)
def test_a_plan_that_breaks_a_rule_about_witnesses_is_refused_and_found(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    cohort = Cohort(tmp_path)
    good, servers = witnessed(cohort), {cohort.server.public.hex()}
    check_plan(good)
    assert not list(recheck_plan(audited(good), servers=servers))
    order = good.committee
    if changes.get("committee") == 4:
        changes = changes | {"committee": order[:4], "threshold": 4, "witnesses": good.witnesses}
    elif changes.get("committee") == "friends":
        changes = changes | {"committee": (*order[:5], *order[:4:-1]), "witnesses": good.witnesses}
    else:
        changes = {"witnesses": good.witnesses} | changes
    plan = witnessed(cohort, **changes)
    with pytest.raises(RefusedError, match=reason):
        check_plan(plan)
    assert list(recheck_plan(audited(plan), servers=servers))


def test_witnesses_are_named_once_and_dont_count_as_merchants(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = witnessed(cohort)
    assert plan.cohort == 4 and len(plan.committee) == 9
    for witness in plan.witnesses:
        assert plan.party_key(witness.name).hex() == witness.signing_key
        with pytest.raises(ProtocolError, match="not on the roster"):
            plan.key_of(witness.name)
    for twice in (
        Peer(name="m0", signing_key="0" * 64),
        Peer(name="x", signing_key=cohort.roster[0].signing_key),
    ):
        with pytest.raises(ValidationError, match="twice"):
            witnessed(cohort, 1, witnesses=(twice,))
    with pytest.raises(ValidationError, match="more contributors"):
        witnessed(cohort, min_contributors=5)


def test_the_planner_counts_witnesses_only_where_a_committee_opens_sums() -> None:
    defaults = model_registry.get("cnn").defaults
    found = settle(SimulationConfig(), defaults, merchants=4, witnesses=5)
    assert (found.committee, found.threshold, found.corrupt_members, found.corrupt_witnesses) == (9, 7, 3, 2)
    assert (found.min_contributors, found.colluders) == (3, 1)
    clear = settle(SimulationConfig(secure_aggregation="none"), defaults, merchants=4, witnesses=5)
    assert (clear.committee, clear.corrupt_witnesses) == (0, 0)
    # All five may be corrupt: they alone never open two sets, and one member may be absent.
    strict = settle(SimulationConfig(corrupt_witnesses=5), defaults, merchants=4, witnesses=5)
    assert (strict.committee, strict.threshold, strict.corrupt_members) == (9, 8, 6)
    for count, options in ((5, {"corrupt_witnesses": 6}), (0, {"corrupt_witnesses": 1})):
        with pytest.raises(ConfigError, match="corrupt witness"):
            settle(SimulationConfig.model_validate(options), defaults, merchants=4, witnesses=count)


def test_the_risk_is_that_of_the_merchants_seats_alone() -> None:
    """With 5 witnesses of which 2 are corrupt, f = 13 leaves 11 for the 35 drawn among 1,000."""
    found = choose_seats(
        cohort=1000, colluders=50, members=40, threshold=27, corrupt=13, witnesses=5, corrupt_witnesses=2
    )
    assert found.risk == seat_risk(cohort=1000, colluders=50, members=35, corrupt=11) > 0
    assert outsider.seat_risk(cohort=1000, colluders=50, seats=35, corrupt=11) == pytest.approx(found.risk)


def broken(policy: MerchantPolicy, plan: TrainingPlan) -> set[str]:
    """The rules that the verifier finds broken."""
    charge = {"sample_rate": 1.0, "guaranteed_noise_multiplier": 1.0, "beta": 0.0}
    found = _broken_by_plan(policy.model_dump(mode="json"), audited(plan), charge)
    return {rule for rule, breaks in found.items() if breaks}


def test_a_merchant_demands_seats_for_witnesses_that_it_names(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = witnessed(cohort)
    keys = [witness.signing_key for witness in plan.witnesses]
    cases: list[tuple[int, list[str] | None, str | None]] = [
        (0, None, None),
        (5, None, None),
        (6, None, "least_witnesses"),
        (3, keys[:3], None),
        (4, [*keys[:3], "0" * 64], "least_witnesses"),
        # The plan takes 2 to be corrupt, so that 2 may be anybody's.
        (0, keys[:3], None),
        (0, keys[:2], "witness_keys"),
        (0, [], "witness_keys"),
    ]
    for least, named, rule in cases:
        policy = MerchantPolicy(
            largest_training_epsilon=None,
            least_witnesses=least,
            witness_keys=None if named is None else frozenset(named),
        )
        if rule is None:
            policy.check(plan)
        else:
            with pytest.raises(RefusedError, match=f"policy '{rule}'"):
                policy.check(plan)
        assert broken(policy, plan) == ({rule} if rule else set())
    # All strangers, and a plan that withstands them all.
    strict = witnessed(cohort, threshold=8, corrupt_members=6, corrupt_witnesses=5)
    check_plan(strict)
    MerchantPolicy(largest_training_epsilon=None).check(strict)
    # A policy file that names nobody relies on nobody: a server could run all of the witnesses.
    for rules in (MerchantPolicy(), MerchantPolicy.parse("lifetime_epsilon = 10.0\nlifetime_delta = 1e-5\n")):
        with pytest.raises(RefusedError, match="policy 'witness_keys': 5 witnesses of the plan aren't named"):
            rules.model_copy(update={"largest_training_epsilon": None}).check(plan)
    # Without a committee there is nobody to witness anything.
    clear = cohort.plan(scheme="none", committee=(), threshold=0)
    MerchantPolicy(schemes=frozenset({"none"}), least_witnesses=3).check(clear)
