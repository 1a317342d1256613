"""An EfficientNet-Lite that gives the maps which its features are the means of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fedrec.vision.backbones.folded_network import fold_norms, stage_ends
from fedrec.vision.backbones.traceable import Maps


class LiteMaps(nn.Module):
    """The maps of the last convolution and of all stages, with batch norms folded.

    Args:
        network: the package's network; it is changed.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.eval().requires_grad_(False)
        fold_norms(network)
        self._network = network
        self._ends = stage_ends(network)

    def forward(self, pictures: Tensor) -> Maps:
        """Compute the maps of uint8 pictures (n, size, size, 3)."""
        network = self._network
        hidden = network._swish(network._conv_stem(((pictures.float() - 127.0) / 128.0).permute(0, 3, 1, 2)))
        stages = []
        for index, block in enumerate(network._blocks):
            hidden = block(hidden)
            if index in self._ends:
                stages.append(hidden)
        final: Tensor = network._swish(network._conv_head(hidden))
        return (final,), tuple(stages)
