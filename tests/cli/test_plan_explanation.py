"""``fedrec server plan --explain``: what a training of a plan will cost, and nothing is filed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec._internal import number_format
from fedrec.cli import plan_explanation
from fedrec.cli.app import app
from fedrec.cli.explanation_types import Explanation, PolicyGroup
from fedrec.cli.plan_explanation import explain, explanation_lines
from fedrec.clients.charging import round_charge
from fedrec.clients.default_policy_check import refusal_by_defaults, refusals_by_defaults
from fedrec.config import AUGMENTED_VIEWS
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.derived_parameters import derive
from fedrec.server.planning import Enrolled
from fedrec.server.server_home import ServerHome
from fedrec.server.training_file import TrainingFile, make_plan
from fedrec.server.trainings import find_training
from fedrec.simulations.plan_trial import Trial
from tests.support.server_homes import NAMES, enrolled_home, filed

FILE = """
[training]
model = "cnn-tanh"
classes = ["a", "b"]
image_size = 16
rounds = 6
sample_rate = 0.5
epsilon = 4.0
delta = 1e-5
"""
COST = Trial(
    counted=True,
    up=2000.0,
    down=5000.0,
    member_up=10.0,
    member_down=300.0,
    once_up=100.0,
    once_down=200.0,
    seconds_step=1.0,
    seconds_answer=0.5,
    seconds_server=0.25,
)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return enrolled_home(tmp_path / "server")


@pytest.fixture
def without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_explanation, "cost_of_rounds", lambda plan, task: COST)


def told_of(home: ServerHome, **options: object) -> Explanation:
    given = {"model": "cnn-tanh", "classes": ["a", "b"], "image_size": 16, "rounds": 6, "sample_rate": 0.5}
    file = TrainingFile.model_validate(given | options)
    enrolled = Enrolled(home.identity().public.hex(), home.roster(), home.sizes("record"))
    return explain(*make_plan(home.trainings, file, enrolled), home)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_predicts_and_files_nothing(
    home: ServerHome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = tmp_path / "plan.toml", files(home.folder)
    path.write_text(FILE)
    command = ["server", "plan", str(path), "--home", str(home.folder)]
    outcome = CliRunner().invoke(app, [*command, "--explain"])
    assert outcome.exit_code == 0, outcome.output
    for said in (
        "epsilon     ",
        "time        ",
        "a merchant sends",
        "(counted)",
        "would join",
        "filed       nothing",
    ):
        assert said in outcome.output
    as_json = CliRunner().invoke(app, [*command, "--explain", "--json"])
    told = json.loads(as_json.output)
    assert "noise alone" not in caplog.text  # it is no merchant's training
    assert told["filed"] is False and files(home.folder) == before
    # Held against the plan that is filed with the same file, by another composition.
    filed_now = CliRunner().invoke(app, command)
    assert filed_now.exit_code == 0
    plan = find_training(home.trainings, "1").plan()
    derived = derive(plan)
    left = plan.delta - plan.rounds * derived.noise.beta
    for key, multiplier in (
        ("epsilon", derived.spend.multiplier),
        ("epsilon_aggregation_broken", derived.spend.broken_multiplier),
    ):
        event = Event(plan.sample_rate, multiplier, plan.rounds)
        assert told["privacy"][key] == pytest.approx(
            epsilon_pld([event, count_event()], delta=left), rel=1e-4
        )
    assert isinstance(CliRunner().invoke(app, [*command, "--json"]).exception, ConfigError)


@pytest.mark.usefixtures("without_trial")
@pytest.mark.parametrize("merchants", [3, 4, 5, 21])
def test_it_says_how_many_may_be_absent(merchants: int, tmp_path: Path) -> None:
    names = tuple(f"shop-{number:02d}" for number in range(merchants))
    told = told_of(enrolled_home(tmp_path / "server", names=names))
    absences, text = told.absences, "\n".join(explanation_lines(told))
    # By the rule of docs/training-file.md: one in twenty and one at least, but three can spare nobody.
    spare = 0 if merchants == 3 else 2 if merchants > 20 else 1
    assert absences.merchants_that_may_be_absent == spare
    assert absences.contributors_needed == merchants - spare
    stops = "no round begins while one is away" in text and "nobody can be left out to find out" in text
    assert stops is (spare == 0)
    assert ("with 1 more merchant, one may be absent" in text) is (merchants == 3)
    assert f"{spare or 'none'} of {merchants} merchants may be" in text


@pytest.mark.usefixtures("without_trial")
def test_it_says_what_a_merchant_keeps_of_a_photo(home: ServerHome) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    for model, augment, kept in (
        ("cnn-tanh", False, None),
        ("effnet-lite0-lora", False, 2 * 49 * 320 + 32),
        ("effnet-lite0-lora", True, 2 * AUGMENTED_VIEWS * 49 * 320 + 32),
        # The last layer and the stages of one view.
        ("effnet-lite0-head", False, 2 * (1280 + 784) + 32),
    ):
        size = 16 if kept is None else None
        told = told_of(home, model=model, image_size=size, augment=augment, sample_rate=1.0)
        assert told.photo_bytes_kept == (kept or 0)
        lines = [line for line in explanation_lines(told) if line.startswith("disk ")]
        assert len(lines) == (kept is not None)
        assert all(number_format.size(kept) in line for line in lines)


@pytest.mark.usefixtures("without_trial")
def test_costs_add_up_over_merchants_members_and_rounds(home: ServerHome) -> None:
    cost = told_of(home).cost
    assert (cost.round_bytes_up, cost.round_bytes_down) == (3 * 2010, 3 * 5300)
    assert (cost.bytes_up, cost.bytes_down) == (6 * 3 * 2010, 6 * 3 * 5300)
    assert cost.seconds == pytest.approx(6 * (1.75 + 2 * plan_explanation.EXCHANGE_SECONDS))
    assert cost.seconds_upload_at_10_mbit == 0.0016


@pytest.mark.usefixtures("without_trial")
def test_a_plan_names_every_rule_that_it_breaks_and_whose(home: ServerHome) -> None:
    (group,) = told_of(home, epsilon=4.0).policies
    assert group == PolicyGroup(merchants=NAMES, earlier_charges={}, refusals=())
    (group,) = told_of(home, epsilon=20.0, rounds=2001, secure_aggregation="none", privacy="local").policies
    rules = [reason.split("'")[1] for reason in group.refusals]
    assert rules == ["largest_steps", "schemes", "largest_training_epsilon", "lifetime_epsilon"]


@pytest.mark.usefixtures("without_trial")
def test_what_merchants_paid_before_counts_against_their_default_cap(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two merchants have receipts of five rounds of epsilon 8 each, and can't pay as much again."""
    earlier = filed(home, epsilon=8.0, delta=1e-5, sample_rate=0.5)
    monkeypatch.setattr(
        plan_explanation,
        "rounds_with_receipt",
        lambda path, training_id: {"anna": 5, "bert": 5} if training_id == earlier.plan().training_id else {},
    )
    told = told_of(home, epsilon=6.0, delta=1e-5)
    first, second = told.policies
    assert (first.merchants, first.earlier_charges) == (("anna", "bert"), {earlier.number: 5})
    assert (second.merchants, second.refusals) == (("cleo",), ())
    (reason,) = first.refusals
    assert "lifetime_epsilon" in reason and "over the cap of 10" in reason
    text = "\n".join(explanation_lines(told))
    assert "anna, bert, with the default policy and a ledger of 5 rounds of training 0001" in text
    # By hand: the ledger of such a merchant, entry by entry, with a policy as 'init' writes it.
    plan = earlier.plan()
    charges = [
        round_charge(
            plan, derive(plan), round_number=number, model_hash="0" * 64, policy_hash="", seeded=False
        )
        for number in range(1, 6)
    ]
    again = filed(home, epsilon=6.0, delta=1e-5, sample_rate=0.5).plan()
    assert refusal_by_defaults(again, derive(again)) is None
    assert len(refusals_by_defaults(again, derive(again), earlier=charges)) == 1
    assert refusals_by_defaults(again, derive(again), earlier=charges[:1]) == ()


def test_where_one_merchant_holds_the_key_nothing_speaks_of_a_committee(
    home: ServerHome, without_trial: None
) -> None:
    options = TrainingFile.model_validate(
        {
            "model": "cnn-tanh",
            "classes": ["a", "b"],
            "image_size": 16,
            "rounds": 6,
            "sample_rate": 0.5,
            "epsilon": 4.0,
            "delta": 1e-5,
            "secure_aggregation": "ckks",
        }
    )
    enrolled = Enrolled(home.identity().public.hex(), home.roster(), home.sizes(options.unit), ())
    told = explain(*make_plan(home.trainings, options, enrolled), home)
    holder = told.absences.key_holder
    lines = "\n".join(explanation_lines(told))
    assert holder in NAMES and f"{holder}, which holds the key, must be there at every opening" in lines
    assert "member" not in lines and "committee" not in lines
