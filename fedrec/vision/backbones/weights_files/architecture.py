"""Make networks of timm's architectures from the weights of a checked safetensors file.

Nothing is downloaded, and nothing of a file is run: an architecture is code of the installed package, found
by its name, and a file holds numbers. Shapes are compared on torch's meta device, which takes no memory,
before a network is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from fedrec._internal.extras import require_packages
from fedrec._internal.text import counted, listed, one_line
from fedrec.errors import ConfigError
from fedrec.vision.backbones.weights_files.header import FLOATS, StoredTensor, read_header
from fedrec.vision.backbones.weights_files.layers import attention_layers
from fedrec.vision.backbones.weights_files.split import block_count, token_shape

_SHOWN: Final = 3
"""Tensors that a message names."""
LAYER: Final = "final"
"""The only layer: the pooled features before the classifier."""


def require_extra() -> None:
    """Raise ``MissingExtraError`` unless timm is installed; imports nothing."""
    require_packages(
        "timm", extra="fine-tuning", purpose="a network given as architecture and safetensors file"
    )


@dataclass(frozen=True)
class Described:
    """An architecture's network for pictures of one size, without weights.

    Attributes:
        tensors: shape of each parameter and stored buffer, and whether its elements are floats.
        classifiers: names of the layers that score classes, which the network is made without.
        attentions: number of attention layers that can be adapted.
        tokens: count and width of the tokens that enter each block, where the network can be split between
            its blocks; None where it can't.
    """

    tensors: Mapping[str, tuple[tuple[int, ...], bool]]
    classifiers: tuple[str, ...]
    attentions: int
    tokens: tuple[int, int] | None = None

    @property
    def summary(self) -> str:
        """What it has, in a few words."""
        numbers = sum(math.prod(shape) for shape, _ in self.tensors.values())
        adapted = f", {counted(self.attentions, 'attention layer')}" if self.attentions else ""
        return f"{counted(len(self.tensors), 'tensor')} of {numbers:,} numbers{adapted}"


def describe(architecture: str, *, size: int) -> Described:
    """Find the shapes of an architecture's tensors; no memory is taken for them.

    Args:
        architecture: its name, as timm has it.
        size: side of the pictures in pixels.

    Returns:
        The description.

    Raises:
        ConfigError: timm has no such architecture, or none for pictures of this size.
        MissingExtraError: timm isn't installed.
    """
    require_extra()
    import timm

    network = shapes_alone(architecture, size=size)
    config = timm.get_pretrained_cfg(architecture)
    named = None if config is None else config.classifier
    classifiers = (named,) if isinstance(named, str) else tuple(named or ())
    tensors = {
        name: (tuple(value.shape), value.is_floating_point()) for name, value in network.state_dict().items()
    }
    attentions = len(attention_layers(network))
    tokens = token_shape(network, size=size) if block_count(network) else None
    return Described(tensors, classifiers, attentions, tokens)


def shapes_alone(architecture: str, *, size: int) -> nn.Module:
    """Make an architecture's network on torch's meta device, where tensors have shapes and no memory.

    Args:
        architecture: its name, as timm has it.
        size: side of the pictures in pixels.

    Returns:
        The network.

    Raises:
        ConfigError: as for :func:`describe`.
        MissingExtraError: timm isn't installed.
    """
    with torch.device("meta"):
        return _made(architecture, size)


def check_weights(data: bytes, architecture: str, *, size: int) -> Described:
    """Check that a safetensors file holds exactly an architecture's weights, with or without a classifier.

    Args:
        data: the file's content.
        architecture: the architecture's name, as timm has it.
        size: side of the pictures in pixels.

    Returns:
        The architecture's description.

    Raises:
        ConfigError: the file isn't allowed, there is no such architecture, or its tensors are others.
        MissingExtraError: timm isn't installed.
    """
    require_extra()
    stored = read_header(data)
    described = describe(architecture, size=size)
    of_classifier = tuple(f"{name}." for name in described.classifiers)
    missing = [name for name in described.tensors if name not in stored]
    if missing:
        raise ConfigError(f"it lacks {listed(missing, most=_SHOWN)}, which {architecture} has")
    unknown = [
        one_line(name, most=60)
        for name in stored
        if name not in described.tensors and not name.startswith(of_classifier)
    ]
    if unknown:
        raise ConfigError(f"it has {listed(unknown, most=_SHOWN)}, which {architecture} lacks")
    for name, (shape, floats) in described.tensors.items():
        _compare(name, stored[name], shape, floats=floats, what=f"{architecture} at {size} pixels")
    return described


def _compare(name: str, stored: StoredTensor, shape: tuple[int, ...], *, floats: bool, what: str) -> None:
    """Raise ``ConfigError`` unless a stored tensor has the shape and kind of the architecture's."""
    if stored.shape != shape:
        have, want = ("x".join(map(str, sides)) or "a single number" for sides in (stored.shape, shape))
        raise ConfigError(f"{name} is {have}, and that of {what} is {want}: give the --size it was made for")
    if (stored.dtype in FLOATS) != floats:
        raise ConfigError(f"{name} has the element type {stored.dtype}, which {what} can't take")


def load_network(data: bytes, architecture: str, *, size: int) -> nn.Module:
    """Make an architecture's network with a file's weights, frozen, in evaluation mode and in float32.

    Torch's global generator is left as it was.

    Args:
        data: the file's content.
        architecture: the architecture's name, as timm has it.
        size: side of the pictures in pixels.

    Returns:
        The network.

    Raises:
        ConfigError: as for :func:`check_weights`.
        MissingExtraError: timm isn't installed.
    """
    import safetensors.torch

    described = check_weights(data, architecture, size=size)
    with torch.random.fork_rng(devices=[]):
        network = _made(architecture, size)
    loaded = safetensors.torch.load(data)
    kept = {
        name: loaded[name].float() if floats else loaded[name]
        for name, (_, floats) in described.tensors.items()
    }
    network.load_state_dict(kept, strict=True)
    return network.float().eval().requires_grad_(False)


def _made(architecture: str, size: int) -> nn.Module:
    """Make a network with timm's random weights, without a classifier."""
    require_extra()
    import timm

    # The whole name, without the tag of pretrained weights or the place of a download that timm would take.
    if architecture not in timm.list_models(architecture):
        raise ConfigError(
            f"timm has no architecture {one_line(architecture, most=60)!r}; timm.list_models() lists them"
        )
    config = timm.get_pretrained_cfg(architecture)
    sized: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
    try:
        network = timm.create_model(architecture, pretrained=False, num_classes=0, **sized)
    # An architecture's code can raise anything for a size that it can't have.
    except Exception as error:
        raise ConfigError(
            f"timm can't make {architecture} for pictures of {size} pixels: {one_line(error)}"
        ) from None
    return network
