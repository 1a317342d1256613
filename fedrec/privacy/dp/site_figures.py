"""Sum site figures over a merchant's units: its class, whether the model is right about it, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import MAX_RECORDS
from fedrec.privacy.dp.evaluation_mode import evaluation_mode
from fedrec.privacy.dp.failing_records import FailingRecords
from fedrec.privacy.dp.figures_noise import (
    CLIP,
    CORRECT_WEIGHT,
    COUNT_WEIGHT,
    LOSS_WEIGHT,
    largest_loss,
)
from fedrec.privacy.dp.full_precision import full_float32
from fedrec.protocol.site_figures import figures_length


@dataclass(frozen=True)
class UnitFigures:
    """What is summed of each unit.

    Attributes:
        labels: int64 (n,), the class.
        correct: float64 (n,), 1 where the model is right.
        losses: float64 (n,), the loss.
    """

    labels: NDArray[np.int64]
    correct: NDArray[np.float64]
    losses: NDArray[np.float64]


def unit_figures(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, classes: int, chosen: Tensor | None = None
) -> UnitFigures:
    """Let the model judge each unit.

    A unit's probabilities are the mean of its views', its class the likeliest of them, and its loss the mean
    of its views' cross-entropies, without smoothing and without a class prior. The model is left as it was.

    Args:
        model: the model; its outputs are scores, one a class.
        inputs: (n, V, ...), V views per unit; n may be 0.
        labels: int64 (n,), below ``classes``.
        classes: number of classes.
        chosen: positions of the units to judge, int64; None for all. A pass takes its unit out of the inputs,
            so that those which are mapped from disk don't take memory together.

    Returns:
        The figures, not clipped; losses of a model with scores that aren't finite aren't either.

    Raises:
        ConfigError: the model has scores of another number of classes, or a shape or a label doesn't fit.
    """
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
        raise ConfigError(
            f"site figures: expects inputs [n, views, ...] and labels [n], not {tuple(inputs.shape)} and "
            f"{tuple(labels.shape)}."
        )
    own = (labels if chosen is None else labels[chosen.to(labels.device)]).cpu()
    count = len(own)
    if not count:
        none = np.zeros(0)
        return UnitFigures(none.astype(np.int64), none, none)
    if not 0 <= int(own.min()) <= int(own.max()) < classes:
        raise ConfigError(f"site figures: a label is outside 0 to {classes - 1}.")
    places = range(count) if chosen is None else chosen.tolist()
    scores = _scores(model, inputs, places, classes=classes).double().cpu()
    if scores.shape[2] != classes:
        raise ConfigError(f"site figures: the model has {scores.shape[2]} scores for {classes} classes.")
    likeliest = scores.softmax(dim=2).mean(dim=1).argmax(dim=1)
    # Where scores aren't finite, which of them is the largest has no meaning.
    usable = torch.isfinite(scores).all(dim=2).all(dim=1)
    every = own[:, None].expand(-1, scores.shape[1])
    losses = cross_entropy(scores.flatten(0, 1), every.flatten(), reduction="none")
    return UnitFigures(
        labels=own.numpy(),
        correct=((likeliest == own) & usable).double().numpy(),
        losses=losses.reshape(count, -1).mean(dim=1).numpy(),
    )


def clipped_figures_sum(figures: UnitFigures, *, classes: int) -> NDArray[np.float64]:
    """Sum the units' vectors of figures, each clipped to norm 1.

    A loss that isn't finite counts as the largest one. The sum's L2 sensitivity is 1. All operations are in
    float64: over n units a sum is off by at most n * 2**-53 times n in norm, for two sums of ``MAX_RECORDS``
    units together by less than ``FLOAT_SLACK`` allows.

    Args:
        figures: of each unit.
        classes: number of classes.

    Returns:
        float64 (classes + 2,): weighted counts by class, then the correct ones, then the losses.

    Raises:
        ConfigError: there are more than 2**17 units.
    """
    count = len(figures.labels)
    if count > MAX_RECORDS:
        raise ConfigError(f"site figures: {count} units, the limit is {MAX_RECORDS}.")
    bound = largest_loss(classes)
    losses = np.clip(np.nan_to_num(figures.losses, nan=bound), 0.0, bound)
    parts = np.stack(
        [
            np.full(count, COUNT_WEIGHT),
            CORRECT_WEIGHT * np.clip(np.nan_to_num(figures.correct), 0.0, 1.0),
            LOSS_WEIGHT / bound * losses,
        ]
    )
    # By construction no vector is longer than 1, but for rounding; what is proved must not rest on that.
    parts *= CLIP / np.maximum(CLIP, np.sqrt(np.square(parts).sum(axis=0)))
    total = np.zeros(figures_length(classes))
    np.add.at(total, figures.labels, parts[0])
    total[classes], total[classes + 1] = parts[1].sum(), parts[2].sum()
    return total


def _scores(model: nn.Module, inputs: Tensor, places: Sequence[int], *, classes: int) -> Tensor:
    """Return the scores of these units' views, (n, V, k): each unit has a pass of its own, without gradients.

    Whether the model is right jumps between 0 and 1. A last digit that depended on other units, as it may
    where several share a pass, could therefore change a unit's vector by more than rounding.

    Args:
        model: the model.
        inputs: (any number, V, ...).
        places: positions of the n >= 1 units.
        classes: number of classes.

    Returns:
        The scores; NaN for a unit on which the model fails.

    Raises:
        ConfigError: the model doesn't return scores by class.
    """
    parameter = next(model.parameters(), None)
    device = inputs.device if parameter is None else parameter.device
    failing = FailingRecords()

    def scores_of(place: int) -> Tensor:
        try:
            scores: Tensor = model(inputs[place].to(device))
        # Every exception is caught: a model's code and torch can raise anything.
        except Exception as error:
            failing.add(error)
            return torch.full((inputs.shape[1], classes), torch.nan, device=device)
        return scores

    with evaluation_mode(model), full_float32(device), torch.no_grad():
        found = torch.stack([scores_of(place) for place in places])
    failing.log()
    if found.ndim != 3:
        raise ConfigError(f"site figures: expects scores [views, classes], not {tuple(found.shape[1:])}.")
    return found
