"""A linear head that isn't trained by gradients: one sum of the records' statistics determines it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError


class DiscriminantHead(nn.Module):
    """Map features (n, k) to class scores (n, classes) linearly: a linear discriminant.

    Its parameters have the shape of the statistics that determine them, in the same order: ``weight`` that of
    the classes' sums of features, ``bias`` that of their counts, and ``scatter`` that of the upper triangle
    of a symmetric matrix (k, k), by rows. A merchant's upload is a sum of statistics, and the server replaces
    them by what it solves from them. So one plan, one dimension and one file format serve for both.

    ``scatter`` is the covariance within classes that was used; scores don't depend on it.

    Args:
        classes: number of classes.
        dimension: k, the length of a feature vector.

    Raises:
        ConfigError: there is no class.
    """

    def __init__(self, *, classes: int, dimension: int) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"a linear head needs at least one class: it was given {classes}")
        self.weight = nn.Parameter(torch.zeros(classes, dimension))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.scatter = nn.Parameter(torch.zeros(dimension * (dimension + 1) // 2))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.weight.shape[0]

    @property
    def dimension(self) -> int:
        """Length of a feature vector, k."""
        return self.weight.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        return F.linear(features, self.weight, self.bias)
