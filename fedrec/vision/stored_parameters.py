"""Read a trained network's parameters from the file that a training leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from fedrec._internal.files import open_regular
from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec

PARAMETERS: Final = "model.safetensors"
"""The file's name in a run's folder, and in a training's on the server."""


def load_network(spec: ModelSpec, folder: Path, *, classes: int, shape: InputShape) -> nn.Module:
    """Rebuild a trained network.

    Args:
        spec: its model.
        folder: of the run or training.
        classes: number of classes.
        shape: of its pictures.

    Returns:
        The network, in evaluation mode.

    Raises:
        ConfigError: the file is missing or damaged, or is of another network.
    """
    network = spec.build(classes=classes, channels=shape.channels, size=shape.size, seed=0)
    load_parameters(network, folder)
    return network.eval()


def load_parameters(network: nn.Module, folder: Path) -> None:
    """Fill a network's trainable parameters from a training's file.

    Args:
        network: the network, changed in place.
        folder: of the run or training.

    Raises:
        ConfigError: the file is missing or damaged, its layers differ from the network's, or a number in it
            isn't finite.
    """
    path = folder / PARAMETERS
    try:
        with open_regular(path):
            values = load_file(path)
    # safetensors raises different errors for different damage.
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as a trained model: {one_line(error)}") from None
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if {name: tuple(value.shape) for name, value in values.items()} != {
        name: tuple(parameter.shape) for name, parameter in wanted.items()
    }:
        raise ConfigError(f"{path} is of a model with other layers")
    if not all(np.isfinite(value).all() for value in values.values()):
        raise ConfigError(f"{path} holds numbers that are not finite")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(torch.from_numpy(values[name].astype(np.float32)))
