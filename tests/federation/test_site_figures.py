"""Site figures end to end: one more round, exact without noise, charged once, asked for only as agreed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld

from fedrec.clients.policy import MerchantPolicy
from fedrec.errors import BudgetExceededError, RefusedError, TrainingError
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_encoding import payload_of
from fedrec.privacy.audit.verify.encoding import parsed
from fedrec.privacy.audit.verify.epsilon_checks import check_epsilons
from fedrec.privacy.audit.verify.figures_checks import check_figures
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.site_figures import SiteFigures
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.figures_json import figures_section
from fedrec.server.report.report_warnings import figures_warnings
from tests.support.audited_plans import audited
from tests.support.cohort import CLASSES, DIMENSION, FEATURES, RECORDS, Cohort, InProcessGrid, change_means

ASKED = SiteFigures(noise_multiplier=4.0)


def records_of(cohort: Cohort) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = [], []
    for merchant in cohort.merchants.values():
        data = merchant.context.resources.data_for(cohort.plan())
        inputs.append(data.inputs[:, 0])
        labels.append(data.labels)
    return torch.cat(inputs), torch.cat(labels)


def counted(cohort: Cohort, parameters: np.ndarray) -> dict[str, float]:
    """Counts by class, correct ones and losses of all merchants' records, one at a time."""
    weight = parameters[: FEATURES * CLASSES].astype(np.float32).astype(float).reshape(CLASSES, FEATURES)
    bias = parameters[FEATURES * CLASSES :].astype(np.float32).astype(float)
    found = {"correct": 0.0, "loss": 0.0, **dict.fromkeys("abc", 0.0)}
    for record, label in zip(*records_of(cohort), strict=True):
        scores = weight @ record.double().numpy() + bias
        found["abc"[int(label)]] += 1
        found["correct"] += int(np.argmax(scores)) == int(label)
        found["loss"] += min(2 * np.log(3), float(np.log(np.exp(scores).sum()) - scores[int(label)]))
    return found


def section_of(cohort: Cohort, plan: TrainingPlan, grid: InProcessGrid | None = None) -> Any:
    coordinator, _ = cohort.coordinator(plan, grid)
    coordinator.run()
    section = figures_section(plan, derive(plan), coordinator.checkpoint.figures())
    assert section is not None
    return section.model_dump(mode="json"), coordinator


@pytest.mark.parametrize("scheme", ["kahe", "ckks", "none"])
def test_without_noise_the_figures_are_those_of_a_loop_over_all_records(tmp_path: Path, scheme: str) -> None:
    cohort = Cohort(tmp_path)
    changes: dict[str, object] = {"committee": (), "threshold": 0} if scheme == "none" else {}
    if scheme == "ckks":
        changes = {"committee": ("m0",), "threshold": 1}
    plan = cohort.plan(
        scheme=scheme, mode="off", noise_multiplier=None, rounds=2,
        site_figures=SiteFigures(noise_multiplier=None), **changes,
    )  # fmt: skip
    section, coordinator = section_of(cohort, plan)
    expected = counted(cohort, coordinator.weights.parameters)
    found = {line["label"]: line["count"] for line in section["classes"]}
    found |= {"correct": section["correct"]["estimate"], "loss": section["loss_sum"]["estimate"]}
    # Each merchant's sum is rounded to a grid of 1/256 or finer.
    assert found == pytest.approx(expected, abs=0.1)
    assert section["accuracy"]["estimate"] == pytest.approx(expected["correct"] / (4 * RECORDS), abs=1e-3)
    assert section["epsilon"] is None
    assert not list(check_figures(section, audited(plan), charged=True))


def test_a_class_that_nobody_has_is_found_for_a_stated_epsilon(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    for merchant in cohort.merchants.values():
        data = merchant.context.resources.data_for(cohort.plan())
        data.labels[data.labels == 2] = 0
        change_means(merchant, data_for=lambda plan, data=data: data)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    section, _ = section_of(cohort, plan)
    assert [line["found"] for line in section["classes"]] == [True, True, False]
    # All merchants together have more of either class than what can be detected.
    assert section["detectable"] < RECORDS
    assert section["classes"][2]["low"] < 0 < section["classes"][2]["high"]
    assert 0 < section["epsilon"] < 1
    assert section["epsilon"] == pytest.approx(derive(plan).figures.spend.with_delta(1e-4).epsilon())  # type: ignore[union-attr]


def test_the_charge_is_a_gaussian_of_sensitivity_one_composed_with_the_training(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2, site_figures=ASKED)
    section_of(cohort, plan)
    entries = cohort.charges("m0")
    assert [entry.charge.round_number for entry in entries] == [1, 2, 3]
    charge = entries[-1].charge
    assert (charge.sample_rate, charge.clip, charge.dimension, charge.steps) == (1.0, 1.0, CLASSES + 2, 1)
    derived = derive(plan)
    assert charge.guaranteed_noise_multiplier == 4.0
    # Of four merchants three are sure to contribute, one of whom colludes: two shares of the whole.
    assert charge.broken_noise_multiplier == pytest.approx(4.0 / 2**0.5, rel=1e-3)
    for broken, training, figures in (
        (False, 1.0, 4.0),
        (True, derived.spend.broken_multiplier, charge.broken_noise_multiplier),
    ):
        whole = (
            pld.from_gaussian_mechanism(training, sampling_prob=0.5, value_discretization_interval=1e-3)
            .self_compose(2)
            .compose(pld.from_gaussian_mechanism(figures, value_discretization_interval=1e-3))
        )
        counts = pld.from_gaussian_mechanism((COUNT_SIGMA**2 - 9) ** 0.5, value_discretization_interval=1e-3)
        stated = epsilon_after(plan, derived, steps=2, figures=True, broken=broken)
        assert stated == pytest.approx(whole.compose(counts).get_epsilon_for_delta(1e-4), rel=5e-3)
        if not broken:
            assert entries[-1].epsilons.own_epsilon == pytest.approx(
                whole.get_epsilon_for_delta(1e-4), rel=5e-3
            )
    ledger = [parsed(payload_of(entry)) for entry in cohort.merchants["m0"].ledger.entries()]
    assert not list(check_epsilons(ledger))
    ledger[-2]["epsilons"]["own_epsilon"] *= 0.9
    assert any("PLD, of its own" in problem.reason for problem in check_epsilons(ledger))


def test_a_policy_refuses_them_unless_it_allows_them(tmp_path: Path) -> None:
    rules = MerchantPolicy(largest_training_epsilon=None, lifetime_epsilon=9.0, lifetime_delta=1e-4)
    cohort = Cohort(tmp_path, policy=rules)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    with pytest.raises(RefusedError, match=r"policy 'site_figures'.*site_figures = true"):
        cohort.merchants["m0"].join(JoinRequest(plan=plan))
    cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(rounds=1)))
    allowed = rules.model_copy(update={"site_figures": True})
    cohort.merchants["m0"].use_policy(allowed)
    cohort.merchants["m0"].join(JoinRequest(plan=plan))
    # Their noise has the rule's lower limit, and their cost is part of what must fit.
    cohort.merchants["m0"].use_policy(allowed.model_copy(update={"least_noise_multiplier": 1.0}))
    loud = cohort.plan(rounds=1, site_figures=SiteFigures(noise_multiplier=0.5))
    with pytest.raises(RefusedError, match="least_noise_multiplier"):
        cohort.merchants["m0"].join(JoinRequest(plan=loud))
    cohort.merchants["m0"].use_policy(allowed)
    with pytest.raises(BudgetExceededError, match="and its site figures"):
        cohort.merchants["m0"].join(JoinRequest(plan=loud))


def asked(
    plan: TrainingPlan, cohort: Cohort, number: int, **changes: Any
) -> tuple[TrainRequest, dict[str, bytes]]:
    """Join all merchants, and make a request for a round."""
    keys = [cohort.merchants[name].join(JoinRequest(plan=plan))[0].sealing_key for name in cohort.names]
    blob = changes.pop("model", bytes(4 * DIMENSION))
    request = TrainRequest(
        training_id=plan.training_id, round_number=number, model_hash=sha256_hex(blob),
        sealing_keys=tuple(key for key in keys if key is not None), **changes,
    )  # fmt: skip
    return request, {"model": blob}


def test_a_server_gets_them_once_and_only_where_the_plan_asks(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant = cohort.merchants["m0"]
    plan = cohort.plan(rounds=2)
    request, blobs = asked(plan, cohort, 3)
    with pytest.raises(RefusedError, match="round 3 is beyond the plan's 2"):
        merchant.train(request, blobs)
    plan = cohort.plan(rounds=2, site_figures=ASKED)
    request, blobs = asked(plan, cohort, 3)
    # Before the training's rounds they cost the same.
    reply, sent = merchant.train(request, blobs)
    assert len(cohort.charges("m0")) == 1
    # The same request has the same answer, and costs nothing more; another one has none.
    assert merchant.train(request, blobs) == (reply, sent)
    other, other_blobs = asked(plan, cohort, 3, model=np.ones(DIMENSION, "<f4").tobytes())
    with pytest.raises(RefusedError, match="for a different request"):
        merchant.train(other, other_blobs)
    short, short_blobs = asked(plan, cohort, 3, model=bytes(4 * DIMENSION - 4))
    cohort.restart("m1")
    with pytest.raises(Exception, match="wrong size"):
        cohort.merchants["m1"].train(short, short_blobs)
    for number in (4, 10**6):
        beyond, beyond_blobs = asked(plan, cohort, number)
        with pytest.raises(RefusedError, match="beyond the plan's 3"):
            merchant.train(beyond, beyond_blobs)
    with pytest.raises(RefusedError, match="beyond the plan's 3"):
        merchant.unmask(UnmaskRequest(training_id=plan.training_id, round_number=4, survivors=()), {})
    assert len(cohort.charges("m0")) == 1 and not cohort.charges("m1")


def test_a_plan_of_other_classes_than_the_model_gets_noise_alone(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED, classes=("a", "b", "c", "d"))
    section, _ = section_of(cohort, plan)
    # Its vector would not be that of the plan's classes: no figure of any record is in the sum.
    assert not any(line["found"] for line in section["classes"])


def test_a_lost_round_stays_charged_and_is_never_run_twice(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    grid = cohort.grid(drop=lambda kind, group, index: kind == "query.unmask" and group == "2")
    section, coordinator = section_of(cohort, plan, grid)
    assert section["begun"] and not section["opened"] and "classes" not in section
    stored = coordinator.checkpoint.figures()
    assert "yet charged" in figures_warnings(figures_section(plan, derive(plan), stored))[0]
    assert len(cohort.charges("m0")) == 2
    again, _ = cohort.coordinator(plan)
    again.run()
    assert len(cohort.charges("m0")) == 2
    with pytest.raises(TrainingError, match="never run twice"):
        coordinator.checkpoint.reserve_figures()


def test_a_merchant_that_does_not_answer_before_them_costs_the_others_nothing(tmp_path: Path) -> None:
    """Flower takes a merchant that was killed for connected for a while."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED, min_contributors=4)
    trained: list[int] = []

    def drop(kind: str, group: str, index: int) -> bool:
        trained.extend([index] if kind == "train" else [])
        return kind == "query.join" and index == 1 and bool(trained)

    coordinator, _ = cohort.coordinator(plan, cohort.grid(drop=drop))
    with pytest.raises(CohortIncompleteError, match="3 merchants answer, 4 are needed; no answer from m1"):
        coordinator.run()
    assert coordinator.checkpoint.figures() is None
    section, _ = section_of(cohort, plan)
    assert section["opened"] and [len(cohort.charges(name)) for name in cohort.names] == [2, 2, 2, 2]


def test_a_server_that_stops_before_them_has_them_after_its_restart(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    coordinator, _ = cohort.coordinator(plan)

    def stop(lost: int) -> None:
        if coordinator.checkpoint.last_record() is not None:
            raise KeyboardInterrupt

    coordinator.before_round = stop
    with pytest.raises(KeyboardInterrupt):
        coordinator.run()
    missing = figures_section(plan, derive(plan), coordinator.checkpoint.figures())
    assert missing is not None and missing.reason == "the round was not begun"
    section, _ = section_of(cohort, plan)
    assert section["opened"] and len(cohort.charges("m0")) == 2


def test_the_figures_are_of_the_model_that_is_released(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    coordinator, _ = cohort.coordinator(plan)
    best = np.full(DIMENSION, 0.25)
    coordinator.figures_model = lambda: best
    coordinator.run()
    assert cohort.charges("m0")[-1].charge.model_hash == sha256_hex(best.astype("<f4").tobytes())


def test_what_no_plan_can_hold_is_refused(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    with pytest.raises(ValueError, match="exactly where the mode is private"):
        cohort.plan(site_figures=SiteFigures(noise_multiplier=None))
    with pytest.raises(ValueError, match="leave out window or site_figures"):
        cohort.plan(site_figures=ASKED, upload_window=600)
    with pytest.raises(ValueError, match="more than 1000000 rounds"):
        cohort.plan(site_figures=ASKED, rounds=1_000_000)


def test_an_auditor_finds_each_figure_that_does_not_follow(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, site_figures=ASKED)
    section, _ = section_of(cohort, plan)
    stated = audited(plan)
    assert not list(check_figures(section, stated, charged=True))
    wrong: dict[str, Any] = {
        "epsilon": section["epsilon"] * 0.9,
        "epsilon_aggregation_broken": None,
        "threshold": section["threshold"] - 1,
        "detectable": section["detectable"] - 1,
        "contributors": 2,
        "begun": False,
        "deviation": section["deviation"] | {"count": 1.0},
        "accuracy": section["accuracy"] | {"high": 1.0},
        "mean_loss": section["mean_loss"] | {"estimate": 0.1},
        "records": section["records"] | {"low": 0.0},
        "classes": [section["classes"][0] | {"low": -100.0}, *section["classes"][1:]],
    }
    for name, value in wrong.items():
        assert list(check_figures(section | {name: value}, stated, charged=True)), name
    hidden = [section["classes"][0] | {"found": False}, *section["classes"][1:]]
    assert list(check_figures(section | {"classes": hidden}, stated, charged=True))
    renamed = [section["classes"][0] | {"label": "other"}, *section["classes"][1:]]
    assert list(check_figures(section | {"classes": renamed}, stated, charged=True))
    assert list(check_figures(section | {"contributors": 99}, stated, charged=True))
    assert list(check_figures(None, stated, charged=True))
    assert list(check_figures(section, audited(plan, site_figures=None), charged=True))
