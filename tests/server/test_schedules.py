"""Schedules of the server's learning rate against torch's schedulers, and where they are named."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.protocol.plan import ServerUpdate
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.choice_text import all_settings
from fedrec.server.optimizers.optimizer_registry import REGISTRY, start_weights
from fedrec.server.schedules.interface import ScheduleSpec
from fedrec.server.schedules.schedule_registry import REGISTRY as SCHEDULES
from fedrec.server.schedules.schedule_registry import check_schedule, factors_of, read_schedule
from fedrec.server.settled_options import settle
from fedrec.server.training_file import read_training_file
from fedrec.server.weights import Weights
from fedrec.vision import model_registry as models
from tests.support.training_reports import A_ROUND

STEPS, DIMENSION, RATE = 20, 5, 0.1
Scheduler = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
Maker = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

CURVES: Mapping[str, Scheduler] = {
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS),
    "cosine:floor=0.25": lambda optimizer: lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=STEPS, eta_min=0.25 * RATE
    ),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS),
    "linear:floor=0.5": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=STEPS),
    # Three equal parts of 20 steps begin at steps 0, 7 and 14.
    "step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[7, 14], gamma=0.1),
    "step:drops=1,factor=0.5": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5),
}
RULES: Mapping[str, tuple[Mapping[str, float], Maker]] = {
    "sgd": ({"momentum": 0.9, "nesterov": 1.0}, lambda p: torch.optim.SGD(p, RATE, 0.9, nesterov=True)),
    "adam": ({}, lambda p: torch.optim.Adam(p, lr=RATE)),
    "adamw": ({"weight_decay": 0.3}, lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.3)),
}


def gradients() -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(STEPS, DIMENSION)))


def started(schedule: str, *, rule: str = "sgd", **settings: float) -> Weights:
    update = ServerUpdate(
        optimizer=rule,
        learning_rate=RATE,
        settings=all_settings(REGISTRY.get(rule), settings),
        schedule=read_schedule(schedule),
    )
    return start_weights(update, np.linspace(-1, 1, DIMENSION), rounds=STEPS)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", CURVES)
def test_a_schedule_with_an_optimizer_equals_torch_s(schedule: str, rule: str) -> None:
    settings, make = RULES[rule]
    ours = started(schedule, rule=rule, **settings)
    theirs = torch.from_numpy(ours.parameters.copy()).requires_grad_()
    optimizer = make([theirs])
    scheduler = CURVES[schedule](optimizer)
    for gradient in gradients():
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        scheduler.step()
        ours.step(gradient)
        np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_warmup_rises_along_a_line_and_the_rest_follows_it(name: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.LinearLR(optimizer, start_factor=0.25, end_factor=1.0, total_iters=3)
    rising = []
    for _ in range(3):
        rising.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    found = factors_of(read_schedule(f"{name}:warmup=3"), steps=STEPS)
    np.testing.assert_allclose(found[:3], rising)
    np.testing.assert_allclose(found[3:], factors_of(read_schedule(name), steps=STEPS - 3))
    # A training that ends within its warm-up.
    np.testing.assert_allclose(factors_of(read_schedule(f"{name}:warmup=3"), steps=2), rising[:2])


def test_the_round_of_the_mean_is_no_step_of_the_schedule() -> None:
    settings = all_settings(REGISTRY.get("sgd"), {})
    schedule = read_schedule("step:drops=1")
    update = ServerUpdate(optimizer="sgd", learning_rate=1.0, settings=settings, schedule=schedule)
    weights = start_weights(update, np.zeros(3), rounds=3, mean=slice(2, 3))
    weights.set_mean(np.array([9.0, 9.0, 0.5]), noise=0.0)
    for _ in range(2):
        weights.step(np.array([1.0, 0.0, 7.0]))
    np.testing.assert_allclose(weights.parameters, [-1.1, 0.0, 0.5])


def test_a_restored_schedule_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    first, again = (started("cosine:warmup=2", momentum=0.5) for _ in range(2))
    for gradient in gradients()[:7]:
        first.step(gradient)
    checkpoint.reserve(7)
    checkpoint.save(first, round_number=7, record=A_ROUND)
    checkpoint.restore(again)
    for gradient in gradients()[7:]:
        first.step(gradient)
        again.step(gradient)
    np.testing.assert_array_equal(again.parameters, first.parameters)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exponential", "there is no schedule 'exponential'; choose one of constant, cosine, linear, step"),
        ("cosine:floor=1", "--schedule cosine:floor=1: floor is a number from 0 to below 1"),
        ("step:every=3", "step takes these settings, each once: warmup, drops, factor"),
    ],
)
def test_a_wrong_schedule_is_one_line(text: str, said: str) -> None:
    options = SimulationConfig(schedule=text)
    with pytest.raises(ConfigError) as refused:
        settle(options, models.get("cnn").defaults, merchants=4)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_warmup_is_refused_exactly_where_the_full_rate_is_never_reached(name: str) -> None:
    for steps, warmup in itertools.product((1, 2, 11), (0, 0.5, 1, 1.9, 2, 10, 11, 500)):
        schedule = read_schedule(f"{name}:warmup={warmup}")
        if factors_of(schedule, steps=steps).max() == 1.0:
            check_schedule(schedule, steps=steps)
        else:
            with pytest.raises(ConfigError, match=f"takes all of the training's {steps}, "):
                check_schedule(schedule, steps=steps)


@pytest.mark.parametrize(("text", "still"), [("step:factor=0", 13), ("step:drops=19,factor=0.01", 13)])
def test_a_schedule_whose_steps_end_before_the_training_is_refused(text: str, still: int) -> None:
    with pytest.raises(ConfigError, match=f": {still} of the training's {STEPS} steps would have no length"):
        check_schedule(read_schedule(text), steps=STEPS)
    for name in SCHEDULES.names():
        check_schedule(read_schedule(name), steps=10_000)


@pytest.mark.parametrize("factors", [np.ones(STEPS - 1), np.full(STEPS, -0.5), np.full(STEPS, np.nan)])
def test_a_package_s_schedule_must_give_a_factor_for_each_step(
    monkeypatch: pytest.MonkeyPatch, factors: np.ndarray
) -> None:
    monkeypatch.setattr(SCHEDULES, "_own", {})
    SCHEDULES.add(ScheduleSpec(name="mine", settings={}, factors=lambda steps, settings: factors))
    with pytest.raises(ConfigError, match="schedule mine gives no factor from 0 up for each of 20 steps"):
        started("mine")


def test_a_training_file_sets_the_schedule_and_the_plan_names_it(tmp_path: Path) -> None:
    file = tmp_path / "training.toml"
    file.write_text('[training]\nclasses = ["a", "b"]\nschedule = "cosine:warmup=5"\n')
    update = settle(read_training_file(file), models.get("cnn").defaults, merchants=4).update
    assert update.schedule.values == {"warmup": 5.0, "floor": 0.0}
    assert update.text.endswith("schedule cosine (warmup 5, floor 0)")
