"""A linear head on features less their mean, which a training releases in its first round."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError

_LEAST_LENGTH: Final = 1e-12
"""Shorter vectors are divided by this, as ``normalize`` does."""


class Centring(nn.Module):
    """Subtract a released mean from features, and scale each difference to unit length.

    Features of one network share a direction that says nothing about the class. Without it, the same clip and
    noise leave more of what does. ``mean`` is zero until a round has released it, which changes only the
    features' length. It isn't learnt: no gradient of the loss reaches it.

    Args:
        dimension: d, the length of a feature vector.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) to centred features (n, d) of unit length."""
        centred = features - self.mean.detach()
        if centred.requires_grad:
            return F.normalize(centred, dim=1)
        # In place: another matrix of long features would be fetched from the system in every pass.
        return centred.div_(torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp_min_(_LEAST_LENGTH))


class CentredHead(nn.Module):
    """Map features (n, d) to class scores (n, classes): centring, then a linear layer that starts at zero.

    It has no bias. A bias is a coordinate in which all records agree: it takes a share of every clipped
    gradient, adds as much noise to a score as all features do, and its curvature allows far shorter steps.

    Args:
        classes: k, the number of classes.
        dimension: d, the length of a feature vector.

    Raises:
        ConfigError: there is no class.
    """

    def __init__(self, *, classes: int, dimension: int) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"a linear head needs at least one class: it was given {classes}")
        self.centring = Centring(dimension)
        self.scores = nn.Linear(dimension, classes, bias=False)
        nn.init.zeros_(self.scores.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        scores: Tensor = self.scores(self.centring(features))
        return scores


def lacks_mean(parameters: NDArray[np.float32] | NDArray[np.float64], where: slice | None) -> bool:
    """Tell whether the next sum is that of the features, since no round has released their mean yet.

    Server and merchants decide it alike, from the parameters of the round.

    Args:
        parameters: a model's flat parameter vector, shape (d,).
        where: its :func:`mean_coordinates`.

    Returns:
        Whether the model centres features, and its mean is still zero.
    """
    return where is not None and not parameters[where].any()


def mean_coordinates(model: nn.Module) -> slice | None:
    """Find the coordinates of a model's released mean in its flat parameter vector.

    Args:
        model: any model.

    Returns:
        The coordinates in ``named_parameters()`` order of the trainable parameters; None for a model that
        centres nothing.
    """
    owned = {id(module.mean) for module in model.modules() if isinstance(module, Centring)}
    start = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in owned:
            return slice(start, start + parameter.numel())
        start += parameter.numel()
    return None
