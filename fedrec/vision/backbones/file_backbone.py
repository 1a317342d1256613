"""A network from a file as a backbone, whose features heads are trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from fedrec.errors import ConfigError
from fedrec.protocol.schema import sha256_hex
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.backbone_files import Preparation
from fedrec.vision.backbones.feature_sets import Block, FeatureSet
from fedrec.vision.backbones.one_picture import Colours, OnePictureNetwork
from fedrec.vision.backbones.onnx_files.graph_check import require_extra as require_onnx
from fedrec.vision.backbones.onnx_files.network import OnnxNetwork, open_session
from fedrec.vision.backbones.view_names import FixedView
from fedrec.vision.backbones.weights_files.architecture import load_network, shapes_alone
from fedrec.vision.backbones.weights_files.architecture import require_extra as require_timm
from fedrec.vision.backbones.weights_files.layers import shared_copy
from fedrec.vision.backbones.weights_files.network import WeightsMaps, WeightsNetwork


@dataclass(frozen=True)
class FileBackbone:
    """A network that the user added from a file.

    Attributes:
        preparation: its file's hash, and how pictures become features.
    """

    preparation: Preparation

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.preparation.name

    @property
    def layers(self) -> Mapping[str, int]:
        """Length of each layer's feature vector."""
        return {layer.name: layer.length for layer in self.preparation.layers}

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its features' computation."""
        return torch.float32

    def check(self) -> None:
        """Raise ``MissingExtraError`` or ``ConfigError`` unless it can be loaded."""
        require_onnx() if self.preparation.architecture is None else require_timm()
        backbone_files.check_file(self.preparation)

    def weights_hash(self) -> str:
        """Hash what a view's features depend on: the file, the layers and the colours' constants.

        Returns:
            SHA-256, hexadecimal.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        backbone_files.check_file(self.preparation)
        kept = self.preparation.model_dump(
            mode="json", include={"file_sha256", "mean", "std", "layers", "architecture"}
        )
        return sha256_hex(json.dumps(kept, sort_keys=True).encode())

    def load(self, *, size: int, dtype: torch.dtype) -> OnePictureNetwork:
        """Load the network.

        Args:
            size: side of the pictures in pixels, that of the preparation.
            dtype: number format, float32.

        Returns:
            The network.

        Raises:
            MissingExtraError: onnxruntime or timm isn't installed.
            ConfigError: the file is missing or damaged.
        """
        self.check()
        made = self.preparation
        data = checked_content(made)
        if made.architecture is not None:
            network = load_network(data, made.architecture, size=size)
            return WeightsNetwork(network, mean=made.mean, std=made.std)
        return OnnxNetwork(open_session(data), layers=list(self.layers), mean=made.mean, std=made.std)

    def traceable(self, *, size: int) -> nn.Module:
        """Load the network as a module that torch can export.

        Args:
            size: side of the pictures in pixels, that of the preparation.

        Returns:
            The module.

        Raises:
            MissingExtraError: timm isn't installed.
            ConfigError: the file is missing or damaged, or the network is a graph already.
        """
        made = self.preparation
        if made.architecture is None:
            raise ConfigError(f"backbone '{made.name}' is a graph already")
        self.check()
        return WeightsMaps(
            load_network(checked_content(made), made.architecture, size=size), mean=made.mean, std=made.std
        )

    @property
    def is_graph(self) -> bool:
        """Whether its file is an ONNX graph, not the weights of an architecture."""
        return self.preparation.architecture is None

    def graph(self) -> bytes:
        """Return the ONNX file's content.

        Returns:
            The content.

        Raises:
            ConfigError: the file is damaged, or holds weights.
            MissingExtraError: onnx or onnxruntime isn't installed.
        """
        if not self.is_graph:
            raise ConfigError(f"backbone '{self.name}' is no graph")
        self.check()
        return checked_content(self.preparation)

    @property
    def colours(self) -> tuple[Colours, Colours]:
        """What is subtracted from the colours of pixels in 0 to 1, and what the rest is divided by."""
        return self.preparation.mean, self.preparation.std


def checked_content(preparation: Preparation) -> bytes:
    """Read an added backbone's file; ``ConfigError`` if it isn't the one that was added."""
    data = backbone_files.network_file(preparation).read_bytes()
    if hashlib.sha256(data).hexdigest() != preparation.file_sha256:
        raise ConfigError(
            f"the file of backbone '{preparation.name}' has changed: remove it, and add it again"
        )
    return data


def frozen_network(preparation: Preparation) -> nn.Module:
    """Make the frozen network of an added backbone, whose layers the caller may replace.

    A process loads its weights once, and all networks of it share their memory. On torch's meta device there
    are shapes alone, and no file is read.

    Args:
        preparation: the backbone's, with an architecture.

    Returns:
        The network.

    Raises:
        ConfigError: the file is missing or damaged, or the backbone has no architecture.
        MissingExtraError: timm isn't installed.
    """
    if preparation.architecture is None:
        raise ConfigError(f"backbone '{preparation.name}' is a graph, which can't be fine-tuned")
    if torch.get_default_device().type == "meta":
        return shapes_alone(preparation.architecture, size=preparation.size)
    require_timm()
    backbone_files.check_file(preparation)
    return shared_copy(_loaded(preparation.canonical_bytes(), preparation.architecture))


@lru_cache(maxsize=1)
def _loaded(encoded: bytes, architecture: str) -> nn.Module:
    preparation = Preparation.model_validate_json(encoded)
    return load_network(checked_content(preparation), architecture, size=preparation.size)


def feature_set(preparation: Preparation) -> FeatureSet:
    """Return the feature set of an added backbone: its layers side by side, each averaged over the views."""
    backbone = FileBackbone(preparation)
    views: tuple[tuple[FixedView, float], ...] = tuple((view, 1.0) for view in preparation.views)
    blocks = [
        Block(backbone, size=preparation.size, views=views, layer=layer.name) for layer in preparation.layers
    ]
    return FeatureSet(tuple(blocks))
