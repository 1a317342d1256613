"""Server optimizers against independent computations, their settings, and the state that they keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedrec.config import SimulationConfig, load_config
from fedrec.errors import ConfigError, TrainingError
from fedrec.protocol.plan import ServerSetting, ServerUpdate
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.optimizers.adam import Adam
from fedrec.server.optimizers.interface import State, Vector
from fedrec.server.optimizers.optimizer_registry import REGISTRY, read_choice, start_weights, write_choice
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.settled_options import settle
from fedrec.server.training_file import read_training_file
from fedrec.server.weights import Weights
from fedrec.vision import model_registry as models
from tests.support.cohort import DIMENSION as DIMENSIONS
from tests.support.cohort import Cohort
from tests.support.training_reports import A_ROUND

DIMENSION, STEPS = 7, 12


def gradients(seed: int = 0) -> NDArray[np.float64]:
    """Gradients of several sizes, with zeros and changes of sign among them, (STEPS, DIMENSION)."""
    chance = np.random.default_rng(seed)
    found = chance.normal(size=(STEPS, DIMENSION)) * 10.0 ** chance.integers(-3, 2, size=DIMENSION)
    found[::3, 0] = 0.0
    return found


def started(name: str, *, rate: float, averaging: float = 0.0, **settings: float) -> Weights:
    values = {key: setting.default for key, setting in REGISTRY.get(name).settings.items()} | settings
    update = ServerUpdate(
        optimizer=name,
        learning_rate=rate,
        settings=tuple(ServerSetting(name=key, value=value) for key, value in values.items()),
        averaging=averaging,
    )
    return start_weights(update, np.linspace(-1, 1, DIMENSION), rounds=STEPS)


Maker = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("name", "settings", "make"),
    [
        ("sgd", {"momentum": 0.0}, lambda p: torch.optim.SGD(p, lr=0.1)),
        ("sgd", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        ("adam", {}, lambda p: torch.optim.Adam(p, lr=0.1)),
        (
            "adam",
            {"beta1": 0.5, "beta2": 0.9, "stability": 0.01},
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=0.01),
        ),
        ("adamw", {"weight_decay": 0.3}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3)),
    ],
)
def test_an_optimizer_equals_torch_s(name: str, settings: Mapping[str, float], make: Maker) -> None:
    ours = started(name, rate=0.1, **settings)
    theirs = torch.from_numpy(ours.parameters.copy()).requires_grad_()
    optimizer = make([theirs])
    for gradient in gradients():
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        ours.step(gradient)
        np.testing.assert_allclose(ours.parameters, theirs.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_yogi_is_algorithm_2_of_reddi_et_al() -> None:
    """One coordinate at a time, in plain floats, from the paper's formulas on the mean move -g."""
    beta1, beta2, tau, rate = 0.8, 0.95, 0.01, 0.1
    ours = started("yogi", rate=rate, beta1=beta1, beta2=beta2, stability=tau)
    expected = list(ours.parameters)
    first, second = [0.0] * DIMENSION, [tau**2] * DIMENSION
    for gradient in gradients():
        ours.step(gradient)
        for index, entry in enumerate(gradient):
            move = -float(entry)
            first[index] = beta1 * first[index] + (1 - beta1) * move
            apart = second[index] - move**2
            sign = (apart > 0) - (apart < 0)
            second[index] = second[index] - (1 - beta2) * move**2 * sign
            expected[index] += rate * first[index] / (math.sqrt(second[index]) + tau)
    np.testing.assert_allclose(ours.parameters, expected, rtol=1e-12)


@pytest.mark.parametrize("name", REGISTRY.names())
def test_a_step_leaves_the_gradient_as_it_is(name: str) -> None:
    weights, gradient = started(name, rate=0.1), gradients()[1]
    kept = gradient.copy()
    weights.step(gradient)
    np.testing.assert_array_equal(gradient, kept)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("name", REGISTRY.names())
def test_a_restored_state_goes_on_as_the_saved_one(tmp_path: Path, name: str, averaging: float) -> None:
    settings = {"momentum": 0.9} if "momentum" in REGISTRY.get(name).settings else {}
    first = started(name, rate=0.1, averaging=averaging, **settings)
    checkpoint = Checkpoint(tmp_path, training_id="t")
    for gradient in gradients()[:5]:
        first.step(gradient)
    checkpoint.reserve(5)
    checkpoint.save(first, round_number=5, record=A_ROUND)
    at_save = first.parameters.copy()
    again = started(name, rate=0.1, averaging=averaging, **settings)
    assert checkpoint.restore(again) == 5
    for gradient in gradients(1):
        first.step(gradient)
        again.step(gradient)
    np.testing.assert_array_equal(again.parameters, first.parameters)
    np.testing.assert_array_equal(again.reported, first.reported)
    # Not for want of a state: from the same parameters without it, the steps are others.
    fresh = started(name, rate=0.1, averaging=averaging, **settings)
    fresh.parameters[:] = at_save
    for gradient in gradients(1):
        fresh.step(gradient)
    assert not np.allclose(fresh.parameters, first.parameters)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    checkpoint.reserve(1)
    checkpoint.save(started("adam", rate=0.1), round_number=1, record=A_ROUND)
    with pytest.raises(TrainingError, match="another optimizer"):
        checkpoint.restore(started("sgd", rate=0.1))


def test_local_mode_gives_the_optimizer_the_mean_move_with_its_sign_turned(tmp_path: Path) -> None:
    """The same round twice: SGD shows the pseudo-gradient g, Adam's first step is g / (|g| + stability)."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(mode="local", local_steps=2, rounds=1)
    found = {}
    for rule in (Sgd(DIMENSIONS, learning_rate=1.0), Adam(DIMENSIONS, learning_rate=0.1, stability=1e-3)):
        coordinator, records = cohort.coordinator(plan)
        plan = cohort.plan(mode="local", local_steps=2, rounds=1)
        coordinator.weights = Weights.start(np.zeros(DIMENSIONS), rule, averaging=0.0)
        coordinator.run()
        assert records[0].opened
        found[type(rule)] = coordinator.weights.parameters
    move = found[Sgd]
    assert np.abs(move).max() > 0.01
    np.testing.assert_allclose(found[Adam], 0.1 * move / (np.abs(move) + 1e-3), rtol=1e-9)


class Keeper:
    """An optimizer whose state is an object, which numpy would pickle."""

    def step(self, parameters: Vector, gradient: Vector) -> None: ...

    def state(self) -> State:
        return {"thing": np.array([{"a": 1}], dtype=object)}

    def load(self, state: State) -> None: ...


def test_a_state_of_objects_is_never_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    checkpoint.reserve(1)
    with pytest.raises(TrainingError, match="numeric"):
        checkpoint.save(Weights.start(np.zeros(2), Keeper(), averaging=0.0), round_number=1, record=A_ROUND)
    assert not (tmp_path / "state.npz").exists()


def settled(model: str = "cnn", **options: Any) -> ServerUpdate:
    return settle(SimulationConfig(model=model, **options), models.get(model).defaults, merchants=4).update


def test_defaults_follow_from_model_and_mode() -> None:
    head = models.get("effnet-lite0-head").defaults
    plain = settled(head_model := "effnet-lite0-head")
    assert (plain.optimizer, plain.learning_rate, plain.averaging) == ("sgd", head.learning_rate, head.ema)
    assert plain.values == {"momentum": head.momentum, "nesterov": 0.0} and head.momentum > 0
    # Where merchants take steps of their own, their mean move is taken as it is.
    moves = settled(head_model, privacy="local", learning_rate=3.0)
    assert (moves.learning_rate, moves.values) == (1.0, {"momentum": 0.0, "nesterov": 0.0})
    assert settled(head_model, optimizer="adam").learning_rate == REGISTRY.get("adam").learning_rate
    assert settled(head_model, optimizer="adam", learning_rate=0.5).learning_rate == 0.5
    assert settled("cnn", privacy="local", server_learning_rate=0.25).learning_rate == 0.25
    assert settled("cnn", averaging=0.0).averaging == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rmsprop", "choose one of sgd, adam, adamw, yogi"),
        ("sgd:momentum=1", "from 0 to below 1"),
        ("sgd:momentum=nan", "from 0 to below 1"),
        ("sgd:momentum", "from 0 to below 1"),
        ("sgd:beta1=0.5", "takes these settings, each once: momentum"),
        ("adam:beta1=0.5,beta1=0.6", "each once"),
    ],
)
def test_a_wrong_choice_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        settled(optimizer=text)
    assert "\n" not in str(error.value)


def test_a_training_file_sets_the_optimizer_as_the_command_line_does(tmp_path: Path) -> None:
    file = tmp_path / "training.toml"
    file.write_text(
        '[training]\nclasses = ["a", "b"]\noptimizer = "yogi:beta1=0.5"\n'
        "learning_rate = 0.02\naveraging = 0.5\n"
    )
    options = read_training_file(file)
    assert settle(options, models.get("cnn").defaults, merchants=4).update == settled(
        optimizer="yogi:beta1=0.5", learning_rate=0.02, averaging=0.5
    )


def test_a_written_choice_is_read_back() -> None:
    update = settled(optimizer="adamw:weight_decay=0.1,beta2=0.99")
    spec, settings = read_choice(write_choice(update))
    assert spec.name == "adamw" and settings == update.values


def test_a_step_length_of_the_server_needs_steps_of_the_merchants() -> None:
    with pytest.raises(ConfigError, match="--server-learning-rate needs --privacy local"):
        load_config(None, {"server_learning_rate": 0.5})
