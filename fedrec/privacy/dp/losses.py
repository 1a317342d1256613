"""The losses whose per-record gradients are clipped. Each is a sum over the images of a pass.

Torch is imported on use: a plan's objective is also checked by commands that compute no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedrec.errors import ConfigError
from fedrec.protocol.plan import LossName, Objective

if TYPE_CHECKING:
    from torch import Tensor

CROSS_ENTROPY_OBJECTIVE: Final = Objective(loss="cross-entropy")
"""The objective of a training that sets none."""


@dataclass(frozen=True)
class Loss:
    """A loss. A record's value must not depend on the other records: clipping would bound nothing.

    Attributes:
        name: the plan's name of the loss.
        total: the loss summed over images, a scalar, from logits (n, k), labels int64 (n,), and the share of
            a label that label smoothing spreads over all classes.
        of_probabilities: whether the scores are logits of probabilities, so that label smoothing and a class
            prior have a meaning.
    """

    name: LossName
    total: Callable[[Tensor, Tensor, float], Tensor]
    of_probabilities: bool


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def _hinge(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    from torch.nn.functional import one_hot

    rivals = logits + 1.0 - one_hot(labels, logits.shape[1]).to(logits.dtype)
    own = logits.gather(1, labels[:, None])[:, 0]
    # Of equal rivals each has its share of the gradient: at the start all scores may be zero.
    return (rivals.amax(dim=1) - own).sum()


CROSS_ENTROPY: Final = Loss(name="cross-entropy", total=_cross_entropy, of_probabilities=True)
"""-log softmax(logits) of the label, averaged with that of all classes where labels are smoothed."""
HINGE: Final = Loss(name="hinge", total=_hinge, of_probabilities=False)
"""max(0, 1 + the highest other score - the label's): a linear SVM (Crammer and Singer 2001) on a head."""
LOSSES: Final[Mapping[LossName, Loss]] = {loss.name: loss for loss in (CROSS_ENTROPY, HINGE)}


def check_objective(objective: Objective) -> None:
    """Raise ``ConfigError`` for an objective that has no meaning."""
    loss = LOSSES[objective.loss]
    if loss.of_probabilities or not (objective.label_smoothing or objective.class_prior):
        return
    option = "--label-smoothing" if objective.label_smoothing else "--class-prior"
    known = ", ".join(name for name, other in LOSSES.items() if other.of_probabilities)
    raise ConfigError(f"{option} has no meaning with --loss {loss.name}: leave it out, or take {known}")


def objective_sum(objective: Objective, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute what is minimised, summed over images.

    With a class prior p, the loss is that of the scores plus log p (logit adjustment; Menon et al. 2021,
    "Long-tail learning via logit adjustment"). The model then learns what speaks for a class beyond its
    share: its own scores are those of equally frequent classes. The prior is public, so that no count of
    anybody's records is used.

    Args:
        objective: the plan's objective.
        logits: (n, k).
        labels: int64 (n,).

    Returns:
        A scalar.
    """
    if objective.class_prior:
        logits = logits + logits.new_tensor(objective.class_prior).log()
    return LOSSES[objective.loss].total(logits, labels, objective.label_smoothing)
