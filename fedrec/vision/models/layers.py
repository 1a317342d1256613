"""Building blocks whose per-record gradients are independent: no batch statistics, nothing in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError

_LARGEST_SEED: Final = 2**63
_WEIGHT_EPSILON: Final = 1e-5


def group_norm(channels: int) -> nn.GroupNorm:
    """Make a GroupNorm layer (Wu and He 2018) with the most groups up to 8 that divide ``channels``.

    Statistics are taken within one record, never across a batch: with BatchNorm a record's gradient
    would depend on the others, and clipping it would bound nothing.

    Args:
        channels: number of channels.

    Returns:
        The layer.
    """
    groups = next(count for count in range(min(8, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class WSConv2d(nn.Conv2d):
    """A convolution whose weight is standardised before use (Qiao et al. 2019, "Weight Standardization").

    Each output channel's weight w becomes (w - mean) / sqrt(variance + 1e-5), so that its scale says nothing.
    It is a function of the weight alone: records stay independent.
    """

    def standardised(self) -> Tensor:
        """Return the weight as it is used, of the weight's shape."""
        return (self.weight - self._mean()) / self.deviation()

    def deviation(self) -> Tensor:
        """Return what each output channel's weight is divided by, (outputs, 1, 1, 1)."""
        variance: Tensor = self.weight.var(dim=(1, 2, 3), correction=0, keepdim=True)
        return torch.sqrt(variance + _WEIGHT_EPSILON)

    def _mean(self) -> Tensor:
        return self.weight.mean(dim=(1, 2, 3), keepdim=True)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with the standardised weight."""
        convolved: Tensor = self._conv_forward(input, self.standardised(), self.bias)
        return convolved


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, section 3.3), with GroupNorm.

    Maps (n, inputs, H, W) float32 to (n, outputs, H / stride, W / stride).
    """

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = group_norm(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = group_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), group_norm(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the block."""
        hidden = F.relu(self.norm1(self.convolution1(inputs)))
        # Not in place, which would break the hooks by which Opacus takes per-record gradients.
        return F.relu(self.norm2(self.convolution2(hidden)) + self.shortcut(inputs))


def seeded_build(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Run ``make`` with torch's CPU generator seeded by ``seed``, then restore the generator.

    The initial weights are public: they hide nothing, they only have to be the same everywhere.

    Args:
        make: builds the network.
        seed: 0 to 2**63 - 1.

    Returns:
        The network.

    Raises:
        ConfigError: ``seed`` is out of range.
    """
    if not 0 <= seed < _LARGEST_SEED:
        raise ConfigError(f"the seed of the initial weights is {seed}: give one from 0 to 2**63 - 1")
    with torch.random.fork_rng(devices=[]):
        # The CPU generator only: torch.manual_seed would also reseed an accelerator's, which devices=[]
        # doesn't restore.
        torch.default_generator.manual_seed(seed)
        return make()
