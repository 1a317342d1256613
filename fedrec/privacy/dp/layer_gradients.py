"""Compute per-record gradients of single layers, from a layer's inputs and the gradients of its outputs.

Which of the forms of :mod:`gradient_forms` a layer's gradients take depends on shapes only, never on the
data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.privacy.dp.gradient_forms import (
    GradientList,
    GradientMatrix,
    LayerGradients,
    OuterProduct,
    OuterProducts,
    ParameterGradients,
)
from fedrec.vision.models.centred_head import Centring
from fedrec.vision.models.layers import WSConv2d

# With fewer multiplications per record, one kernel call per record costs more time than it saves.
_MIN_CALL_SIZE = 1_000_000
# Up to this many positions, two matrix products in float64 are faster than reading and writing gradients.
_MAX_OUTER_POSITIONS = 32
# A weight with so many times more outputs than inputs, as a low-rank change has, is faster as its transpose.
_NARROW = 8


def _per_record(rows: Tensor, views: int) -> Tensor:
    """Sum the rows of each record's views: (n * views, ...) to (n, size)."""
    flat = rows.reshape(-1, views, rows[0].numel())
    return flat[:, 0] if views == 1 else flat.sum(dim=1)


def _linear(layer: nn.Linear, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    positions = views * inputs[0].numel() // inputs.shape[-1]
    a = inputs.reshape(-1, positions, inputs.shape[-1])
    g = gradient.reshape(-1, positions, gradient.shape[-1])
    parts: list[LayerGradients] = []
    if layer.weight.requires_grad:
        if positions <= _MAX_OUTER_POSITIONS:
            parts.append(_outer_products(g, a))
        else:
            parts.append(GradientMatrix(_summed_products(g, a).flatten(1)))
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(GradientMatrix(g.sum(dim=1)))
    return ParameterGradients(parts)


def _outer_products(g: Tensor, a: Tensor) -> LayerGradients:
    """Return gradients g_t a_t^T at each record's positions: (m, T, out) and (m, T, in)."""
    if g.shape[1] == 1:
        return OuterProduct(g[:, 0], a[:, 0])
    return OuterProducts(g.double(), a.double())


def _summed_products(g: Tensor, a: Tensor) -> Tensor:
    """Sum g_t a_t^T over each record's positions: (m, T, out) and (m, T, in) to (m, out, in)."""
    if _NARROW * a.shape[2] <= g.shape[2]:
        return torch.bmm(a.transpose(1, 2), g).transpose(1, 2)
    return torch.bmm(g.transpose(1, 2), a)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return the input patch of each output position of a convolution: (m, in * kh * kw, positions)."""
    return F.unfold(
        inputs,
        layer.kernel_size,
        dilation=layer.dilation,
        padding=_pair(layer.padding),
        stride=layer.stride,
    )


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(padding, str):
        raise TypeError("a convolution with named padding is not covered")
    return padding


def _weight_of_one(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Compute a convolution's weight gradient for one record (a batch of its views) by torch's kernel."""
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        layer.weight.detach(),
        None,
        layer.stride,
        _pair(layer.padding),
        layer.dilation,
        False,
        [0, 0],
        layer.groups,
        [False, True, False],
    )
    return gradients[1]


def _convolution(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[LayerGradients] = []
    flat = gradient.flatten(2)
    if layer.weight.requires_grad:
        parts.append(_convolution_weight(layer, inputs, gradient, views))
        if isinstance(layer, WSConv2d):
            parts[-1] = _of_raw_weight(layer, parts[-1])
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(GradientMatrix(_per_record(flat.sum(dim=2), views)))
    return ParameterGradients(parts)


def _convolution_weight(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    size = layer.weight.numel()
    positions = views * gradient[0, 0].numel()
    if positions <= _MAX_OUTER_POSITIONS and not isinstance(layer, WSConv2d):
        # (n * V, k, T) to (n, V * T, k): the positions of all of a record's views.
        a = _patches(layer, inputs).transpose(1, 2)
        g = gradient.flatten(2).transpose(1, 2)
        return _outer_products(g.reshape(-1, positions, g.shape[2]), a.reshape(-1, positions, a.shape[2]))
    if inputs.device.type == "cpu" and size * positions >= _MIN_CALL_SIZE:
        pairs = zip(torch.split(inputs, views), torch.split(gradient, views), strict=True)
        return GradientList([_weight_of_one(layer, a, g) for a, g in pairs])
    products = torch.bmm(gradient.flatten(2), _patches(layer, inputs).transpose(1, 2))
    return GradientMatrix(_per_record(products, views))


def _of_raw_weight(layer: WSConv2d, part: LayerGradients) -> LayerGradients:
    """Convert gradients of a standardised weight v = (w - mean) / s to gradients of w, record by record.

    By the chain rule the gradient is (g - mean(g) - v mean(g v)) / s for each output channel (weight
    standardisation: Qiao et al. 2019). Both norms and sums are computed from the converted values.

    Args:
        layer: the layer with the raw weight w.
        part: gradients of v.

    Returns:
        Gradients of w, in the same representation.

    Raises:
        TypeError: the gradients are outer products.
    """
    deviation, weight = layer.deviation().flatten(1), layer.standardised().flatten(1)

    def raw(gradients: Tensor) -> Tensor:
        by_channel = gradients.reshape(*gradients.shape[:-1], *weight.shape)
        slope = (by_channel * weight).mean(dim=-1, keepdim=True)
        centred = by_channel - by_channel.mean(dim=-1, keepdim=True)
        return ((centred - weight * slope) / deviation).flatten(-2)

    if isinstance(part, GradientMatrix):
        return GradientMatrix(raw(part.gradients))
    if isinstance(part, GradientList):
        return GradientList([raw(one.reshape(-1)) for one in part.gradients])
    raise TypeError("gradients of a standardised weight must be computed for each record")


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[LayerGradients] = []
    if layer.weight.requires_grad:
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        parts.append(GradientMatrix(_per_record((gradient * normalised).flatten(2).sum(dim=2), views)))
    if layer.bias.requires_grad:
        parts.append(GradientMatrix(_per_record(gradient.flatten(2).sum(dim=2), views)))
    return ParameterGradients(parts)


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    size = math.prod(layer.normalized_shape)
    records = inputs.shape[0] // views
    parts: list[LayerGradients] = []
    if layer.weight is not None and layer.weight.requires_grad:
        normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        # The positions of all of a record's views, each of the normalised shape.
        parts.append(GradientMatrix((gradient * normalised).reshape(records, -1, size).sum(dim=1)))
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(GradientMatrix(gradient.reshape(records, -1, size).sum(dim=1)))
    return ParameterGradients(parts)


def gradients_of(layer: nn.Module, inputs: Tensor, gradient: Tensor, *, views: int) -> LayerGradients:
    """Compute a covered layer's per-record gradients.

    Args:
        layer: the layer; :func:`is_covered` must hold for it.
        inputs: (n * views, ...), the layer's input; the views of a record are adjacent.
        gradient: (n * views, ...), gradient of the loss with respect to the layer's output.
        views: V, views per record.

    Returns:
        The gradients of the layer's trainable parameters, in the layer's order.

    Raises:
        TypeError: the layer isn't covered.
    """
    if isinstance(layer, nn.Linear):
        return _linear(layer, inputs, gradient, views)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, inputs, gradient, views)
    if isinstance(layer, nn.GroupNorm):
        return _group_norm(layer, inputs, gradient, views)
    if isinstance(layer, nn.LayerNorm):
        return _layer_norm(layer, inputs, gradient, views)
    if isinstance(layer, Centring):
        # No gradient reaches the mean.
        return GradientMatrix(gradient.new_zeros(gradient.shape[0] // views, layer.mean.numel()))
    raise TypeError(f"{type(layer).__name__} is not covered")


def is_covered(layer: nn.Module) -> bool:
    """Return whether :func:`gradients_of` can compute this layer's gradients."""
    if isinstance(layer, nn.Conv2d) and type(layer) in (nn.Conv2d, WSConv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, nn.GroupNorm, nn.LayerNorm, Centring)


def values_per_record(layer: nn.Module, output: Tensor, *, views: int) -> int:
    """Estimate how many float32 values :func:`gradients_of` allocates per record.

    Args:
        layer: a covered layer.
        output: (views, ...), the layer's output for one record; only its shape is used.
        views: V, views per record.

    Returns:
        The approximate number of float32 values.
    """
    size = sum(parameter.numel() for parameter in layer.parameters(recurse=False) if parameter.requires_grad)
    if isinstance(layer, nn.Linear):
        return 0 if views * output[0].numel() // output.shape[-1] <= _MAX_OUTER_POSITIONS else size
    if isinstance(layer, nn.Conv2d):
        positions = views * output[0, 0].numel()
        patches = positions * layer.weight[0].numel()
        if positions <= _MAX_OUTER_POSITIONS and not isinstance(layer, WSConv2d):
            return 2 * patches
        return size if size * positions >= _MIN_CALL_SIZE else size + patches
    return size
