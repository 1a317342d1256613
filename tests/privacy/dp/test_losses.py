"""Losses by hand and by torch, and their clipped sums against a loop of autograd over records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.losses import objective_sum
from fedrec.privacy.dp.step import DpSgdSettings
from fedrec.protocol.plan import Objective
from fedrec.server.class_prior import settle_objective
from fedrec.vision.models.centred_head import CentredHead
from tests.support.cohort import Cohort

CLASSES, FEATURES = 4, 9
PLAIN = Objective(loss="cross-entropy")
OBJECTIVES = [
    PLAIN,
    Objective(loss="cross-entropy", label_smoothing=0.3),
    Objective(loss="cross-entropy", label_smoothing=0.1, class_prior=(0.7, 0.1, 0.15, 0.05)),
    Objective(loss="hinge"),
]


def by_hand(objective: Objective, scores: list[float], label: int) -> float:
    """One record's loss in plain floats."""
    if objective.loss == "hinge":
        highest = max(score for place, score in enumerate(scores) if place != label)
        return max(0.0, 1.0 + highest - scores[label])
    odds = np.exp(scores) * np.asarray(objective.class_prior or [1.0] * CLASSES)
    logs = np.log(odds / odds.sum())
    share = objective.label_smoothing
    return float(-(1 - share) * logs[label] - share * np.mean(logs))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.text)
def test_a_loss_is_its_formula(objective: Objective) -> None:
    scores = torch.randn(30, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.arange(30) % CLASSES
    expected = sum(
        by_hand(objective, row.tolist(), int(label)) for row, label in zip(scores, labels, strict=True)
    )
    assert float(objective_sum(objective, scores, labels)) == pytest.approx(expected, rel=1e-12)


def test_equal_rivals_share_the_gradient_of_a_hinge() -> None:
    scores = torch.zeros(1, CLASSES, requires_grad=True)
    (slope,) = torch.autograd.grad(objective_sum(Objective(loss="hinge"), scores, torch.tensor([2])), scores)
    torch.testing.assert_close(slope[0], torch.tensor([1 / 3, 1 / 3, -1.0, 1 / 3]))


def test_a_record_beyond_its_margin_has_no_gradient() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 0.5]], requires_grad=True)
    (slope,) = torch.autograd.grad(objective_sum(Objective(loss="hinge"), scores, torch.tensor([1])), scores)
    assert not slope.any()


def loop(model: nn.Module, inputs: Tensor, labels: Tensor, objective: Objective, clip: float) -> np.ndarray:
    """Autograd once per record, on losses of torch's own."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for views, label in zip(inputs, labels, strict=True):
        scores, target = model(views), label.expand(len(views))
        if objective.loss == "hinge":
            others = torch.ones_like(scores, dtype=torch.bool)
            others[:, label] = False
            rivals = scores[others].reshape(len(views), -1).max(dim=1).values
            loss = torch.relu(1 + rivals - scores[:, label]).mean()
        else:
            prior = torch.tensor(objective.class_prior or [1.0] * CLASSES)
            loss = nn.CrossEntropyLoss(label_smoothing=objective.label_smoothing)(
                scores + prior.log(), target
            )
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = np.concatenate(
            [
                np.zeros(p.numel()) if slope is None else slope.double().flatten().numpy()
                for p, slope in zip(parameters, slopes, strict=True)
            ]
        )
        length = float(np.linalg.norm(flat))
        total += flat * (min(1.0, clip / length) if length else 0.0)
    return total


@pytest.mark.parametrize("reference", [False, True], ids=["book-keeping", "hooks"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.text)
def test_clipped_sums_equal_a_loop_of_autograd(objective: Objective, reference: bool) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    inputs, labels = torch.randn(23, 2, FEATURES) * 2, torch.arange(23) % CLASSES
    with RecordClipper(
        model, clip=0.7, objective=objective, physical_batch=8, reference=reference
    ) as clipper:
        found = clipper.clipped_sum(inputs, labels)
    expected = loop(model, inputs, labels, objective, 0.7)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_a_head_with_a_hinge_equals_the_loop_too() -> None:
    torch.manual_seed(2)
    head, objective = CentredHead(classes=CLASSES, dimension=FEATURES), Objective(loss="hinge")
    nn.init.normal_(head.scores.weight)
    nn.init.normal_(head.centring.mean)
    inputs, labels = torch.randn(11, 1, FEATURES), torch.arange(11) % CLASSES
    with RecordClipper(head, clip=0.2, objective=objective) as clipper:
        found = clipper.clipped_sum(inputs, labels)
    expected = loop(head, inputs, labels, objective, 0.2)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"class_prior": "a=1,b=2,c=1"}, {"class_prior": (0.25, 0.5, 0.25)}),
    ],
)
def test_what_a_hinge_can_not_have_is_refused_by_server_and_merchant(
    tmp_path: Path, given: dict[str, Any], stated: dict[str, Any]
) -> None:
    option = f"--{next(iter(given)).replace('_', '-')}"
    said = f"{option} has no meaning with --loss hinge: leave it out, or take cross-entropy"
    for classes in (None, ("a", "b", "c")):
        with pytest.raises(ConfigError, match=said):
            settle_objective(SimulationConfig(loss="hinge", **given), classes)
    with pytest.raises(ConfigError, match=said):
        derive(Cohort(tmp_path).plan(objective=Objective(loss="hinge", **stated)))


def test_with_the_classes_own_shares_as_prior_equal_scores_are_the_minimum() -> None:
    """Records of which nothing but the label is known: the model has nothing to say beyond the shares."""
    labels = torch.tensor([0] * 12 + [1] * 6 + [2] * 2 + [3] * 4)
    prior = settle_objective(SimulationConfig(class_prior="d=4,b=6,a=12,c=2"), tuple("abcd"))
    for objective, at_minimum in ((prior, True), (PLAIN, False)):
        scores = torch.zeros(CLASSES, requires_grad=True)
        (slope,) = torch.autograd.grad(objective_sum(objective, scores.expand(24, -1), labels), scores)
        assert bool(slope.abs().max() < 1e-5) is at_minimum


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=1;b=2", "'a=1;b=2' is no class with a number above 0 that stands once: write CLASS=WEIGHT"),
        ("a=1,b", "'b' is no class with a number above 0 that stands once: write CLASS=WEIGHT"),
        ("a=1,b=0", "'b=0' is no class"),
        ("a=1,b=inf", "'b=inf' is no class"),
        ("a=1,b=2,a=1", "'a=1' is no class"),
        ("a=1", "--class-prior lacks b: give each of the 2 classes a weight"),
        ("a=1,b=2,x=3", "--class-prior names x, which the data has not"),
        ("a=1,b=1e12", "gives a class less than 1e-09"),
    ],
)
def test_a_prior_that_can_not_be_used_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settle_objective(SimulationConfig(class_prior=text), ("a", "b"))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_plan_has_a_share_for_each_class_or_none(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not one share for each class"):
        Cohort(tmp_path).plan(objective=Objective(loss="cross-entropy", class_prior=(0.5, 0.5)))


def test_merchants_minimise_what_the_plan_says(tmp_path: Path) -> None:
    objective = Objective(loss="hinge")
    plan = Cohort(tmp_path).plan(objective=objective, clipping="automatic")
    settings = DpSgdSettings.of_plan(plan)
    assert (settings.objective, settings.clipping, settings.clip) == (objective, "automatic", plan.clip)
    assert plan.training_id != plan.model_copy(update={"objective": PLAIN}).training_id
