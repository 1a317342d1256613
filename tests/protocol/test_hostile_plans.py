"""Plans that ask for gigabytes or days are refused before anything of their sizes is made."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
import torch
from hostile_plans import ATTACKS, rows

from fedrec.clients.plan_resources import build_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.aggregation.committee import check_plan
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.audit.verify.policy_checks import _broken_sizes
from fedrec.privacy.dp.vectors import count_from_shapes, parameter_count
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import MAX_DIMENSION
from fedrec.server.settled_options import settle
from fedrec.server.training_file import TrainingFile, add_training
from fedrec.vision import model_registry
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(
        tmp_path_factory.mktemp("cohort"),
        size=3,
        policy=MerchantPolicy(lifetime_epsilon=10.0, lifetime_delta=1e-5),
    )


def test_every_hostile_plan_is_refused_in_milliseconds_and_megabytes() -> None:
    found = {row["plan"]: row for row in rows()}
    assert set(found) == set(ATTACKS)
    for row in found.values():
        assert row["refused_by"] in row["refusal"], row
        # A hundred times what they take here, and a hundredth of what they took before.
        assert row["milliseconds"] < 500 and row["peak_megabytes"] < 20, row


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rounds": 2001}, "largest_steps"),
        ({"mode": "local", "rounds": 201, "local_steps": 10}, "largest_steps"),
        ({"dimension": 30_000_001}, "largest_parameters"),
        ({"image_size": 321}, "largest_image_size"),
        ({"image_size": 320, "views": 16, "records_largest": 874}, "largest_input_mib"),
        ({"classes": tuple(map(str, range(1001)))}, "largest_classes"),
    ],
)
def test_limits_are_exact_and_the_outsider_finds_the_same(
    cohort: Cohort, changes: dict[str, object], rule: str
) -> None:
    policy = MerchantPolicy(lifetime_epsilon=10.0, lifetime_delta=1e-5)
    over = cohort.plan(**changes)
    with pytest.raises(RefusedError, match=f"'{rule}'"):
        policy.check(over)
    last = list(changes)[-1]
    value = changes[last]
    within = cohort.plan(**(changes | {last: value - 1 if isinstance(value, int) else value[:-1]}))  # type: ignore[index]
    policy.check(within)
    rules = policy.model_dump(mode="json")
    for plan, broken in ((over, {rule}), (within, set())):
        found = _broken_sizes(rules, audited(plan))
        assert {name for name, breaks in found.items() if breaks} == broken


def test_a_head_s_inputs_are_vectors_and_no_plan_may_state_fewer(cohort: Cohort) -> None:
    policy = MerchantPolicy(lifetime_epsilon=10.0, lifetime_delta=1e-5)
    spec = model_registry.get("lite0-lite2-views-head")
    size = spec.image_size or 0
    pixels = 3 * size**2
    # A hundred thousand photos of the largest network's size, of which a head keeps 2,560 numbers each.
    head = cohort.plan(
        model=spec.name, image_size=size, record_values=2560, records_largest=100_000, dimension=4 * 2560
    )
    policy.check(head)
    build_model(head)
    with pytest.raises(RefusedError, match="largest_input_mib"):
        policy.check(head.model_copy(update={"record_values": pixels}))
    for model, stated in ((spec.name, pixels), ("cnn", 2560)):
        with pytest.raises(RefusedError, match="numbers of a record"):
            build_model(head.model_copy(update={"model": model, "record_values": stated}))


def test_sizes_are_checked_before_anything_else(cohort: Cohort) -> None:
    """Not even the scheme's name is looked up for a plan that is too large."""
    plan = cohort.plan(rounds=1_000_000, scheme="rot13", model="nobody")
    with pytest.raises(RefusedError, match="largest_steps"):
        cohort.merchants["m0"].join(JoinRequest(plan=plan))


@pytest.mark.parametrize("name", model_registry.names())
def test_parameters_are_counted_from_shapes(name: str) -> None:
    spec = model_registry.get(name)
    # A network that is fine-tuned takes pictures of its own size alone.
    size = 16 if spec.network is None or spec.image_size is None else spec.image_size

    def build() -> torch.nn.Module:
        return spec.build(classes=7, channels=3, size=size, seed=3)

    state = torch.get_rng_state()
    assert count_from_shapes(build) == parameter_count(build())
    assert torch.equal(state, torch.get_rng_state())
    assert build()(torch.zeros(1, *spec.record_shape(3, size))).shape == (1, 7)


def test_an_operator_is_told_before_a_model_is_built(cohort: Cohort, tmp_path: Path) -> None:
    folder = tmp_path / "trainings"
    folder.mkdir()
    options = TrainingFile(classes=("a", "b"), image_size=1024)
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=f"536,890,882 parameters .* at most {MAX_DIMENSION:,}"):
            add_training(
                folder,
                options,
                server_key=cohort.server.public.hex(),
                roster=cohort.roster,
                sizes=(40, 40, 40),
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e7 and not list(folder.iterdir())


def test_three_merchants_with_untouched_rules_on_seats_and_sizes_take_the_default(cohort: Cohort) -> None:
    settled = settle(SimulationConfig(), model_registry.get("cnn").defaults, merchants=3)
    plan = cohort.plan(
        rounds=settled.rounds,
        committee=seat_order(cohort.roster)[: settled.committee],
        threshold=settled.threshold,
        colluders=settled.colluders,
        corrupt_members=settled.corrupt_members,
        min_contributors=settled.min_contributors,
    )
    assert plan.seat_risk == settled.seat_risk == 0.0
    check_plan(plan)
    cohort.policy.check(plan)
