"""The small convolutional network: two convolutions, one hidden layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.vision.models.layers import WSConv2d, group_norm

SMALLEST_SIZE = 8
"""Smallest side of an input picture, in pixels."""


class SmallCnn(nn.Module):
    """Maps (n, channels, size, size) float32 to class scores (n, classes).

    Two 3x3 convolutions (32 and 64 channels), each with GroupNorm, ReLU and 2x2 max-pooling, then a
    hidden layer with ReLU and a linear layer. ``standardised`` standardises the convolutions' weights.

    Raises:
        ConfigError: ``size`` is below 8, or there is no class.
    """

    def __init__(
        self, *, classes: int, channels: int, size: int, hidden: int = 128, standardised: bool = False
    ) -> None:
        super().__init__()
        if size < SMALLEST_SIZE or classes < 1:
            raise ConfigError(
                f"model cnn needs pictures of {SMALLEST_SIZE} pixels a side or more and at least one class: "
                f"it was given {size} pixels and {classes} classes"
            )
        convolution = WSConv2d if standardised else nn.Conv2d
        self.convolution1 = convolution(channels, 32, 3, padding=1)
        self.norm1 = group_norm(32)
        self.convolution2 = convolution(32, 64, 3, padding=1)
        self.norm2 = group_norm(64)
        # Each pooling halves the side and drops an odd last row.
        self.hidden = nn.Linear(64 * (size // 2 // 2) ** 2, hidden)
        self.scores = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        first = F.max_pool2d(F.relu(self.norm1(self.convolution1(images))), 2)
        second = F.max_pool2d(F.relu(self.norm2(self.convolution2(first))), 2)
        scores: Tensor = self.scores(F.relu(self.hidden(second.flatten(1))))
        return scores
