"""The vector of site figures: its norm for any unit, its sum against a loop, and models that misbehave."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.figures_noise import largest_loss
from fedrec.privacy.dp.site_figures import UnitFigures, clipped_figures_sum, unit_figures
from fedrec.privacy.dp.step import contribute_figures
from fedrec.privacy.randomness import Randomness

CLASSES = 4
ANY = st.floats(allow_nan=True, allow_infinity=True)
UNIT = st.tuples(st.integers(0, CLASSES - 1), ANY, ANY)


def figures(units: list[tuple[int, float, float]]) -> UnitFigures:
    return UnitFigures(
        labels=np.array([unit[0] for unit in units], dtype=np.int64),
        correct=np.array([unit[1] for unit in units], dtype=np.float64),
        losses=np.array([unit[2] for unit in units], dtype=np.float64),
    )


@given(st.lists(UNIT, min_size=1, max_size=6), st.integers(0, 5))
def test_no_unit_moves_the_sum_by_more_than_one_whatever_it_is(
    units: list[tuple[int, float, float]], which: int
) -> None:
    which %= len(units)
    rest = units[:which] + units[which + 1 :]
    moved = clipped_figures_sum(figures(units), classes=CLASSES) - clipped_figures_sum(
        figures(rest), classes=CLASSES
    )
    assert np.isfinite(moved).all()
    assert math.sqrt(sum(value**2 for value in moved)) <= 1 + 1e-12
    # Whatever the model says, a unit counts in its own class, by 0.8.
    assert moved[units[which][0]] == pytest.approx(0.8)
    assert sum(map(abs, moved[:CLASSES])) == pytest.approx(0.8)


def exact(length: int, records: int) -> NoisePlan:
    """Return the plan of a sum without noise."""
    return plan_noise(
        NoiseRequest(
            mode="off", epsilon=None, noise_multiplier=None, delta=1e-5, sample_rate=1.0, steps=1,
            dimension=length, clip=1.0, cohort=1, min_contributors=1, colluders=0,
            records_per_merchant=records,
        )
    )  # fmt: skip


@pytest.mark.parametrize("views", [1, 3])
def test_without_noise_it_is_what_a_loop_over_the_units_counts(views: int) -> None:
    generator = torch.Generator().manual_seed(views)
    model = nn.Linear(5, CLASSES)
    inputs = 3 * torch.randn(40, views, 5, generator=generator)
    labels = torch.randint(0, CLASSES - 1, (40,), generator=generator)
    plan = exact(CLASSES + 2, 40)
    found = contribute_figures(
        model, inputs, labels, classes=CLASSES, plan=plan, rng=Randomness.seeded(1, "figures")
    )
    counts, correct, loss = [0] * CLASSES, 0, 0.0
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    for unit, label in zip(inputs.double().numpy(), labels.tolist(), strict=True):
        shares, losses = np.zeros(CLASSES), []
        for view in unit:
            raised = [math.exp(score) for score in weight @ view + bias]
            shares += np.array(raised) / sum(raised)
            losses.append(-math.log(raised[label] / sum(raised)))
        counts[label] += 1
        correct += int(np.argmax(shares)) == label
        loss += min(sum(losses) / views, 2 * math.log(CLASSES))
    expected = [0.8 * count for count in counts] + [0.48 * correct, 0.36 * loss / (2 * math.log(CLASSES))]
    # The sum is rounded to the grid once.
    np.testing.assert_allclose(found / plan.scale, expected, atol=1.01 / plan.scale)
    assert found[CLASSES - 1] == 0, "nobody has the last class"


class Broken(nn.Module):
    """Scores that aren't finite for some units, or of another number of classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.classes = classes

    def forward(self, given: Tensor) -> Tensor:
        scores = given[:, : self.classes] + self.weight
        return torch.where(given[:, :1] > 0, torch.full_like(scores, math.nan), scores)


def test_a_model_without_finite_scores_is_wrong_at_the_largest_loss() -> None:
    inputs = torch.zeros(2, 1, 8)
    inputs[1] = 1.0
    found = unit_figures(Broken(CLASSES), inputs, torch.tensor([0, 0]), classes=CLASSES)
    assert found.correct.tolist() == [1.0, 0.0]
    total = clipped_figures_sum(found, classes=CLASSES)
    assert total[0] == pytest.approx(1.6)
    assert total[-1] == pytest.approx(0.36 * (1 + math.log(CLASSES) / largest_loss(CLASSES)))


def test_what_does_not_fit_the_classes_is_refused() -> None:
    inputs, labels = torch.zeros(2, 1, 8), torch.tensor([0, 3])
    with pytest.raises(ConfigError, match="5 scores for 4 classes"):
        unit_figures(Broken(5), inputs, labels, classes=CLASSES)
    with pytest.raises(ConfigError, match="label is outside 0 to 2"):
        unit_figures(Broken(3), inputs, labels, classes=3)
    for plan in (exact(CLASSES + 3, 40), replace(exact(CLASSES + 2, 40), clip=2.0)):
        with pytest.raises(ConfigError, match="not for site figures of 4 classes"):
            contribute_figures(
                Broken(CLASSES), inputs, labels, classes=CLASSES, plan=plan, rng=Randomness.seeded(1, "x")
            )


class Counting(nn.Module):
    """Remembers how many views each pass had, and trains while its modules are in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(8, CLASSES)
        self.dropout = nn.Dropout(0.9)
        self.passes: list[int] = []

    def forward(self, given: Tensor) -> Tensor:
        self.passes.append(len(given))
        found: Tensor = self.scores(self.dropout(given))
        return found


def test_each_unit_has_a_pass_of_its_own_and_the_model_is_left_as_it_was() -> None:
    model = Counting().train()
    inputs, labels = torch.randn(5, 2, 8), torch.zeros(5, dtype=torch.int64)
    together = unit_figures(model, inputs, labels, classes=CLASSES)
    assert model.passes == [2] * 5
    assert model.training and model.dropout.training
    alone = [unit_figures(model, inputs[[at]], labels[[at]], classes=CLASSES) for at in range(5)]
    assert together.losses.tolist() == [one.losses[0] for one in alone]
    assert not unit_figures(model, inputs[:0], labels[:0], classes=CLASSES).labels.size


class Glancing(nn.Module):
    """Scores of the first few values of however long an input."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(8, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        found: Tensor = self.scores(given[:, :8])
        return found


def test_units_that_fit_no_memory_together_are_judged_one_by_one() -> None:
    model, values = Glancing(), torch.randn(6, 2, 1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    # Petabytes, of which only the few values exist that they repeat: any copy of them fails.
    short, long = values.expand(6, 2, 8), values.expand(6, 2, 2**46)

    def contribution(inputs: Tensor) -> np.ndarray:
        plan, rng = exact(CLASSES + 2, 6), Randomness.seeded(1, "figures")
        return contribute_figures(model, inputs, labels, classes=CLASSES, plan=plan, rng=rng)

    np.testing.assert_array_equal(contribution(long), contribution(short))
    chosen = torch.tensor([4, 1, 5])
    some = unit_figures(model, long, labels, chosen=chosen, classes=CLASSES)
    same = unit_figures(model, short[chosen], labels[chosen], classes=CLASSES)
    assert [*some.labels, *some.losses] == [*same.labels, *same.losses]
