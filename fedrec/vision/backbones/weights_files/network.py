"""Run a network of timm's by torch, as the extractor of a head's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.vision.backbones.one_picture import Colours, OnePictureNetwork
from fedrec.vision.backbones.traceable import Maps
from fedrec.vision.backbones.weights_files.architecture import LAYER
from fedrec.vision.backbones.weights_files.layers import pooled_features
from fedrec.vision.normalisation import normalise


class WeightsNetwork(OnePictureNetwork):
    """A network given as architecture and weights.

    Args:
        network: the loaded network, frozen and in evaluation mode.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(self, network: nn.Module, *, mean: Colours, std: Colours) -> None:
        super().__init__(layers=(LAYER,), mean=mean, std=std)
        self._network = network

    def _run(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.generic]]:
        with torch.inference_mode():
            return [pooled_features(self._network, torch.from_numpy(batch)).numpy()]


class TokensNetwork(OnePictureNetwork):
    """The leading part of a network, whose tokens side by side are the features.

    Args:
        network: maps normalised pictures (n, 3, size, size) to tokens (n, count, width).
        layer: name of the tokens.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(self, network: nn.Module, *, layer: str, mean: Colours, std: Colours) -> None:
        super().__init__(layers=(layer,), mean=mean, std=std)
        self._network = network

    def _run(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.generic]]:
        with torch.inference_mode():
            return [self._network(torch.from_numpy(batch)).flatten(1).numpy()]


class WeightsMaps(nn.Module):
    """The same network from uint8 pictures to its pooled features, as a module that torch can export.

    Args:
        network: the loaded network, frozen and in evaluation mode.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(self, network: nn.Module, *, mean: Colours, std: Colours) -> None:
        super().__init__()
        self._network = network
        self._mean, self._std = mean, std

    def forward(self, pictures: Tensor) -> Maps:
        """Compute the features of uint8 pictures (n, size, size, 3)."""
        return ((pooled_features(self._network, normalise(pictures, mean=self._mean, std=self._std)),),)
