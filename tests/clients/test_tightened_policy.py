"""A policy that became stricter after a training was joined holds for the rounds still to come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.refusals import PAUSED
from fedrec.clients.roster_updates import RosterFollower
from fedrec.errors import LedgerError, RefusedError
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.messages import JoinRequest, TrainReply, TrainRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.site_figures import SiteFigures
from fedrec.protocol.statements import Receipt, SignedSealingKey
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server import attendance
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.server_home import ServerHome
from tests.support.cohort import Cohort

STRICTER: dict[str, object] = {
    "modes": frozenset({"local"}),
    "units": frozenset({"product"}),
    "site_figures": False,
    "schemes": frozenset({"none"}),
    "models": frozenset({"other"}),
    "initial_models": frozenset({"ab" * 32}),
    "largest_sample_rate": 0.4,
    "largest_training_delta": 1e-5,
    "largest_training_epsilon": 0.1,
    "least_noise_multiplier": 1.5,
    "least_contributors": 4,
    "least_colluders": 2,
    "least_committee": 5,
    "least_corrupt_members": 2,
    "least_witnesses": 1,
    "largest_steps": 2,
    "largest_parameters": 20,
    "largest_image_size": 16,
    "largest_input_mib": 1,
    "largest_classes": 2,
    "server_key": "ab" * 32,
}
FIGURES = SiteFigures(noise_multiplier=1.0)


class Joined:
    """A training that all merchants joined, and what m0 is asked in it."""

    def __init__(self, cohort: Cohort, plan: TrainingPlan) -> None:
        replies = [other.join(JoinRequest(plan=plan))[0] for other in cohort.merchants.values()]
        self.plan = plan
        self.merchant: Merchant = cohort.merchants["m0"]
        self.keys: tuple[SignedSealingKey, ...] = tuple(r.sealing_key for r in replies if r.sealing_key)
        self.receipt: Receipt = cohort.first_receipt(replies[0], plan)

    def train(self, number: int) -> TrainReply:
        request = TrainRequest(
            training_id=self.plan.training_id,
            round_number=number,
            model_hash=self.plan.initial_model_hash,
            sealing_keys=self.keys,
            receipt=self.receipt,
        )
        return self.merchant.train(request, {"model": bytes(4 * self.plan.dimension)})[0]


def test_each_rule_of_a_plan_holds_from_the_next_round_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(site_figures=FIGURES, record_values=2**20)
    joined = Joined(cohort, plan)
    assert joined.train(1).signed is not None
    for rule, value in STRICTER.items():
        joined.merchant.use_policy(cohort.policy.model_copy(update={rule: value}))
        with pytest.raises(RefusedError, match=f"^policy '{rule}'") as caught:
            joined.train(2)
        assert caught.value.code == "policy"
    assert len(cohort.charges("m0")) == 1
    # A rule that is loosened again lets the training go on, and is checked once for all of its rounds.
    joined.merchant.use_policy(cohort.policy.model_copy())
    checked: list[str] = []
    check = MerchantPolicy.check

    def counted(policy: MerchantPolicy, asked: TrainingPlan) -> None:
        checked.append(policy.hash)
        check(policy, asked)

    monkeypatch.setattr(MerchantPolicy, "check", counted)
    assert [joined.train(number).signed is None for number in (2, 3, 4)] == [False] * 3
    assert checked == [cohort.policy.hash]


def test_site_figures_that_are_forbidden_in_mid_training_go_on_without_the_merchant(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2, site_figures=FIGURES))
    merchant = cohort.merchants["m0"]

    def forbid(record: RoundRecord) -> None:
        records.append(record)
        if record.round == 2:
            merchant.use_policy(cohort.policy.model_copy(update={"site_figures": False}))

    coordinator.on_round = forbid
    coordinator.run()
    # It still helps to open the others' sum: all four sit on the committee.
    last = coordinator.checkpoint.figures()
    assert last is not None and last.record is not None
    assert (last.record.opened, last.record.contributors) == (True, 3)
    assert "policy 'site_figures'" in coordinator.refusals["round 3, m0"]
    assert [len(cohort.charges(name)) for name in cohort.names] == [2, 3, 3, 3]
    assert sorted(answers(merchant)) == [1, 2, 3]


def test_forbidden_site_figures_that_need_every_merchant_charge_nobody(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=FIGURES, min_contributors=4)
    coordinator, records = cohort.coordinator(plan)

    def forbid(record: RoundRecord) -> None:
        records.append(record)
        cohort.merchants["m0"].use_policy(cohort.policy.model_copy(update={"site_figures": False}))

    coordinator.on_round = forbid
    coordinator.run()
    assert records[0].opened and coordinator.checkpoint.figures() is None
    assert "policy 'site_figures'" in coordinator.refusals["round 2, m0"]
    assert [len(cohort.charges(name)) for name in cohort.names] == [1, 1, 1, 1]
    # The training is over and closed.
    assert not any(merchant.store.open_trainings() for merchant in cohort.merchants.values())


def test_a_merchant_that_restarts_with_a_stricter_rule_still_opens_sums_and_is_not_charged(
    tmp_path: Path,
) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=4, threshold=4)
    coordinator, records = cohort.coordinator(plan)

    def tighten(record: RoundRecord) -> bool:
        records.append(record)
        return record.round == 2

    coordinator.on_round = tighten
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    # Client and server start again. Without this member's answer no sum could be opened.
    cohort.restart("m0")
    merchant = cohort.merchants["m0"]
    merchant.use_policy(cohort.policy.model_copy(update={"largest_sample_rate": 0.1}))
    again, later = cohort.coordinator(plan)
    told: list[str] = []

    def loosen(record: RoundRecord) -> None:
        later.append(record)
        told.append(again.refusals.get("m0", ""))

    again.on_round = loosen
    again.run()
    assert [(record.round, record.opened, record.contributors) for record in later] == [
        (2, True, 4),
        (3, True, 3),
        (4, True, 3),
    ]
    assert told[1].startswith("policy 'largest_sample_rate'")
    assert [len(cohort.charges(name)) for name in cohort.names] == [2, 4, 4, 4]
    assert answers(merchant) == [1, 2, 3, 4]
    # One that never joined is refused outright.
    with pytest.raises(RefusedError, match="largest_sample_rate"):
        merchant.join(JoinRequest(plan=cohort.plan(rounds=3)))


def test_others_are_not_charged_for_rounds_that_a_stricter_rule_makes_impossible(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=4, min_contributors=4)
    coordinator, records = cohort.coordinator(plan)
    merchant = cohort.merchants["m0"]

    def tighten(record: RoundRecord) -> None:
        records.append(record)
        merchant.use_policy(cohort.policy.model_copy(update={"largest_sample_rate": 0.1}))

    coordinator.on_round = tighten
    with pytest.raises(
        CohortIncompleteError, match=r"m0 takes part in no round now: policy 'largest_sample_rate'"
    ):
        coordinator.run()
    # The round in which it was found is lost; no other one is begun.
    assert [record.opened for record in records] == [True, False]
    again, later = cohort.coordinator(plan)
    with pytest.raises(CohortIncompleteError, match=r"3 of 4 merchants joined.*largest_sample_rate"):
        again.run()
    assert [len(cohort.charges(name)) for name in cohort.names] == [1, 2, 2, 2]
    merchant.use_policy(cohort.policy.model_copy())
    last, later = cohort.coordinator(plan)
    last.run()
    assert [record.opened for record in later][-2:] == [True, True]


@pytest.mark.parametrize("what", ["rule", "pause", "silence", "ledger put back"])
def test_no_round_is_begun_that_a_rule_or_a_silent_merchant_makes_impossible(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment asks first where nobody can be spared: what is found then costs nobody a charge."""
    monkeypatch.setattr(attendance, "OPENING_SECONDS", 0.2)
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=3, min_contributors=4)
    silent = False
    grid = cohort.grid(drop=lambda kind, group, index: silent and index == 0)
    coordinator, records = cohort.coordinator(plan, grid)
    coordinator.asks_again = True

    def change(record: RoundRecord) -> None:
        nonlocal silent
        records.append(record)
        if what == "rule":
            rules = cohort.policy.model_copy(update={"largest_sample_rate": 0.1})
            cohort.merchants["m0"].use_policy(rules)
        elif what == "pause":
            cohort.merchants["m0"].suspend(PAUSED)
        elif what == "ledger put back":
            monkeypatch.setattr(cohort.merchants["m0"].context.ledger, "check_ahead", put_back)
        silent = what == "silence"

    def put_back(*arguments: object, **named: object) -> None:
        raise LedgerError("it was restored to an older state")

    coordinator.on_round = change
    reasons = {
        "rule": "no round now: policy",
        "pause": f"no round now: {PAUSED}",
        "silence": "no answer from m0",
        "ledger put back": "no answer from m0",
    }
    reason = reasons[what]
    with pytest.raises(CohortIncompleteError, match=reason):
        coordinator.run()
    assert [record.opened for record in records] == [True]
    assert [len(cohort.charges(name)) for name in cohort.names] == [1] * 4


def test_nobody_is_asked_before_a_round_that_can_do_without_one(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = cohort.grid()
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2, min_contributors=3), grid)
    coordinator.asks_again = True
    coordinator.run()
    assert [record.opened for record in records] == [True] * 2
    assert sum(m.metadata.message_type == "query.join" for m in grid.requests) == 4


def answers(merchant: Merchant) -> list[int]:
    found = (getattr(entry, "answer", None) for entry in merchant.ledger.entries())
    return [answer.round_number for answer in found if answer is not None]


def test_a_roster_that_is_approved_later_is_for_later_trainings(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort")
    joined = Joined(cohort, cohort.plan())
    merchant, home = joined.merchant, MerchantHome(cohort.folder / "m0")
    (home.folder / "client.toml").write_text(f'name = "m0"\ndata = "{tmp_path}"\n')
    file = home.folder / "policy.toml"
    file.write_text(rules := "lifetime_epsilon = 9.0\nlifetime_delta = 1e-5\n")
    operator = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    another = Peer(name="new", signing_key=SigningIdentity.generate().public.hex())
    join = JoinFile(
        address="127.0.0.1:1",
        authority=operator.authority.read_text("ascii"),
        server_key=cohort.server.public.hex(),
        roster=cohort.roster,
    )
    home.approve(join)
    merchant.context.rosters = RosterFollower(home)

    def reload() -> None:
        """What the daemon does as a file changes, with the lenient rules of a simulation."""
        approved = home.policy().roster_fingerprint
        merchant.use_policy(cohort.policy.model_copy(update={"roster_fingerprint": approved}))

    reload()
    assert joined.train(1).signed is not None
    home.approve(join.model_copy(update={"roster": (*cohort.roster, another)}))
    reload()
    assert joined.train(2).signed is not None
    # An auditor is given the rules that the charge names: they have the roster of the training.
    texts = [json.loads(text) for text in merchant.store.policies()]
    assert {text["roster_fingerprint"] for text in texts} == {roster_fingerprint(cohort.roster)}
    assert {entry.charge.policy_hash for entry in cohort.charges("m0")} == {
        merchant.policy.model_copy(update={"roster_fingerprint": roster_fingerprint(cohort.roster)}).hash
    }
    # A line of policy.toml is a rule like any other.
    file.write_text(f'{rules}roster_fingerprint = "{home.policy().roster_fingerprint}"\n')
    reload()
    with pytest.raises(RefusedError, match="'roster_fingerprint'"):
        joined.train(3)
    # Other rules hold for such a training, too.
    file.write_text(rules)
    merchant.use_policy(merchant.policy.model_copy(update={"least_contributors": 4}))
    with pytest.raises(RefusedError, match="'least_contributors'"):
        joined.train(3)
