"""The tokens of an added network's frozen blocks, computed once and cached as features are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from fedrec.errors import ConfigError
from fedrec.protocol.schema import sha256_hex
from fedrec.vision.backbones.backbone import SharedNetwork
from fedrec.vision.backbones.backbone_files import Preparation
from fedrec.vision.backbones.file_backbone import FileBackbone, frozen_network
from fedrec.vision.backbones.frozen_part import TokenExtractor
from fedrec.vision.backbones.one_picture import OnePictureNetwork
from fedrec.vision.backbones.weights_files.network import TokensNetwork
from fedrec.vision.backbones.weights_files.split import LeadingPart

_LAYER: Final = "tokens"


@dataclass(frozen=True)
class FrozenTokens:
    """A vision transformer up to the first block that is adapted, as a backbone of one layer.

    Attributes:
        preparation: of the added network, which has frozen blocks.
    """

    preparation: Preparation

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.preparation.name

    @property
    def blocks(self) -> int:
        """The number of frozen blocks."""
        return self.preparation.frozen_blocks or 0

    @property
    def shape(self) -> tuple[int, int]:
        """Count and width of a picture's tokens."""
        if self.preparation.tokens is None:
            raise ConfigError(f"backbone '{self.name}' can't be split between its blocks")
        return self.preparation.tokens

    @property
    def layers(self) -> Mapping[str, int]:
        """The tokens of a picture side by side, as one layer."""
        count, width = self.shape
        return {_LAYER: count * width}

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the computation."""
        return torch.float32

    def check(self) -> None:
        """Raise ``MissingExtraError`` or ``ConfigError`` unless it can be loaded."""
        FileBackbone(self.preparation).check()

    def weights_hash(self) -> str:
        """Hash what tokens depend on: the features' own dependencies, and the number of blocks.

        Returns:
            SHA-256, hexadecimal.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        parts = [FileBackbone(self.preparation).weights_hash(), "tokens", self.blocks]
        return sha256_hex(json.dumps(parts).encode())

    def load(self, *, size: int, dtype: torch.dtype) -> OnePictureNetwork:
        """Load the network.

        Args:
            size: side of the pictures in pixels, that of the preparation.
            dtype: number format, float32.

        Returns:
            The network.

        Raises:
            MissingExtraError: timm isn't installed.
            ConfigError: the file is missing or damaged.
        """
        made = self.preparation
        return TokensNetwork(self.module(), layer=_LAYER, mean=made.mean, std=made.std)

    def module(self) -> LeadingPart:
        """Return the network as a module from normalised pictures to tokens; raises as :meth:`load`."""
        return LeadingPart(frozen_network(self.preparation), blocks=self.blocks).eval()

    def extractor(self, *, dtype: torch.dtype | None = None) -> TokenExtractor:
        """Return what computes and caches the tokens of photos, from the view ``wide``.

        Args:
            dtype: number format of the computation, float32; None for this machine's.

        Returns:
            The extractor; raises as :meth:`load` on first use.
        """
        network = SharedNetwork(self, size=self.preparation.size, dtype=dtype or self.dtype)
        return TokenExtractor(network, "wide")

    def on_pictures(self, model: nn.Module) -> nn.Module:
        """Put the frozen blocks before a model on their tokens.

        Args:
            model: maps tokens (n, count, width) to class scores.

        Returns:
            A module from normalised pictures (n, 3, size, size) to class scores.

        Raises:
            MissingExtraError: timm isn't installed.
            ConfigError: the file is missing or damaged.
        """
        return nn.Sequential(self.module(), model).eval()
