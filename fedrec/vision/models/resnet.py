"""ResNet-18 (He et al. 2016) for small pictures, with GroupNorm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.vision.models.layers import ResidualBlock, group_norm

SMALLEST_SIZE = 16
"""Smallest side of an input picture, in pixels: the last stage then sees 1x1."""
_STAGES = (64, 128, 256, 512)


class ResNet18(nn.Module):
    """Maps (n, channels, size, size) float32 to class scores (n, classes); any ``size`` from 16.

    The stem is one 3x3 convolution of stride 2 without pooling: at 64 pixels the four stages see
    32, 16, 8 and 4 a side. The paper's 7x7 stem with pooling is made for 224 pixels and would leave 2.

    Raises:
        ConfigError: ``size`` is below 16, or there is no class.
    """

    def __init__(self, *, classes: int, channels: int, size: int) -> None:
        super().__init__()
        if size < SMALLEST_SIZE or classes < 1:
            raise ConfigError(
                f"model resnet18 needs pictures of {SMALLEST_SIZE} pixels a side or more and at least one "
                f"class: it was given {size} pixels and {classes} classes"
            )
        self.stem = nn.Conv2d(channels, _STAGES[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = group_norm(_STAGES[0])
        blocks: list[nn.Module] = []
        inputs = _STAGES[0]
        for stage, outputs in enumerate(_STAGES):
            blocks.append(ResidualBlock(inputs=inputs, outputs=outputs, stride=1 if stage == 0 else 2))
            blocks.append(ResidualBlock(inputs=outputs, outputs=outputs, stride=1))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.scores = nn.Linear(inputs, classes)

    def maps(self, images: Tensor) -> Tensor:
        """Return the maps (n, channels, height, width) whose means are the last layer's input."""
        hidden: Tensor = self.blocks(F.relu(self.stem_norm(self.stem(images))))
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        scores: Tensor = self.scores(self.maps(images).mean(dim=(2, 3)))
        return scores
