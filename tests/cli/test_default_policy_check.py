"""Defaults that go together: untouched policies join the untouched plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrec.clients.default_policy_check import refusal_by_defaults
from fedrec.clients.plan_resources import build_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.training_file import TrainingFile, add_training
from tests.support.cohort import Cohort, change_means

CLASSES = ("hat", "mug", "sock")


def planned(cohort: Cohort, folder: Path, *, size: int = 100, **options: object) -> TrainingPlan:
    """The plan that an operator's file of these options gives."""
    folder.mkdir(exist_ok=True)
    return add_training(
        folder,
        TrainingFile(classes=CLASSES, **options),  # type: ignore[arg-type]
        server_key=cohort.server.public.hex(),
        roster=cohort.roster,
        sizes=(size,) * cohort.size,
    ).plan()


@pytest.mark.parametrize("model", ["cnn", "effnet-lite0-head", "lite0-lite2-views-head", "effnet-lite0-lora"])
def test_three_merchants_with_untouched_policies_join_an_untouched_plan(tmp_path: Path, model: str) -> None:
    cohort = Cohort(tmp_path / "cohort", size=3, policy=MerchantPolicy.parse(TEMPLATE))
    plan = planned(cohort, tmp_path / "trainings", model=model)
    assert refusal_by_defaults(plan, derive(plan)) is None
    for name in cohort.names:
        merchant = cohort.merchants[name]
        change_means(merchant, build_model=build_model)
        merchant.context.precomputes_costs = False
        reply, _ = merchant.join(JoinRequest(plan=plan))
        assert reply.refused is None and reply.signature is not None


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"epsilon": 9.0}, "largest_training_epsilon"),
        ({"rounds": 2001}, "largest_steps"),
        ({"secure_aggregation": "none", "privacy": "local"}, "schemes"),
        ({"site_figures": 0.1}, "site_figures"),
    ],
)
def test_a_plan_that_defaults_refuse_says_so_as_a_merchant_does(
    tmp_path: Path, options: dict[str, Any], rule: str
) -> None:
    cohort = Cohort(tmp_path / "cohort", size=3, policy=MerchantPolicy.parse(TEMPLATE))
    plan = planned(cohort, tmp_path / "trainings", **options)
    merchant = cohort.merchants["m0"]
    change_means(merchant, build_model=build_model)
    merchant.context.precomputes_costs = False
    with pytest.raises(RefusedError, match=rule) as caught:
        merchant.join(JoinRequest(plan=plan))
    assert refusal_by_defaults(plan, derive(plan)) == str(caught.value)


def test_the_default_delta_is_for_all_photos_together(tmp_path: Path) -> None:
    """A hundred merchants of a hundred photos: epsilon 8 at 1 / (10 x one of them) was 12.3 at 1e-5."""
    cohort = Cohort(tmp_path / "cohort", size=5)
    few = planned(cohort, tmp_path / "few", size=20)
    many = planned(cohort, tmp_path / "many", size=100_000)
    assert (few.delta, many.delta) == (1e-5, 1 / (10 * 5 * 100_000))
    event = Event(few.sample_rate, derive(few).spend.multiplier, few.rounds)
    assert epsilon_pld([event], delta=1e-5) <= 8.0
