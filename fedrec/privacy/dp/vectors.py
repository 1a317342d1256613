"""Convert a model's trainable parameters to one flat vector and back, in ``named_parameters()`` order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.errors import ConfigError


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """List the trainable parameters in ``named_parameters()`` order, the order of every flat vector."""
    return [parameter for _, parameter in model.named_parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Count the trainable scalars of ``model``: d, the length of every flat vector."""
    return sum(parameter.numel() for parameter in trainable(model))


def count_from_shapes(build: Callable[[], nn.Module]) -> int:
    """Count a model's trainable scalars without allocating memory for them.

    Args:
        build: returns the model; called with torch's meta device, whose tensors have a shape but no data.

    Returns:
        d, the number of trainable scalars.
    """
    with torch.device("meta"):
        return parameter_count(build())


def parameter_vector(model: nn.Module) -> NDArray[np.float64]:
    """Copy the trainable parameters into one float64 vector of shape (d,)."""
    parts = [parameter.detach().reshape(-1).double().cpu().numpy() for parameter in trainable(model)]
    return np.concatenate(parts) if parts else np.zeros(0)


def named_parameters(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copy the trainable parameters into float32 arrays by name, the content of ``model.safetensors``."""
    return {
        name: parameter.detach().float().cpu().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_parameter_vector(model: nn.Module, vector: NDArray[np.float32] | NDArray[np.float64]) -> None:
    """Write a flat vector into the trainable parameters, cast to each parameter's dtype.

    Args:
        model: the model, changed in place.
        vector: float32 or float64 (d,), in ``named_parameters()`` order.

    Raises:
        ConfigError: the vector's shape is not (d,).
    """
    expected = parameter_count(model)
    if vector.shape != (expected,):
        raise ConfigError(
            f"load_parameter_vector: the model has {expected} trainable parameters, "
            f"but the vector has shape {vector.shape}."
        )
    offset = 0
    with torch.no_grad():
        for parameter in trainable(model):
            part = np.array(vector[offset : offset + parameter.numel()])
            parameter.copy_(torch.from_numpy(part).reshape(parameter.shape))
            offset += parameter.numel()
