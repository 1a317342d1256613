"""Split an EfficientNet-Lite before its last convolution, whose input is computed once and cached.

The positions of the map that enters it are its tokens, as those of a vision transformer are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedrec.protocol.schema import sha256_hex
from fedrec.vision.backbones.backbone import SharedNetwork
from fedrec.vision.backbones.efficientnet_lite import EfficientNetLite
from fedrec.vision.backbones.folded_network import FoldedNetwork, fold_norms
from fedrec.vision.backbones.frozen_part import TokenExtractor
from fedrec.vision.models.centred_head import CentredHead

LAST: Final = "_conv_head"
"""Name of the last convolution in the package's network."""
_LAYER: Final = "tokens"
_STRIDE: Final = 32
"""Pixels of a picture for a position of the last blocks."""


@dataclass(frozen=True)
class FrozenBlocks:
    """An EfficientNet-Lite up to its last convolution, as a backbone of one layer.

    Attributes:
        whole: the network.
        size: side of its pictures in pixels.
    """

    whole: EfficientNetLite
    size: int

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.whole.name

    @property
    def shape(self) -> tuple[int, int]:
        """The positions of the map that enters the last convolution, and its channels."""
        return (-(-self.size // _STRIDE)) ** 2, self.whole.widths[-1]

    @property
    def layers(self) -> Mapping[str, int]:
        """The tokens of a picture side by side, as one layer."""
        count, width = self.shape
        return {_LAYER: count * width}

    @property
    def dtype(self) -> torch.dtype:
        """Number format in which this machine computes them."""
        return self.whole.dtype

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless the packages are installed; loads no weights."""
        self.whole.check()

    def weights_hash(self) -> str:
        """Hash what tokens depend on: the weights, and where the network is split.

        Returns:
            SHA-256, hexadecimal.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        return sha256_hex(json.dumps([self.whole.weights_hash(), LAST]).encode())

    def load(self, *, size: int, dtype: torch.dtype) -> TokenNetwork:
        """Load the blocks.

        Args:
            size: side of the pictures in pixels.
            dtype: number format of the computation.

        Returns:
            The network.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        return TokenNetwork(self.whole.network(size), size=size, dtype=dtype)

    def extractor(self, *, dtype: torch.dtype | None = None) -> TokenExtractor:
        """Return what computes and caches the tokens of photos, from the view ``wide``.

        Args:
            dtype: number format of the computation; None for this machine's.

        Returns:
            The extractor; raises as :meth:`load` on first use.
        """
        return TokenExtractor(SharedNetwork(self, size=self.size, dtype=dtype or self.dtype), "wide")

    def last_convolution(self) -> nn.Conv2d:
        """Load the last convolution, frozen, with its batch norm folded into it.

        The norm uses the statistics of its own training, not those of a batch. A process loads the weights
        once, and all models share their memory. On torch's meta device there is a shape alone, and no file
        is read.

        Returns:
            The convolution, which the caller leaves as it is.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        if torch.get_default_device().type == "meta":
            return _folded(self.whole.shapes_alone(self.size))
        return _loaded(self.whole, self.size)

    def on_pictures(self, model: nn.Module) -> CompletedNetwork:
        """Put the blocks before a model on their tokens.

        Args:
            model: maps tokens (n, count, width) to class scores, by way of its ``maps`` and its ``head``.

        Returns:
            A module from pictures (n, 3, size, size), normalised as the package does, to class scores.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        return CompletedNetwork(self.whole.network(self.size), model).eval()


@lru_cache(maxsize=2)
def _loaded(whole: EfficientNetLite, size: int) -> nn.Conv2d:
    return _folded(whole.network(size))


def _folded(network: Any) -> nn.Conv2d:
    network.eval().requires_grad_(False)
    fold_norms(network)
    convolution: nn.Conv2d = getattr(network, LAST)
    return convolution.requires_grad_(False)


def _tokens(network: Any, inputs: Tensor) -> Tensor:
    """Run a folded network up to its last convolution: (n, 3, size, size) to (n, count, width)."""
    hidden = network._swish(network._conv_stem(inputs))
    for block in network._blocks:
        hidden = block(hidden)
    tokens: Tensor = hidden.permute(0, 2, 3, 1).flatten(1, 2)
    return tokens


class TokenNetwork(FoldedNetwork):
    """The blocks made fast for evaluation, from uint8 pictures to tokens side by side."""

    def _layers(self, inputs: Tensor) -> dict[str, Tensor]:
        return {_LAYER: _tokens(self._network, inputs).flatten(1).float()}


class CompletedNetwork(nn.Module):
    """The blocks and a model on their tokens, from normalised pictures to class scores, in float32.

    Args:
        network: the package's network; it is changed.
        model: maps tokens to class scores, by way of its ``maps`` and its ``head``.
    """

    model: Any

    def __init__(self, network: Any, model: nn.Module) -> None:
        super().__init__()
        network.eval().requires_grad_(False)
        fold_norms(network)
        self.network, self.model = network, model

    @property
    def head(self) -> CentredHead:
        """What maps the means of the maps to scores."""
        head: CentredHead = self.model.head
        return head

    def maps(self, pictures: Tensor) -> Tensor:
        """Compute the maps whose means over positions the head takes."""
        maps: Tensor = self.model.maps(_tokens(self.network, pictures))
        return maps

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        scores: Tensor = self.model(_tokens(self.network, pictures))
        return scores
