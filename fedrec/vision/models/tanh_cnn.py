"""A small convolutional network with tanh (Papernot et al. 2021, "Tempered Sigmoid Activations")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError

SMALLEST_SIZE = 14
"""Smallest side of an input picture, in pixels: the last pooling then gives 1x1."""


class TanhCnn(nn.Module):
    """Maps (n, channels, size, size) float32 to class scores (n, classes).

    Two convolutions of stride 2 (16 of 8x8, 32 of 4x4), each with tanh and 2x2 max-pooling of stride 1, a
    hidden layer of 32 with tanh, and a linear layer: 26,010 parameters for 10 classes and grey pictures of 28
    pixels. tanh bounds what a layer gives, so that gradients stay short and lose less to clipping, and few
    parameters need less noise.

    Raises:
        ConfigError: ``size`` is below 14, or there is no class.
    """

    def __init__(self, *, classes: int, channels: int, size: int) -> None:
        super().__init__()
        if size < SMALLEST_SIZE or classes < 1:
            raise ConfigError(
                f"model cnn-tanh needs pictures of {SMALLEST_SIZE} pixels a side or more and at least one "
                f"class: it was given {size} pixels and {classes} classes"
            )
        self.convolution1 = nn.Conv2d(channels, 16, 8, stride=2, padding=3)
        self.convolution2 = nn.Conv2d(16, 32, 4, stride=2)
        # size // 2 after the first convolution, one less after its pooling, and so on.
        side = (size // 2 - 5) // 2
        self.hidden = nn.Linear(32 * side**2, 32)
        self.scores = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        first = F.max_pool2d(torch.tanh(self.convolution1(images)), 2, stride=1)
        second = F.max_pool2d(torch.tanh(self.convolution2(first)), 2, stride=1)
        scores: Tensor = self.scores(torch.tanh(self.hidden(second.flatten(1))))
        return scores
