"""Run a network of timm's by torch, as the extractor of a head's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.vision.backbones.one_picture import Colours, OnePictureNetwork
from fedrec.vision.backbones.weights_files.architecture import LAYER, pooled_features


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
