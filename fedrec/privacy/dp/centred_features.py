"""Compute the features that a model centres: its inputs, or what its layers make of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.evaluation_mode import evaluation_mode
from fedrec.privacy.dp.failing_records import FailingRecords, in_halves
from fedrec.privacy.dp.full_precision import full_float32
from fedrec.privacy.dp.place_check import features_are_alike
from fedrec.vision.models.centred_head import CentredHead, Centring

_PASS: Final = 16
"""Views per pass. Each pass has as many, so that a record's features don't depend on others' number, nor on
its place: where kernels compute a view otherwise in another place, each has a pass of its own."""


def centred_features(model: nn.Module, inputs: Tensor, *, chosen: Tensor | None = None) -> Tensor:
    """Return what the model's layer :class:`Centring` is given, for each view of each record.

    Args:
        model: a model with one such layer; it is left as it was.
        inputs: (n, V, ...), V views per record; n may be 0.
        chosen: positions of the records to take, int64; None for all.

    Returns:
        (n, V, d), n being the number of records taken; NaN for a view on which the model fails.

    Raises:
        ConfigError: the model has no or several such layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Centring)]
    if len(layers) != 1:
        raise ConfigError(f"{type(model).__name__} has {len(layers)} layers that centre features, not one")
    if isinstance(model, CentredHead):
        return inputs if chosen is None else inputs[chosen]
    mean = layers[0].mean
    device, size, records = mean.device, mean.numel(), len(inputs) if chosen is None else len(chosen)
    if not records:
        return mean.new_zeros(0, 1, size)
    views = inputs.shape[1]
    if chosen is None:
        chosen = torch.arange(records, device=inputs.device)
    rows: list[Tensor] = []
    handle = layers[0].register_forward_pre_hook(lambda layer, given: rows.append(given[0].detach()))

    def features(part: Tensor) -> Tensor:
        # A pass that failed may have left its rows.
        rows.clear()
        model(part.to(device))
        return rows.pop()

    def of_part(part: Tensor, size_of_pass: int) -> Tensor:
        def of_some(places: Sequence[int]) -> Tensor:
            some = part[list(places)]
            padded = torch.cat([some, some[:1].expand(size_of_pass - len(some), *some.shape[1:])])
            return features(padded)[: len(some)]

        rows_of_part = mean.new_full((len(part), size), torch.nan)
        for places, made in in_halves(range(len(part)), of_some, failed=failing.add):
            rows_of_part[list(places)] = made
        return rows_of_part

    failing = FailingRecords()
    found: list[Tensor] = []
    try:
        with evaluation_mode(model), full_float32(device), torch.no_grad():
            # It raises what a pass of any views raises, so that what fails below fails by its own values.
            size_of_pass = _PASS if features_are_alike(features, inputs, _PASS) else 1
            for start in range(0, records * views, size_of_pass):
                # Taken out pass by pass: inputs that are mapped from disk don't take memory together.
                place = torch.arange(start, min(start + size_of_pass, records * views), device=chosen.device)
                found.append(of_part(inputs[chosen[place // views], place % views], size_of_pass))
    finally:
        handle.remove()
    failing.log()
    return torch.cat(found).reshape(records, views, size)
