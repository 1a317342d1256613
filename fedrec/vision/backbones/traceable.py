"""Frozen networks as modules that torch can export: maps instead of pooled features, all in float32."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from fedrec.vision.backbones.one_picture import Colours

Maps = tuple[tuple[Tensor, ...], ...]
"""For each layer of a network, in order, its parts: float32 maps (n, channels, height, width) or vectors.

A layer's feature vector is made of its parts side by side: the mean of a map over its positions, or, where
the layer is as long as all values of the map, the values themselves.
"""


@runtime_checkable
class Traceable(Protocol):
    """A backbone whose network torch can export."""

    def traceable(self, *, size: int) -> nn.Module:
        """Load the network as a module.

        Args:
            size: side of the pictures in pixels.

        Returns:
            A module from pictures, uint8 (n, size, size, 3), to :data:`Maps`.
        """
        ...


@runtime_checkable
class GraphFile(Protocol):
    """A backbone that may be a graph already, which becomes a part of an exported graph as it is."""

    @property
    def is_graph(self) -> bool:
        """Whether it is one; reads no file."""
        ...

    def graph(self) -> bytes:
        """Return the ONNX file's content; ``ConfigError`` where it is damaged, or the network is no graph."""
        ...

    @property
    def colours(self) -> tuple[Colours, Colours]:
        """What is subtracted from the colours of pixels in 0 to 1, and what the rest is divided by."""
        ...
