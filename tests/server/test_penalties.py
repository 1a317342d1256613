"""Weight decay and L1 on the server: against torch, against their formulas, and where they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.protocol.plan import ServerUpdate
from fedrec.server.choice_text import all_settings
from fedrec.server.optimizers.optimizer_registry import REGISTRY, start_weights
from fedrec.server.schedules.schedule_registry import read_schedule
from fedrec.server.settled_options import settle
from fedrec.server.weights import Weights
from fedrec.vision import model_registry as models

STEPS, DIMENSION, RATE = 12, 6, 0.1


def gradients() -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(STEPS, DIMENSION)))


def started(rule: str = "sgd", *, schedule: str = "constant", decay: float = 0.0, l1: float = 0.0) -> Weights:
    update = ServerUpdate(
        optimizer=rule,
        learning_rate=RATE,
        settings=all_settings(REGISTRY.get(rule), {}),
        schedule=read_schedule(schedule),
        weight_decay=decay,
        l1=l1,
    )
    return start_weights(update, np.linspace(-1, 1, DIMENSION), rounds=STEPS)


def test_weight_decay_beside_adam_is_torch_s_adamw_under_a_schedule() -> None:
    ours = started("adam", schedule="cosine", decay=0.3)
    theirs = torch.from_numpy(ours.parameters.copy()).requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=RATE, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    for gradient in gradients():
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        scheduler.step()
        ours.step(gradient)
        np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_without_momentum_weight_decay_is_the_gradient_of_an_l2_penalty() -> None:
    ours = started(decay=0.3)
    theirs = torch.from_numpy(ours.parameters.copy()).requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=RATE, weight_decay=0.3)
    for gradient in gradients():
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        ours.step(gradient)
        np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_l1_is_the_proximal_step_coordinate_by_coordinate() -> None:
    ours = started(l1=0.4, schedule="linear")
    expected = [float(value) for value in ours.parameters]
    for step, gradient in enumerate(gradients()):
        ours.step(gradient)
        rate = RATE * (1 - step / STEPS)
        for index, slope in enumerate(gradient):
            moved = expected[index] - rate * float(slope)
            size = max(abs(moved) - rate * 0.4, 0.0)
            expected[index] = size if moved > 0 else -size
        np.testing.assert_allclose(ours.parameters, expected, rtol=1e-9, atol=1e-14)


def test_l1_ends_at_the_minimum_of_the_penalised_loss_with_exact_zeros() -> None:
    """The loss |w - a|^2 / 2 + l1 |w| has its minimum at a shrunk by l1."""
    goal = np.array([0.9, -0.9, 0.3, -0.3, 0.0, 2.0])
    ours = started(l1=0.4)
    for _ in range(400):
        ours.step(ours.parameters - goal)
    np.testing.assert_allclose(ours.parameters, [0.5, -0.5, 0.0, 0.0, 0.0, 1.6], atol=1e-9)
    assert np.count_nonzero(ours.parameters) == 3


def test_a_released_mean_is_not_shrunk() -> None:
    settings = all_settings(REGISTRY.get("sgd"), {})
    update = ServerUpdate(optimizer="sgd", learning_rate=RATE, settings=settings, weight_decay=2.0, l1=0.1)
    weights = start_weights(update, np.ones(3), rounds=3, mean=slice(2, 3))
    weights.set_mean(np.array([0.0, 0.0, 0.5]), noise=0.0)
    weights.step(np.zeros(3))
    np.testing.assert_allclose(weights.parameters, [0.79, 0.79, 0.5])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"optimizer": "adamw", "weight_decay": 0.1},
            "has a weight decay of its own: set that, as --optimizer adamw:weight_decay=0.1",
        ),
        (
            {"learning_rate": 4.0, "weight_decay": 0.25},
            "--weight-decay 0.25 times the learning rate 4 takes all of the parameters in a step: it must be "
            "below 0.25",
        ),
    ],
)
def test_a_weight_decay_that_makes_no_sense_is_refused(options: dict[str, float | str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settle(SimulationConfig.model_validate(options), models.get("cnn").defaults, merchants=4)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_the_plan_s_text_names_them() -> None:
    options = SimulationConfig(weight_decay=0.01, l1=0.001)
    update = settle(options, models.get("cnn").defaults, merchants=4).update
    assert update.text.endswith("schedule constant (warmup 0), weight decay 0.01, L1 0.001")
