"""The verifier's rules on plans, charges, answers and receipts, each by itself."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from fedrec.clients.charging import round_charge
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.audit.verify.charge_checks import check_against_plans, check_charges, check_plan
from fedrec.privacy.audit.verify.encoding import canonical
from fedrec.privacy.audit.verify.epsilon_checks import check_epsilons
from fedrec.privacy.audit.verify.keys import check_last_key, rotation_fault
from fedrec.privacy.audit.verify.ledger import check_openings, check_receipts
from fedrec.privacy.audit.verify.outcome import Merchant, Problem
from fedrec.privacy.audit.verify.policy_checks import _broken_by_plan
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.site_figures import SiteFigures
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort

Values = dict[str, Any]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"), size=5)


@pytest.fixture(scope="module")
def plan(cohort: Cohort) -> TrainingPlan:
    return cohort.plan()


def reasons(problems: Any) -> list[str]:
    return [problem.reason for problem in problems]


def plan_reasons(plan: TrainingPlan, **changes: Any) -> list[str]:
    return reasons(check_plan(audited(plan, **changes), servers={plan.server_key}))


def charge_of(plan: TrainingPlan, *, round_number: int = 2, **changes: Any) -> Values:
    charge = round_charge(
        plan,
        derive(plan),
        round_number=round_number,
        model_hash=plan.initial_model_hash,
        policy_hash="00" * 32,
        seeded=False,
    )
    return {"kind": "charge", "sequence": 2, "charge": asdict(charge) | changes}


def answer_of(plan: TrainingPlan, round_number: int) -> Values:
    answer = {"training_id": plan.training_id, "round_number": round_number, "request_hash": "12" * 32}
    return {"kind": "answer", "sequence": 3, "answer": answer}


def against_plan(plan: TrainingPlan, entry: Values, *, name: str = "m0") -> list[Problem]:
    key = {peer.name: peer.signing_key for peer in plan.roster}.get(name, "00" * 32)
    merchant = Merchant(name, key, {}, entries=[entry], keys=[(1, key)])
    return list(check_against_plans(merchant, {plan.training_id: audited(plan)}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate", 0.01),
        ("clip", 0.5),
        ("clipping", "automatic"),
        ("delta", 1e-7),
        ("mode", "local"),
        ("unit", "product"),
        ("model", "other"),
        ("run", "f" * 32),
        ("dimension", 5),
        ("min_contributors", 5),
        ("colluders", 2),
        ("steps", 2),
        ("rounds", 9),
    ],
)
def test_each_term_of_a_charge_is_the_plan_s(plan: TrainingPlan, name: str, value: Any) -> None:
    assert not against_plan(plan, charge_of(plan))
    assert f"its {name} is {value}, the plan's is {charge_of(plan)['charge'][name]}" in reasons(
        against_plan(plan, charge_of(plan, **{name: value}))
    )


def test_a_charge_that_counts_one_share_where_the_plan_counts_the_sum_is_told(plan: TrainingPlan) -> None:
    """Either is a figure that a charge may guarantee; the plan says which."""
    own = charge_of(plan)["charge"]["broken_noise_multiplier"]
    entry = charge_of(plan, guaranteed_noise_multiplier=own)
    assert not list(check_charges([entry]))
    (problem,) = against_plan(plan, entry)
    assert problem.reason.startswith("it guarantees a noise multiplier of")
    assert "the plan with scheme" in problem.reason


def test_what_a_charge_guarantees_is_what_it_plans_or_its_own_share(plan: TrainingPlan) -> None:
    assert not list(check_charges([charge_of(plan)]))
    between = charge_of(plan, guaranteed_noise_multiplier=0.9)
    assert any("is planned" in text for text in reasons(check_charges([between])))
    # A share that is the whole noise would be that of a sum with fewer honest merchants than any has.
    (problem,) = check_charges([charge_of(plan, broken_noise_multiplier=1.0)])
    assert problem.reason.startswith("its own share of noise is 1, not the 0.")


def test_noise_that_does_not_go_with_the_mode_is_told(plan: TrainingPlan) -> None:
    none: Values = dict.fromkeys(
        ("planned_noise_multiplier", "guaranteed_noise_multiplier", "broken_noise_multiplier"), 0.0
    )
    found = reasons(check_charges([charge_of(plan, **none)]))
    assert found == ["a noise multiplier of 0 doesn't go with mode distributed"]
    assert not list(check_charges([charge_of(plan, mode="off", **none)]))


def test_a_share_of_noise_too_narrow_for_the_lemma_is_told(plan: TrainingPlan) -> None:
    """The noise of a sum is that of 8 or 12 grid units, of which two honest merchants have half each."""
    sensitivity = charge_of(plan)["charge"]["sensitivity"]
    for units, narrow in ((8.0, True), (12.0, False)):
        share = math.sqrt((units**2 + 9) / 2 - 9) / sensitivity
        noise = units / sensitivity
        changes = {"planned_noise_multiplier": noise, "guaranteed_noise_multiplier": noise}
        entry = charge_of(plan, **changes, broken_noise_multiplier=share, min_contributors=3, colluders=1)
        told = ["a merchant's share of its noise is below 8 grid units"] if narrow else []
        assert reasons(check_charges([entry])) == told


def test_answers_are_those_of_a_member_in_the_plan_s_rounds(cohort: Cohort, plan: TrainingPlan) -> None:
    member = plan.committee[0]
    assert not against_plan(plan, answer_of(plan, plan.rounds), name=member)
    (problem,) = against_plan(plan, answer_of(plan, plan.rounds + 1), name=member)
    assert problem == Problem(3, "it answers in a round beyond the plan's")
    (problem,) = against_plan(plan, answer_of(plan, 1), name="stranger")
    assert problem == Problem(3, "it answers in a training on whose committee its merchant is not")
    figures = cohort.plan(site_figures=SiteFigures(noise_multiplier=4.0))
    assert not against_plan(figures, answer_of(figures, figures.rounds + 1), name=figures.committee[0])
    assert against_plan(figures, answer_of(figures, figures.rounds + 2), name=figures.committee[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"min_contributors": 0}, "asks for 0 contributors of 5"),
        ({"min_contributors": 6}, "asks for 6 contributors of 5"),
        ({"colluders": 6, "mode": "local"}, "contributors of 5, 6 colluding"),
        ({"colluders": -1, "mode": "local"}, "contributors of 5, -1 colluding"),
        ({"colluders": 0}, "fewer than two honest shares"),
        ({"min_contributors": 3, "colluders": 2}, "fewer than two honest shares"),
        ({"delta": 0.011, "records_total": 10}, "has a delta of 0.011: above 0.01 it allows whole records"),
        ({"delta": 0.0011, "records_total": 1000}, "has a delta of 0.0011: above 0.001 it allows whole"),
    ],
)
def test_a_plan_that_no_merchant_would_join_is_told(plan: TrainingPlan, changes: Values, told: str) -> None:
    assert not plan_reasons(plan)
    assert any(told in text for text in plan_reasons(plan, **changes)), plan_reasons(plan, **changes)


def test_a_name_or_a_key_comes_once_among_merchants_and_witnesses(plan: TrainingPlan) -> None:
    roster = json.loads(plan.canonical_bytes())["roster"]
    for twice in (roster[0] | {"signing_key": "11" * 32}, roster[0] | {"name": "other"}):
        for changes in ({"roster": [*roster, twice]}, {"witnesses": [twice]}):
            told = plan_reasons(plan, **changes)
            assert any("has a merchant or a key twice on its roster" in text for text in told)


def test_a_training_s_epsilon_is_held_against_the_rule_at_the_policy_s_delta(cohort: Cohort) -> None:
    """At its own delta, a plan could keep the rule by choosing a large one."""
    plan = cohort.plan()
    spend, beta = derive(plan).spend, derive(plan).noise.beta
    event = Event(plan.sample_rate, spend.multiplier, plan.rounds)
    at_plan, at_policy = (epsilon_pld([event], delta=delta) for delta in (plan.delta, plan.delta / 1000))
    assert at_policy > 1.2 * at_plan
    rules = json.loads(cohort.policy.rules) | {
        "lifetime_delta": plan.delta / 1000,
        "largest_training_epsilon": (at_plan + at_policy) / 2,
    }
    for delta, broken in ((plan.delta / 1000, True), (None, False)):
        found = _broken_by_plan(rules | {"lifetime_delta": delta}, audited(plan), {"beta": beta})
        assert found["largest_training_epsilon"] is broken


def receipt_reasons(
    identity: SigningIdentity, server: SigningIdentity, entries: list[Values], **changes: Any
) -> list[str]:
    """What is said of a receipt that both have signed."""
    stated = {"merchant": "m0", "moment": "joined", "training_id": "ab" * 32, "round_number": 0}
    stated |= {"head_hash": entries[-1]["hash"]} | changes
    head = {
        "statement": stated,
        "signature": identity.sign(canonical(stated), context=b"fedrec/ledger-head/1").hex(),
    }
    sealed = server.sign(canonical(head), context=b"fedrec/ledger-receipt/1").hex()
    receipt = {"head": head, "server_key": server.public.hex(), "signature": sealed}
    merchant = Merchant(
        "m0",
        identity.public.hex(),
        {"receipts": [receipt], "entries": entries},
        entries=entries,
        keys=[(1, identity.public.hex())],
    )
    found = reasons(check_receipts(merchant, servers=[server.public.hex()], plans={}))
    assert bool(found) or merchant.covered == len(entries)
    return found


def test_a_receipt_is_for_the_merchant_and_the_entry_that_it_names(plan: TrainingPlan) -> None:
    identity, server = SigningIdentity.generate(), SigningIdentity.generate()
    charge = charge_of(plan) | {"sequence": 1, "hash": "01" * 32}
    answer = answer_of(plan, 2) | {"sequence": 2, "hash": "02" * 32}
    of_round = {"training_id": plan.training_id, "round_number": 2}

    def told(entries: list[Values], **changes: Any) -> list[str]:
        return receipt_reasons(identity, server, entries, **changes)

    assert not told([charge])
    assert not told([charge], moment="charged", **of_round)
    assert not told([charge, answer], moment="answered", **of_round)
    for entries, changes, reason in (
        ([charge], {"merchant": "m1"}, "holds a head that this merchant didn't sign"),
        ([charge], {"round_number": 1}, "is for an entry of another round"),
        ([charge], {"moment": "charged", **of_round, "round_number": 1}, "is for an entry of another round"),
        ([charge, answer], {"moment": "charged", **of_round}, "is for an entry of another round"),
    ):
        (found,) = told(entries, **changes)
        assert reason in found


def test_a_commitment_to_photos_needs_a_whole_salt(plan: TrainingPlan) -> None:
    """With a short one, whoever guesses the photos could tell that the guess is right."""
    for salt, holds in ((b"s" * 32, True), (b"s" * 31, False)):
        digest = hashlib.sha256(b"fedrec/ledger/data/1" + salt + b"v").hexdigest()
        opening = {"2": {"salt": salt.hex(), "version": "v"}}
        merchant = Merchant("m0", "00", {"openings": opening}, entries=[charge_of(plan) | {"data": digest}])
        assert (not list(check_openings(merchant))) is holds
        assert merchant.versions == ({2: "v"} if holds else {})


def test_a_ledger_ends_with_the_stated_key() -> None:
    merchant = Merchant("m0", "11" * 32, {}, keys=[(1, "00" * 32), (2, "11" * 32)])
    assert not list(check_last_key(merchant))
    merchant.public = "00" * 32
    (problem,) = check_last_key(merchant)
    assert problem.reason == "the ledger ends with another key than the one that is stated"


EPSILONS = {
    "spent_before": 1.0, "spent_after": 1.0, "own_epsilon": 40.0, "cap_epsilon": 9.0, "delta": 1e-5,
}  # fmt: skip


def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what is computed by Google's program, and the lifetime's figures."""
    monkeypatch.setattr("fedrec.privacy.audit.verify.epsilon_checks.pld_epsilon", lambda *given: 40.0)
    monkeypatch.setattr(
        "fedrec.privacy.audit.verify.epsilon_checks.lifetime_epsilon", lambda *given, **cap: 1.0
    )


def test_an_epsilon_above_the_other_accountant_s_is_told(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were Google's program wrong, the divergences, of another program, would still bound it."""
    without_figures(monkeypatch)
    entry = charge_of(plan, round_number=1)
    for own in (40.0, None):
        found = reasons(check_epsilons([entry | {"epsilons": EPSILONS | {"own_epsilon": own}}]))
        assert "its epsilon by PLD is above the one by RDP" in found


@pytest.mark.parametrize(
    ("changes", "entry"),
    [
        *(({name: value}, 3) for name, value in (
            ("sample_rate", 0.01), ("guaranteed_noise_multiplier", 0.5), ("broken_noise_multiplier", 0.5),
            ("beta", 1e-11), ("delta", 1e-7), ("rounds", 9), ("steps", 2),
        )),
        # Site figures, with a rate and noise of their own, are of the same training.
        ({"round_number": 4, "sample_rate": 1.0, "broken_noise_multiplier": 0.5}, None),
        ({"round_number": 4, "sample_rate": 1.0, "delta": 1e-7}, 3),
    ],
)  # fmt: skip
def test_the_terms_of_a_training_are_those_of_its_first_charge(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch, changes: Values, entry: int | None
) -> None:
    without_figures(monkeypatch)
    entries = [charge_of(plan, round_number=number) for number in (1, 2)]
    for sequence, charged in enumerate(entries, start=2):
        charged |= {"sequence": sequence, "epsilons": EPSILONS}
    entries[1]["charge"] |= changes
    told = [problem for problem in check_epsilons(entries) if "its training began with" in problem.reason]
    assert [problem.entry for problem in told] == ([] if entry is None else [entry])


def test_an_exchange_of_keys_goes_on_from_the_last_one_and_never_back() -> None:
    first, last, other = ("11" * 32, "22" * 32, "33" * 32)
    merchant = Merchant("m0", last, {}, keys=[(1, first), (5, last)])
    signatures = dict.fromkeys(("old_signature", "new_signature"), "00" * 64)
    for old, new, told in (
        (other, "44" * 32, "it exchanges another key than the one before it"),
        (first, other, "it exchanges another key than the one before it"),
        (last, first, "it goes back to an earlier key"),
        (last, other, "the old key didn't sign this exchange"),
    ):
        rotation = {"merchant": "m0", "old_key": old, "new_key": new, **signatures}
        assert rotation_fault(merchant, rotation) == told
