"""Feature sets: a record's vector from several views of it, layers and networks, put together by fixed rules.

Each view's features have unit length. A block is their weighted sum, brought to unit length; a set is its
blocks side by side, each times its weight, the whole brought to unit length. Views and weights are public and
the same for every record, so that a record remains one vector of norm 1 that depends on it alone: the
averaging happens before clipping and costs no privacy budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.vision.backbones.backbone import Backbone, SharedNetwork, ViewExtractor, layer_slice, unit
from fedrec.vision.backbones.view_names import VIEWS, FixedView

Features = NDArray[np.float16] | NDArray[np.float32]
"""As the cache keeps them, or as a network computes them."""

_ROWS: Final = 1024
"""Records that are combined at a time, so that intermediate results stay small."""


class Source(NamedTuple):
    """What is computed and cached once, for whatever sets use it.

    Attributes:
        backbone: name of the network.
        size: side of its pictures in pixels.
        view: the fixed view.
    """

    backbone: str
    size: int
    view: FixedView


@dataclass(frozen=True)
class Block:
    """A weighted sum of one layer's features over fixed views, of unit length.

    Attributes:
        backbone: the network.
        size: side of its pictures in pixels.
        views: weight of each view's features, above 0.
        layer: which of the network's layers.
        weight: length of the block beside the others of its set, above 0.
    """

    backbone: Backbone
    size: int
    views: tuple[tuple[FixedView, float], ...]
    layer: str = "final"
    weight: float = 1.0

    def __post_init__(self) -> None:
        layer_slice(self.backbone, self.layer)
        names = [view for view, _ in self.views]
        if not names or len(set(names)) < len(names) or not set(names) <= set(VIEWS):
            raise ConfigError(f"a block needs different views of {', '.join(VIEWS)}, not {names}")
        if not all(weight > 0 for weight in (self.weight, *(weight for _, weight in self.views))):
            raise ConfigError("the weights of a block and of its views must be above 0")

    @property
    def dimension(self) -> int:
        """Length of the block's vector."""
        return self.backbone.layers[self.layer]

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the block is computed from, one for each view."""
        return tuple(Source(self.backbone.name, self.size, view) for view, _ in self.views)

    def vectors(self, features: Mapping[Source, Features]) -> NDArray[np.float32]:
        """Combine the features of views.

        Args:
            features: (..., all layers) for each of :attr:`sources`.

        Returns:
            float32 (..., dimension), of Euclidean length 1.
        """
        layer = layer_slice(self.backbone, self.layer)
        weighted = [
            np.float32(weight) * unit(features[source][..., layer].astype(np.float32))
            for source, (_, weight) in zip(self.sources, self.views, strict=True)
        ]
        return unit(np.sum(weighted, axis=0))


@dataclass(frozen=True)
class FeatureSet:
    """Blocks side by side, as the input of a linear head; a value, which loads no weights.

    Attributes:
        blocks: at least one.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("a feature set needs at least one block")

    @property
    def dimension(self) -> int:
        """Length of a record's vector."""
        return sum(block.dimension for block in self.blocks)

    @property
    def image_size(self) -> int:
        """Side in pixels of the largest pictures that a network takes."""
        return max(block.size for block in self.blocks)

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless what the networks need is installed.

        Raises ``ConfigError`` if the file of an added network is damaged. Loads no weights.
        """
        for block in self.blocks:
            block.backbone.check()

    def extractors(self, *, dtype: torch.dtype | None = None) -> dict[Source, ViewExtractor]:
        """Return an extractor for each distinct source; networks are loaded on first use.

        Args:
            dtype: number format of the computation; None for this machine's.

        Returns:
            The extractors.

        Raises:
            MissingExtraError: a package is not installed.
            ConfigError: a weights file is damaged.
        """
        networks: dict[tuple[str, int], SharedNetwork] = {}
        found: dict[Source, ViewExtractor] = {}
        for block in self.blocks:
            key = (block.backbone.name, block.size)
            if key not in networks:
                networks[key] = SharedNetwork(
                    block.backbone, size=block.size, dtype=dtype or block.backbone.dtype
                )
            for source in block.sources:
                found.setdefault(source, ViewExtractor(networks[key], source.view))
        return found

    def combine(self, features: Mapping[Source, Features]) -> NDArray[np.float32]:
        """Put the set's vectors together.

        Args:
            features: (n, views, all layers) for each source, views being the augmented ones of a plan.

        Returns:
            float32 (n, views, dimension), of Euclidean length 1.
        """
        count, views = features[self.blocks[0].sources[0]].shape[:2]
        result = np.empty((count, views, self.dimension), dtype=np.float32)
        for start in range(0, count, _ROWS):
            rows = {source: stored[start : start + _ROWS] for source, stored in features.items()}
            parts = [np.float32(block.weight) * block.vectors(rows) for block in self.blocks]
            result[start : start + _ROWS] = self.completed(unit(np.concatenate(parts, axis=-1)))
        return result

    def completed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn blocks side by side (..., all blocks), of length 1, into the set's vectors; here they are."""
        return vectors
