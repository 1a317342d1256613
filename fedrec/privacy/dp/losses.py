"""The losses whose per-record gradients are clipped. Each is a sum over the images of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.protocol.plan import LossName, Objective

CROSS_ENTROPY_OBJECTIVE: Final = Objective()
"""The objective of a training that sets none."""


@dataclass(frozen=True)
class Loss:
    """A loss. A record's value must not depend on the other records: clipping would bound nothing.

    Attributes:
        name: the plan's name of the loss.
        total: the loss summed over images, a scalar, from logits (n, k), labels int64 (n,), and the share of
            a label that label smoothing spreads over all classes.
        smooths: whether label smoothing has a meaning.
    """

    name: LossName
    total: Callable[[Tensor, Tensor, float], Tensor]
    smooths: bool


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def _hinge(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    rivals = logits + 1.0 - F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    own = logits.gather(1, labels[:, None])[:, 0]
    # Of equal rivals each has its share of the gradient: at the start all scores may be zero.
    return torch.sum(rivals.amax(dim=1) - own)


CROSS_ENTROPY: Final = Loss(name="cross-entropy", total=_cross_entropy, smooths=True)
"""-log softmax(logits) of the label, averaged with that of all classes where labels are smoothed."""
HINGE: Final = Loss(name="hinge", total=_hinge, smooths=False)
"""max(0, 1 + the highest other score - the label's): a linear SVM (Crammer and Singer 2001) on a head."""
LOSSES: Final[Mapping[LossName, Loss]] = {loss.name: loss for loss in (CROSS_ENTROPY, HINGE)}


def check_objective(objective: Objective) -> None:
    """Raise ``ConfigError`` for an objective that has no meaning."""
    loss = LOSSES[objective.loss]
    if objective.label_smoothing and not loss.smooths:
        known = ", ".join(name for name, other in LOSSES.items() if other.smooths)
        raise ConfigError(
            f"--label-smoothing has no meaning with --loss {loss.name}: leave it out, or take {known}"
        )


def objective_sum(objective: Objective, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute what is minimised, summed over images.

    Args:
        objective: the plan's objective.
        logits: (n, k).
        labels: int64 (n,).

    Returns:
        A scalar.
    """
    return LOSSES[objective.loss].total(logits, labels, objective.label_smoothing)
