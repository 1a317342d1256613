"""Losses by hand and by torch, and their clipped sums against a loop of autograd over records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.losses import objective_sum
from fedrec.privacy.dp.step import DpSgdSettings
from fedrec.protocol.plan import Objective
from fedrec.server.settled_options import settle
from fedrec.vision import model_registry
from fedrec.vision.models.centred_head import CentredHead
from tests.support.cohort import Cohort

CLASSES, FEATURES = 4, 9
OBJECTIVES = [
    Objective(),
    Objective(label_smoothing=0.3),
    Objective(loss="hinge"),
]


def by_hand(objective: Objective, scores: list[float], label: int) -> float:
    """One record's loss in plain floats."""
    if objective.loss == "hinge":
        highest = max(score for place, score in enumerate(scores) if place != label)
        return max(0.0, 1.0 + highest - scores[label])
    logs = np.asarray(scores) - np.log(np.sum(np.exp(scores)))
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
            loss = nn.CrossEntropyLoss(label_smoothing=objective.label_smoothing)(scores, target)
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


def test_label_smoothing_with_a_hinge_is_refused_by_server_and_merchant(tmp_path: Path) -> None:
    said = "--label-smoothing has no meaning with --loss hinge: leave it out, or take cross-entropy"
    options = SimulationConfig(loss="hinge", label_smoothing=0.1)
    with pytest.raises(ConfigError, match=said):
        settle(options, model_registry.get("cnn").defaults, merchants=4)
    plan = Cohort(tmp_path).plan(objective=Objective(loss="hinge", label_smoothing=0.1))
    with pytest.raises(ConfigError, match=said):
        derive(plan)


def test_merchants_minimise_what_the_plan_says(tmp_path: Path) -> None:
    objective = Objective(loss="hinge")
    plan = Cohort(tmp_path).plan(objective=objective, clipping="automatic")
    settings = DpSgdSettings.of_plan(plan)
    assert (settings.objective, settings.clipping, settings.clip) == (objective, "automatic", plan.clip)
    assert plan.training_id != plan.model_copy(update={"objective": Objective()}).training_id
