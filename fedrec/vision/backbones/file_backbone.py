"""A network from a file as a backbone, and adding one: its file is checked first, and tried."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedrec._internal.files import write_secret
from fedrec._internal.text import listed, one_line
from fedrec.errors import ConfigError
from fedrec.protocol.schema import sha256_hex
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.backbone_files import Layer, Pictures, Preparation
from fedrec.vision.backbones.feature_sets import Block, FeatureSet
from fedrec.vision.backbones.onnx_files.graph_check import LARGEST_FILE, Graph, check_graph, require_extra
from fedrec.vision.backbones.onnx_files.network import OnnxNetwork, open_session
from fedrec.vision.backbones.onnx_files.trial import Trial, try_network
from fedrec.vision.backbones.view_names import FixedView


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
        require_extra()
        backbone_files.check_file(self.preparation)

    def weights_hash(self) -> str:
        """Hash what a view's features depend on: the file, the layers and the colours' constants.

        Returns:
            SHA-256, hexadecimal.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        backbone_files.check_file(self.preparation)
        kept = self.preparation.model_dump(mode="json", include={"file_sha256", "mean", "std", "layers"})
        return sha256_hex(json.dumps(kept, sort_keys=True).encode())

    def load(self, *, size: int, dtype: torch.dtype) -> OnnxNetwork:
        """Load the network.

        Args:
            size: side of the pictures in pixels, that of the preparation.
            dtype: number format, float32.

        Returns:
            The network.

        Raises:
            MissingExtraError: onnxruntime isn't installed.
            ConfigError: the file is missing or damaged.
        """
        self.check()
        data = backbone_files.network_file(self.name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.preparation.file_sha256:
            raise ConfigError(f"the file of backbone '{self.name}' has changed: remove it, and add it again")
        return OnnxNetwork(
            open_session(data),
            layers=list(self.layers),
            mean=self.preparation.mean,
            std=self.preparation.std,
        )


def feature_set(preparation: Preparation) -> FeatureSet:
    """Return the feature set of an added backbone: its layers side by side, each averaged over the views."""
    backbone = FileBackbone(preparation)
    views: tuple[tuple[FixedView, float], ...] = tuple((view, 1.0) for view in preparation.views)
    blocks = [
        Block(backbone, size=preparation.size, views=views, layer=layer.name) for layer in preparation.layers
    ]
    return FeatureSet(tuple(blocks))


def read_file(path: Path, *, sha256: str | None = None) -> tuple[bytes, Graph]:
    """Read an ONNX file and check its graph, without running anything of it.

    Args:
        path: the file.
        sha256: what its SHA-256 must be; None for any.

    Returns:
        Its content, and what the graph takes and gives.

    Raises:
        ConfigError: the file can't be read, has another hash or isn't allowed; the message says why.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    require_extra()
    shown = one_line(path)
    try:
        if not path.is_file():
            raise ConfigError(f"there is no file {shown}")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{shown} can't be read: {error.strerror}") from None
    if sha256 not in (None, sha256_hex(data)):
        raise ConfigError(f"{shown} has the SHA-256 {sha256_hex(data)}, not the one given by --sha256")
    try:
        return data, check_graph(data)
    except ConfigError as error:
        raise ConfigError(f"{shown} can't be a backbone: {error}") from None


def check_size(graph: Graph, size: int) -> None:
    """Check that a graph takes pictures of a size.

    Args:
        graph: the checked graph.
        size: side of the pictures in pixels.

    Raises:
        ConfigError: it takes pictures of another size alone.
    """
    if graph.input_size not in (None, size):
        raise ConfigError(f"--size: the network takes pictures of {graph.input_size} pixels, not {size}")


def chosen_layers(graph: Graph, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to use.

    Args:
        graph: the checked graph.
        wanted: names of outputs; none for the only one.

    Returns:
        Their names, each once.

    Raises:
        ConfigError: there is no such output, or none is named and there are several.
    """
    if not wanted and len(graph.outputs) == 1:
        return graph.outputs
    shown = listed([one_line(name, most=60) for name in graph.outputs])
    if not wanted:
        raise ConfigError(f"the network has several outputs: name the ones to use by --layer, of {shown}")
    unknown = [name for name in wanted if name not in graph.outputs]
    if unknown or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--layer: choose different outputs of {shown}, not {listed(list(wanted))}")
    return tuple(wanted)


def add_backbone(
    path: Path,
    pictures: Pictures,
    *,
    layers: Sequence[str] = (),
    sha256: str | None = None,
    code: str | None = None,
) -> Preparation:
    """Check an ONNX file, try it, and copy it to the user's data folder.

    Args:
        path: the file.
        pictures: its name, and how photos become its pictures.
        layers: names of the outputs to use; none for the only one.
        sha256: what the file's SHA-256 must be; None for any.
        code: what the backbone's hash must be, as a plan names it; None for any.

    Returns:
        The preparation that was kept.

    Raises:
        ConfigError: the name is taken, a hash is another, or the file can't be read, isn't allowed or can't
            be computed.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    backbone_files.check_new(pictures.name)
    data, graph = read_file(path, sha256=sha256)
    check_size(graph, pictures.size)
    chosen = chosen_layers(graph, layers)
    scratch = backbone_files.new_folder()
    try:
        copy = scratch / backbone_files.NETWORK_FILE
        write_secret(copy, data)
        lengths = try_file(Trial(copy, sha256_hex(data), chosen, pictures.size, pictures.mean, pictures.std))
        preparation = Preparation(
            **pictures.model_dump(),
            file_sha256=sha256_hex(data),
            file_bytes=len(data),
            layers=tuple(Layer(name=name, length=length) for name, length in lengths.items()),
        )
        if code not in (None, preparation.code):
            raise ConfigError(
                f"--code: with these options this file has the hash {preparation.code}: file, name, size, "
                "mean, std, layers and views must all be those of the plan"
            )
        backbone_files.keep(scratch, preparation)
        return preparation
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def try_file(trial: Trial) -> Mapping[str, int]:
    """Try a checked file as :func:`try_network` does; a ``ConfigError`` says that it can't be a backbone."""
    try:
        return try_network(trial)
    except ConfigError as error:
        raise ConfigError(f"the file can't be a backbone: {error}") from None
