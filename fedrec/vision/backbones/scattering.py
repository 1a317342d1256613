"""Scattering coefficients of small grey pictures: a network that nobody trained.

Wavelets at two scales and eight angles, moduli and averages (Bruna and Mallat 2013, "Invariant Scattering
Convolution Networks"), by kymatio. With them a linear head does better than a network trained under the same
noise (Tramer and Boneh 2021). Coefficients are normalised in groups within each picture, and scaled by the
statistics of dead-leaves pictures.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec._internal.extras import require_packages
from fedrec.errors import ConfigError
from fedrec.vision.backbones.dead_leaves import dead_leaves
from fedrec.vision.backbones.kronecker_scaling import KroneckerScaling
from fedrec.vision.backbones.scattering_maps import ScatteringMaps

_SCALES: Final = 2
_ANGLES: Final = 8
_CHANNELS: Final = 1 + _SCALES * _ANGLES + _ANGLES**2
"""One average, a modulus for each scale and angle, and one for each pair of angles of the two scales."""
_GROUPS: Final = 27
_PUBLIC_PICTURES: Final = 2000
_PUBLIC_SEED: Final = 0
_BATCH: Final = 32
_LUMINANCE: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601; grey pictures keep their values."""
_VERSION: Final = "1"


@dataclass(frozen=True)
class Scattering:
    """Scattering coefficients of pictures of one size.

    Attributes:
        size: side in pixels, a multiple of 4.
    """

    size: int

    @property
    def name(self) -> str:
        """Name of the features."""
        return "scattering"

    @property
    def layers(self) -> Mapping[str, int]:
        """Length of the feature vector."""
        return {"final": _CHANNELS * (self.size // 2**_SCALES) ** 2}

    @property
    def dtype(self) -> torch.dtype:
        """float32, also where the processor multiplies bfloat16: coefficients are differences of averages."""
        return torch.float32

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless kymatio is installed."""
        require_packages("kymatio", extra="pretrained", purpose="scattering")

    def weights_hash(self) -> str:
        """Return a hash of all constants that determine the coefficients; there are no weights."""
        constants = (_VERSION, _SCALES, _ANGLES, _GROUPS, _PUBLIC_PICTURES, _PUBLIC_SEED, self.size)
        return hashlib.sha256(repr(constants).encode("ascii")).hexdigest()

    def load(self, *, size: int, dtype: torch.dtype) -> ScatteringNetwork:
        """Compute wavelets and the public scaling, which takes some seconds.

        Args:
            size: side of the pictures in pixels.
            dtype: number format of the computation, float32.

        Returns:
            The network.

        Raises:
            MissingExtraError: kymatio is not installed.
            ConfigError: size or number format is another.
        """
        self.check()
        if size != self.size or dtype != self.dtype:
            raise ConfigError(
                f"these scattering coefficients are of {self.size} pixels in float32, not {size} in {dtype}"
            )
        return ScatteringNetwork(size)

    def traceable(self, *, size: int) -> ScatteringMaps:
        """Load the network as a module that torch can export; raises as :meth:`load`."""
        return self.load(size=size, dtype=self.dtype).maps()


class ScatteringNetwork:
    """Scattering, normalisation and scaling for pictures of one size.

    Args:
        size: side in pixels.

    Attributes:
        batch: pictures per call.
    """

    def __init__(self, size: int) -> None:
        frontend = importlib.import_module("kymatio.scattering2d.frontend.torch_frontend")
        self.batch = _BATCH
        self._transform = frontend.ScatteringTorch2D(J=_SCALES, shape=(size, size), L=_ANGLES)
        pictures = dead_leaves(_PUBLIC_PICTURES, size=size, seed=_PUBLIC_SEED).astype(np.float32)
        parts = [self._normalised(pictures[i : i + _BATCH]) for i in range(0, len(pictures), _BATCH)]
        self._scaling = KroneckerScaling.of(np.concatenate(parts))

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Compute scaled coefficients of the pictures' luminance.

        Args:
            images: uint8 (n, size, size, 3).

        Returns:
            float32 (n, length) by the layer's name.
        """
        maps = self._scaling(self._normalised(images.astype(np.float32) @ _LUMINANCE))
        return {"final": maps.reshape(len(maps), -1)}

    def maps(self) -> ScatteringMaps:
        """Return the same function as a module from uint8 pictures to maps."""
        return ScatteringMaps(self._transform, self._scaling, groups=_GROUPS, luminance=_LUMINANCE)

    def _normalised(self, grey: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return coefficients (n, channels, positions) of pictures (n, size, size), with values 0 to 255.

        Three channels at a time have mean 0 and variance 1 in each picture: coefficients of other scales are
        orders of magnitude smaller.
        """
        with torch.inference_mode():
            coefficients = self._transform(torch.from_numpy(grey / np.float32(255)))
            normalised = torch.nn.functional.group_norm(coefficients, _GROUPS)
            found: NDArray[np.float32] = normalised.flatten(2).numpy()
            return found
