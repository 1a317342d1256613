"""The linear layer that is trained on the features of frozen networks."""

from __future__ import annotations

from torch import Tensor, nn

from fedrec.errors import ConfigError


class LinearHead(nn.Module):
    """Linear layer from features (n, dimension) to class scores (n, classes); all its weights start at zero.

    The loss is convex, so the start doesn't matter, and zero favours no class.

    Raises:
        ConfigError: there is no class.
    """

    def __init__(self, *, classes: int, dimension: int) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"a linear head needs at least one class: it was given {classes}")
        self.scores = nn.Linear(dimension, classes)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        scores: Tensor = self.scores(features)
        return scores
