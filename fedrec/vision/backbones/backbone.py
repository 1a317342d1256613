"""What a frozen network is to this package: a name, layers of known lengths, and weights of a known hash."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.backbones.fixed_views import fixed_view, view_id
from fedrec.vision.backbones.view_names import FixedView


class Network(Protocol):
    """A network that is loaded for pictures of one size."""

    @property
    def batch(self) -> int:
        """Pictures per call that a CPU computes fastest."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Compute each layer's features (n, length) of pictures (n, size, size, 3)."""
        ...


class Backbone(Protocol):
    """A frozen network by name; making one loads no weights."""

    @property
    def name(self) -> str:
        """Name of the network; with the hash of its weights it identifies the features."""
        ...

    @property
    def layers(self) -> Mapping[str, int]:
        """Length of each layer's feature vector."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number format in which this machine computes its features."""
        ...

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless what it needs is installed, ``ConfigError`` if it is damaged."""
        ...

    def weights_hash(self) -> str:
        """Return the SHA-256 of its weights, hexadecimal; raise ``ConfigError`` if they are damaged."""
        ...

    def load(self, *, size: int, dtype: torch.dtype) -> Network:
        """Load the network.

        Args:
            size: side of the pictures in pixels.
            dtype: number format of the computation.

        Returns:
            The network.
        """
        ...


class SharedNetwork:
    """One network for all extractors of its size, loaded by the first that computes something.

    With all features in the cache it is never loaded.
    """

    def __init__(self, backbone: Backbone, *, size: int, dtype: torch.dtype) -> None:
        self.backbone = backbone
        self.size = size
        self.dtype = dtype
        self.weights_hash = backbone.weights_hash()
        self._lock = threading.Lock()
        self._network: Network | None = None

    def get(self) -> Network:
        """Return the network; threads that ask while it is loaded wait for it."""
        with self._lock:
            if self._network is None:
                self._network = self.backbone.load(size=self.size, dtype=self.dtype)
            return self._network


class ViewExtractor:
    """All layers of a network for one fixed view: one file of the feature cache.

    Every layer's features are brought to Euclidean length 1, and the layers stand side by side.

    Attributes:
        name: of the network.
        weights_hash: SHA-256 of its weights, hexadecimal.
        dtype: number format of the computation.
        preparation: name of the view and of the code that makes it.
        image_size: side of the pictures in pixels.
        dimension: length of a feature vector, all layers together.
    """

    def __init__(self, network: SharedNetwork, view: FixedView) -> None:
        self.name = network.backbone.name
        self.weights_hash = network.weights_hash
        self.dtype = str(network.dtype).removeprefix("torch.")
        self.preparation = view_id(view)
        self.image_size = network.size
        self.dimension = sum(network.backbone.layers.values())
        self._shared = network
        self._view: FixedView = view

    @property
    def batch(self) -> int:
        """Pictures per call."""
        return self._shared.get().batch

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Make the network's picture of a photo, uint8 (image_size, image_size, 3)."""
        return fixed_view(image, self._view, size=self.image_size)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features of pictures.

        Args:
            images: uint8 (n, image_size, image_size, 3).

        Returns:
            float32 (n, dimension).

        Raises:
            ConfigError: the pictures have another shape or type, or the weights are damaged.
        """
        size = self.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ConfigError(
                f"{self.name} takes uint8 pictures (n, {size}, {size}, 3), "
                f"but was given {images.dtype} {images.shape}"
            )
        if not len(images):
            return np.zeros((0, self.dimension), dtype=np.float32)
        layers = self._shared.get()(images)
        return np.concatenate([self.scaled(layers[name]) for name in self._shared.backbone.layers], axis=1)

    def scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a layer's features (n, length) to the lengths that are kept: here, 1."""
        return unit(features)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring vectors (..., d) to Euclidean length 1; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled


def layer_slice(backbone: Backbone, layer: str) -> slice:
    """Return where a layer stands in the features of a :class:`ViewExtractor`.

    Args:
        backbone: the network.
        layer: name of one of its layers.

    Returns:
        The slice of the last axis.

    Raises:
        ConfigError: the network has no such layer.
    """
    start = 0
    for name, length in backbone.layers.items():
        if name == layer:
            return slice(start, start + length)
        start += length
    raise ConfigError(f"{backbone.name} has no layer {layer!r}; choose one of {', '.join(backbone.layers)}")
