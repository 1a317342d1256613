"""Check that a sum of gradients has parts of all layers."""

from __future__ import annotations

import numpy as np
from torch import nn


def assert_each_layer_takes_part(model: nn.Module, gradients: np.ndarray) -> None:
    """None of the trained layers could be wrong unseen; the released mean has no gradient."""
    start = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "mean" not in name:
            assert np.abs(gradients[start : start + parameter.numel()]).max() > 1e-4, name
        start += parameter.numel() * parameter.requires_grad
