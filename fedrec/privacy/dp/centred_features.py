"""Compute the features that a model centres: its inputs, or what its layers make of pictures."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.full_precision import full_float32
from fedrec.vision.models.centred_head import CentredHead, Centring

_PASS: Final = 16
"""Views per pass. Each pass has as many, so that a record's features don't depend on others' number."""


def centred_features(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return what the model's layer :class:`Centring` is given, for each view of each record.

    Args:
        model: a model with one such layer; it is left as it was.
        inputs: (n, V, ...), V views per record; n may be 0.

    Returns:
        (n, V, d).

    Raises:
        ConfigError: the model has no or several such layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Centring)]
    if len(layers) != 1:
        raise ConfigError(f"{type(model).__name__} has {len(layers)} layers that centre features, not one")
    if isinstance(model, CentredHead):
        return inputs
    device, size = layers[0].mean.device, layers[0].mean.numel()
    if not len(inputs):
        return inputs.new_zeros(0, 1, size)
    pictures = inputs.flatten(0, 1)
    rows: list[Tensor] = []
    handle = layers[0].register_forward_pre_hook(lambda layer, given: rows.append(given[0].detach()))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with full_float32(device), torch.no_grad():
            for start in range(0, len(pictures), _PASS):
                part = pictures[start : start + _PASS]
                padded = torch.cat([part, part[:1].expand(_PASS - len(part), *part.shape[1:])])
                model(padded.to(device))
                rows[-1] = rows[-1][: len(part)]
    finally:
        handle.remove()
        for module, training in modes:
            module.training = training
    return torch.cat(rows).reshape(*inputs.shape[:2], size)
