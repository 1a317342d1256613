"""The committee's seats: the draw, how many corrupt ones are withstood, and the chance of more."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from fedrec.clients.policy import MerchantPolicy
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.aggregation.committee import LARGEST_SEAT_RISK, check_plan, check_quorum
from fedrec.privacy.aggregation.seats import (
    LARGEST_FOR_CERTAIN,
    PLANNED_SEAT_RISK,
    choose_seats,
    seat_order,
    seat_risk,
)
from fedrec.privacy.audit.verify import seats as outsider
from fedrec.privacy.audit.verify.charge_checks import check_plan as recheck_plan
from fedrec.privacy.audit.verify.plans import Peer as AuditedPeer
from fedrec.privacy.audit.verify.policy_checks import _broken_by_plan
from fedrec.privacy.audit.verify.trust import check_trust
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import Peer
from fedrec.server.cohort_defaults import default_colluders, default_min_contributors
from fedrec.server.settled_options import settle
from fedrec.vision import model_registry
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort


def peers(count: int, *, start: int = 0) -> tuple[Peer, ...]:
    return tuple(Peer(name=f"m{i}", signing_key=f"{start + i:064x}") for i in range(count))


def quorums_share_an_honest_member(members: int, threshold: int, corrupt: int) -> bool:
    """By brute force: whichever seats answer twice, no two sets get a quorum each, nor they alone."""
    everybody = range(members)
    for lying in itertools.combinations(everybody, min(corrupt, members)):
        if len(lying) >= threshold:
            return False
        honest = members - len(lying)
        # Honest members answer one set each: the server shares them out as it likes.
        if any(
            a + len(lying) >= threshold and honest - a + len(lying) >= threshold for a in range(honest + 1)
        ):
            return False
    return True


@pytest.mark.parametrize("members", range(1, 9))
def test_the_quorum_rule_equals_brute_force(members: int) -> None:
    for threshold, corrupt in itertools.product(range(1, members + 1), range(1, members + 1)):
        try:
            check_quorum(
                cohort=members + 3,
                members=members,
                threshold=threshold,
                min_contributors=members + 3,
                colluders=1,
                corrupt_members=corrupt,
            )
            accepted = True
        except ConfigError:
            accepted = False
        assert accepted == quorums_share_an_honest_member(members, threshold, corrupt)


@pytest.mark.parametrize(
    ("cohort", "colluders", "members", "threshold", "corrupt"),
    [
        (3, 1, 3, 3, 1),
        (4, 1, 4, 3, 1),
        (8, 1, 8, 6, 1),
        (10, 1, 10, 7, 1),
        (60, 3, 10, 7, 3),
        (100, 5, 12, 9, 5),
        (200, 10, 27, 19, 10),
        (280, 14, 39, 27, 14),
        (1000, 50, 40, 27, 13),
    ],
)
def test_the_default_committee_of_each_size_of_cohort_is_the_stated_one(
    cohort: int, colluders: int, members: int, threshold: int, corrupt: int
) -> None:
    assert default_colluders(cohort) == colluders
    seats = choose_seats(cohort=cohort, colluders=colluders)
    assert (seats.members, seats.threshold, seats.corrupt) == (members, threshold, corrupt)
    assert seats.threshold == 2 * members // 3 + 1
    assert (seats.risk == 0) == (corrupt == colluders)


def test_the_default_of_every_cohort_joins_and_lets_members_be_absent() -> None:
    for cohort in range(3, 1001):
        colluders = default_colluders(cohort)
        seats = choose_seats(cohort=cohort, colluders=colluders)
        minimum = default_min_contributors(merchants=cohort, colluders=colluders, drop=Fraction(0))
        check_quorum(
            cohort=cohort,
            members=seats.members,
            threshold=seats.threshold,
            min_contributors=minimum,
            colluders=colluders,
            corrupt_members=seats.corrupt,
        )
        assert seats.risk <= PLANNED_SEAT_RISK and seats.members <= LARGEST_FOR_CERTAIN
        assert seats.members - seats.threshold >= min(3, (cohort - 1) // 3)
        assert cohort - minimum == (0 if cohort == 3 else math.ceil(cohort / 20))


@settings(max_examples=150, deadline=None)
@given(
    cohort=st.integers(3, 400),
    part=st.floats(0, 1),
    members=st.none() | st.integers(1, 60),
    threshold=st.none() | st.integers(1, 60),
    corrupt=st.none() | st.integers(1, 30),
)
def test_given_numbers_are_kept_and_accepted_ones_are_safe(
    cohort: int, part: float, members: int | None, threshold: int | None, corrupt: int | None
) -> None:
    colluders = max(1, int(part * (cohort - 2)))
    seats = choose_seats(
        cohort=cohort, colluders=colluders, members=members, threshold=threshold, corrupt=corrupt
    )
    assert members in (None, seats.members)
    assert threshold in (None, seats.threshold)
    assert corrupt in (None, seats.corrupt)
    try:
        check_quorum(
            cohort=cohort,
            members=seats.members,
            threshold=seats.threshold,
            min_contributors=cohort,
            colluders=colluders,
            corrupt_members=seats.corrupt,
        )
    except ConfigError:
        return
    assert 2 * seats.threshold - seats.members > seats.corrupt and seats.threshold > seats.corrupt
    tail = float(hypergeom.sf(seats.corrupt, cohort, min(colluders, cohort), seats.members))
    assert seats.risk == pytest.approx(tail, rel=1e-6, abs=1e-15)
    assert seats.risk <= LARGEST_SEAT_RISK


def test_the_documented_risk_of_a_thousand_merchants() -> None:
    found = seat_risk(cohort=1000, colluders=50, members=40, corrupt=13)
    assert found == pytest.approx(8.36e-10, rel=1e-3)
    assert found == pytest.approx(float(hypergeom.sf(13, 1000, 50, 40)), rel=1e-9)


def test_the_risk_is_how_often_draws_seat_too_many() -> None:
    """Draws of real rosters, each with keys of its own, against the law."""
    chance, draws, over = random.Random(5), 4000, 0
    for number in range(draws):
        roster = peers(12, start=chance.getrandbits(200) + number)
        over += sum(name in {"m0", "m1", "m2", "m3"} for name in seat_order(roster)[:5]) > 2
    expected = seat_risk(cohort=12, colluders=4, members=5, corrupt=2)
    assert abs(over / draws - expected) < 5 * math.sqrt(expected / draws)


def test_the_draw_depends_on_every_key_and_name_and_on_no_order() -> None:
    roster = peers(30)
    order = seat_order(roster)
    assert sorted(order) == sorted(peer.name for peer in roster)
    assert seat_order(roster[::-1]) == order
    renamed = (Peer(name="other", signing_key=roster[0].signing_key), *roster[1:])
    assert [n for n in seat_order(renamed) if n != "other"] != [n for n in order if n != "m0"]
    another = (*roster[:29], Peer(name="m29", signing_key="f" * 64))
    assert [n for n in seat_order(another) if n != "m29"] != [n for n in order if n != "m29"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**200), st.integers(0, 60), st.integers(0, 20), st.integers(1, 60))
def test_the_verifier_draws_the_same_seats_and_risk(
    count: int, start: int, colluders: int, corrupt: int, seats: int
) -> None:
    roster, seats = peers(count, start=start), min(seats, count)
    shown = [AuditedPeer(peer.name, peer.signing_key) for peer in roster]
    assert outsider.draw_seats(shown, seats) == list(seat_order(roster)[:seats])
    ours = seat_risk(cohort=count, colluders=colluders, members=seats, corrupt=corrupt)
    theirs = outsider.seat_risk(cohort=count, colluders=colluders, seats=seats, corrupt=corrupt)
    assert theirs == pytest.approx(ours, rel=1e-12, abs=0)


FRIENDS = {"committee": ("m3", "m2", "m1"), "threshold": 3}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (FRIENDS, "not the one that the roster's fingerprint draws"),
        ({"committee": ("m1", "m0", "m2"), "threshold": 3}, "fingerprint draws"),
        ({"committee": ("m1", "m2", "m3"), "threshold": 3}, "fingerprint draws"),
        ({"scheme": "ckks", "committee": ("m1",), "threshold": 1}, "fingerprint draws"),
        ({"threshold": 3, "corrupt_members": 2}, "two different sets"),
        ({"threshold": 4, "corrupt_members": 4}, "by 4 corrupt members alone"),
        ({"corrupt_members": 0, "seat_risk": 0.0}, "least_corrupt_members"),
        ({"seat_risk": 1e-9}, "states a seat risk"),
        ({"colluders": 2, "min_contributors": 4, "seat_risk": 0.0}, "hold more than 1"),
        (
            {"scheme": "ckks", "committee": ("m0",), "threshold": 1, "corrupt_members": 1},
            "has no committee: the plan",
        ),
        (
            {"scheme": "none", "committee": (), "threshold": 0, "seat_risk": 1e-9},
            "has no committee: the plan",
        ),
    ],
)
def test_a_merchant_draws_the_seats_itself(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    """Whatever its policy allows."""
    cohort = Cohort(tmp_path)
    with pytest.raises(RefusedError, match=reason):
        cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(**changes)))
    assert cohort.charges("m0") == []


@pytest.mark.parametrize(
    "changes",
    [
        FRIENDS,
        {"committee": ("m1", "m0", "m2"), "threshold": 3},
        {"scheme": "ckks", "committee": ("m1",), "threshold": 1},
        {"scheme": "ckks", "committee": ("m0", "m1"), "threshold": 1},
        {"scheme": "none", "committee": (), "threshold": 0, "corrupt_members": 1, "seat_risk": 0.0},
        {"threshold": 3, "corrupt_members": 2},
        {"threshold": 4, "corrupt_members": 4},
        {"corrupt_members": 0, "seat_risk": 0.0},
        {"threshold": 0},
        {"threshold": 5},
        {"seat_risk": 1e-9},
        {"colluders": 2, "min_contributors": 4},
    ],
)
def test_the_verifier_finds_what_a_merchant_refuses(tmp_path: Path, changes: dict[str, object]) -> None:
    cohort = Cohort(tmp_path)
    servers = {cohort.server.public.hex()}
    for good in ({}, {"scheme": "ckks", "committee": ("m0",), "threshold": 1}):
        assert not list(recheck_plan(audited(cohort.plan(**good)), servers=servers))
    plan = cohort.plan(**changes)
    with pytest.raises(RefusedError):
        check_plan(plan)
    assert list(recheck_plan(audited(plan), servers=servers))


@pytest.mark.parametrize(
    ("opened_by", "reads", "epsilon_of", "says"),
    [
        ("committee", "nobody_below_threshold", "sum", ""),
        ("committee", "server", "share", ""),
        ("holder", "key_holder", "share", ""),
        ("nobody", "server", "share", ""),
        (
            "holder",
            "nobody_below_threshold",
            "share",
            "that nobody reads single updates, without a committee",
        ),
        ("nobody", "nobody_below_threshold", "sum", "that nobody reads single updates, without a committee"),
        ("committee", "key_holder", "share", "holder of a key reads single updates, and has none"),
        ("committee", "server", "sum", "counts the noise of a whole sum where single updates can be read"),
        ("holder", "key_holder", "sum", "counts the noise of a whole sum where single updates can be read"),
        ("somebody", "server", "share", "doesn't say who can read a single update"),
        ("nobody", "the host", "share", "doesn't say who can read a single update"),
        ("nobody", "server", "all", "doesn't say who can read a single update"),
    ],
)
def test_the_verifier_takes_no_trust_model_that_contradicts_itself(
    tmp_path: Path, opened_by: str, reads: str, epsilon_of: str, says: str
) -> None:
    plan = Cohort(tmp_path).plan()
    trust = {"opened_by": opened_by, "reads_single_updates": reads, "epsilon_of": epsilon_of}
    problems = list(check_trust(audited(plan, trust=trust), "the plan"))
    assert len(problems) == bool(says) and all(says in problem.reason for problem in problems), problems
    assert list(check_trust(audited(plan, trust=trust | {"more": ""}), "the plan"))


def test_the_verifier_takes_no_site_figures_with_noise_of_another_mode(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    for multiplier, found in ((2.0, []), (None, ["noise doesn't go with mode distributed"])):
        asked = audited(cohort.plan(), site_figures={"noise_multiplier": multiplier})
        problems = list(recheck_plan(asked, servers={cohort.server.public.hex()}))
        assert [problem.reason[-len(says) :] for problem, says in zip(problems, found, strict=True)] == found


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("least_committee", {"committee": ("m0", "m1"), "threshold": 2}),
        ("least_corrupt_members", {"corrupt_members": 0, "seat_risk": 0.0}),
        ("largest_seat_risk", {"seat_risk": 1.1e-8}),
    ],
)
def test_a_policys_own_rules_on_seats(tmp_path: Path, rule: str, changes: dict[str, object]) -> None:
    cohort, policy = Cohort(tmp_path), MerchantPolicy(largest_training_epsilon=None)
    plan = cohort.plan(**changes)
    policy.check(cohort.plan())
    with pytest.raises(RefusedError, match=f"'{rule}'"):
        policy.check(plan)
    charge = {"sample_rate": 1.0, "guaranteed_noise_multiplier": 1.0, "beta": 0.0}
    found = _broken_by_plan(policy.model_dump(mode="json"), audited(plan), charge)
    assert {name for name, breaks in found.items() if breaks} == {rule}
    # They are of committees alone.
    clear = cohort.plan(scheme="none", committee=(), threshold=0)
    MerchantPolicy(schemes=frozenset({"none"})).check(clear)


def test_the_verifier_is_fast_on_a_roster_of_millions(tmp_path: Path) -> None:
    plan = audited(
        Cohort(tmp_path).plan(),
        roster=[{"name": "m", "signing_key": "0" * 64}] * 1001,
        committee=["m"] * 500,
        threshold=300,
        trust={},
    )
    assert [problem.reason for problem in outsider.check_committee(plan, "it")] == [
        "it has a committee of 500 among 1001 merchants"
    ]


def test_whoever_grinds_a_roster_chooses_the_seats(tmp_path: Path) -> None:
    """The stated limit: whoever enrols keys of its own choice has the draw; hence a roster is approved."""
    cohort = Cohort(tmp_path, seats=("m3", "m2"))
    plan = cohort.plan()
    assert plan.committee[:2] == ("m3", "m2")
    check_plan(plan)


@pytest.mark.parametrize(
    ("options", "merchants", "says"),
    [
        ({"corrupt_members": 4, "committee": 4}, 10, "--corrupt-members"),
        ({"committee": 12, "threshold": 8, "corrupt_members": 5}, 100, "--threshold must be at least 9"),
        ({"committee": 5, "corrupt_members": 5}, 100, "raise --threshold and --committee"),
        ({"committee": 10, "corrupt_members": 1}, 1000, "raise --corrupt-members"),
        ({"colluders": 900, "committee": 100}, 1000, "--"),
        ({"secure_aggregation": "none", "corrupt_members": 1}, 5, "have no meaning"),
    ],
)
def test_errors_of_the_planner_say_what_to_do(options: dict[str, object], merchants: int, says: str) -> None:
    config = SimulationConfig.model_validate(options)
    with pytest.raises(ConfigError, match=says):
        settle(config, model_registry.get("cnn").defaults, merchants=merchants)


def test_settings_hold_both_numbers() -> None:
    found = settle(SimulationConfig(), model_registry.get("cnn").defaults, merchants=200)
    assert (found.colluders, found.corrupt_members, found.committee, found.threshold) == (10, 10, 27, 19)
    assert (found.min_contributors, found.seat_risk) == (190, 0.0)
    other = settle(SimulationConfig(colluders=3), model_registry.get("cnn").defaults, merchants=200)
    assert (other.colluders, other.corrupt_members, other.committee) == (3, 3, 10)
    assert settle(SimulationConfig(), model_registry.get("cnn").defaults, merchants=3).min_contributors == 3
    many = settle(SimulationConfig(colluders=100), model_registry.get("cnn").defaults, merchants=1000)
    assert 40 < many.committee <= 100 and 0 < many.seat_risk <= PLANNED_SEAT_RISK
