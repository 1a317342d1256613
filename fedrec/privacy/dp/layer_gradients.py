"""Compute per-record gradients of single layers, from a layer's inputs and the gradients of its outputs.

There are three representations: outer products that are not computed record by record (``_OuterProducts``),
one matrix of all records' gradients (``GradientMatrix``), and one tensor per record (``_GradientList``), for
which torch's convolution kernel is fastest. Each computes norms and weighted sums from the same float32
values. The choice depends on shapes only, never on the data. Norms and sums are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.vision.models.centred_head import Centring
from fedrec.vision.models.layers import WSConv2d

# With fewer multiplications per record, one kernel call per record costs more time than it saves.
_MIN_CALL_SIZE = 1_000_000
# Up to this many positions, two matrix products in float64 are faster than reading and writing gradients.
_MAX_OUTER_POSITIONS = 32
# From this many values per record, gradients are added one by one, without a float64 copy of all of them.
_MIN_LONG_GRADIENT = 4096
_UNIT_ROUNDOFF = 2.0**-53
# A record whose squared norm is below this part of its largest possible value is computed by itself.
_MIN_CANCELLATION_RATIO = 2.0**-10


class LayerGradients(Protocol):
    """The gradients of one layer for n records."""

    def square_norms(self) -> Tensor:
        """Return each record's squared L2 norm over all of the layer's parameters, float64 (n,).

        It is smaller than the squared norm of the values that :meth:`add_weighted` adds by at most the
        float64 rounding error of a sum of squares.
        """
        ...

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients to the totals.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per trainable parameter, in the layer's order; changed in place.
        """
        ...


@dataclass(frozen=True)
class _OuterProducts:
    """Gradients of a weight as a sum of outer products g_t a_t^T over a record's positions t = 1..T.

    The squared norm is the sum over pairs of positions of (g_t . g_u)(a_t . a_u) (Goodfellow 2015, "Efficient
    Per-Example Gradient Computations", for T = 1; Li et al. 2022, "Large Language Models Can Be Strong
    Differentially Private Learners", for T > 1). Let L = sum over t of |g_t||a_t|, the largest possible norm.
    Rounding changes the squared norm by at most (in + out + T^2 + 2) * 2**-53 * L^2 (Higham 2002, "Accuracy
    and Stability of Numerical Algorithms", section 3.1). Twice this is added, so that the norm is never
    underestimated.

    If the terms cancel so much that the norm is below L / 2**5, this addition would be too large relative to
    the norm, and so would the rounding error of the weighted sum, whose terms have the size of L. The
    gradient of such a record is therefore computed by itself, in float64, and both its norm and its
    contribution are taken from these values. Whether this is done depends on the record alone.

    Attributes:
        outputs: g, float64 (n, T, out), gradients of the layer's output.
        inputs: a, float64 (n, T, in), the layer's input.
    """

    outputs: Tensor
    inputs: Tensor

    def square_norms(self) -> Tensor:
        return self._norms_and_cancelled[0]

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        cancelled = self._norms_and_cancelled[1]
        together = factors.clone()
        together[cancelled] = 0.0
        weighted = (self.outputs * together[:, None, None]).flatten(0, 1)
        totals[0].add_((weighted.T @ self.inputs.flatten(0, 1)).reshape(-1))
        for record in cancelled:
            totals[0].add_(self._gradient(record).reshape(-1), alpha=float(factors[record]))

    @cached_property
    def _norms_and_cancelled(self) -> tuple[Tensor, list[int]]:
        """Squared norms, float64 (n,), and the records whose gradients are computed by themselves."""
        positions = self.inputs.shape[1]
        if positions == 1:
            return self.outputs.square().sum(dim=(1, 2)) * self.inputs.square().sum(dim=(1, 2)), []
        outputs = torch.bmm(self.outputs, self.outputs.transpose(1, 2))
        inputs = torch.bmm(self.inputs, self.inputs.transpose(1, 2))
        lengths = outputs.diagonal(dim1=1, dim2=2) * inputs.diagonal(dim1=1, dim2=2)
        largest = lengths.sqrt().sum(1).square()  # L^2
        error = 2.0 * (self.inputs.shape[2] + self.outputs.shape[2] + positions**2 + 2) * _UNIT_ROUNDOFF
        squares = (outputs * inputs).sum(dim=(1, 2)).clamp(min=0) + error * largest
        cancelled: list[int] = torch.nonzero(squares < _MIN_CANCELLATION_RATIO * largest).flatten().tolist()
        for record in cancelled:
            squares[record] = self._gradient(record).square().sum()
        return squares, cancelled

    def _gradient(self, record: int) -> Tensor:
        return self.outputs[record].T @ self.inputs[record]


@dataclass(frozen=True)
class GradientMatrix:
    """Gradients of one parameter for all records, a matrix (n, size)."""

    gradients: Tensor

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        norms: Tensor = torch.linalg.vector_norm(self.gradients, dim=1, dtype=torch.float64)
        return norms.square()

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        if self.gradients.shape[1] < _MIN_LONG_GRADIENT:
            totals[0].add_(factors @ self.gradients.double())
        else:
            _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class _GradientList:
    """Gradients of one parameter, one tensor per record."""

    gradients: list[Tensor]

    def square_norms(self) -> Tensor:
        norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in self.gradients]
        return torch.stack(norms).square()

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class ParameterGradients:
    """Gradients of several parameters, one part per parameter."""

    parts: list[LayerGradients]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([part.square_norms() for part in self.parts]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        for part, total in zip(self.parts, totals, strict=True):
            part.add_weighted(factors, [total])


@dataclass(frozen=True)
class ModelGradients:
    """Gradients of a whole model: its layers, each with the indices of its parameters in the model's list."""

    layers: list[tuple[list[int], LayerGradients]]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([layer.square_norms() for _, layer in self.layers]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        for indices, layer in self.layers:
            layer.add_weighted(factors, [totals[index] for index in indices])


def _add_each(gradients: Sequence[Tensor] | Tensor, factors: Tensor, total: Tensor) -> None:
    # Torch converts float32 values to float64 before multiplying them, since the total is float64.
    for gradient, factor in zip(gradients, factors.tolist(), strict=True):
        total.add_(gradient.reshape(-1), alpha=factor)


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
            parts.append(_OuterProducts(g.double(), a.double()))
        else:
            parts.append(GradientMatrix(torch.bmm(g.transpose(1, 2), a).flatten(1)))
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(GradientMatrix(g.sum(dim=1)))
    return ParameterGradients(parts)


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
        a = _patches(layer, inputs).double().transpose(1, 2)
        g = gradient.flatten(2).double().transpose(1, 2)
        return _OuterProducts(g.reshape(-1, positions, g.shape[2]), a.reshape(-1, positions, a.shape[2]))
    if inputs.device.type == "cpu" and size * positions >= _MIN_CALL_SIZE:
        pairs = zip(torch.split(inputs, views), torch.split(gradient, views), strict=True)
        return _GradientList([_weight_of_one(layer, a, g) for a, g in pairs])
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
    if isinstance(part, _GradientList):
        return _GradientList([raw(one.reshape(-1)) for one in part.gradients])
    raise TypeError("gradients of a standardised weight must be computed for each record")


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[LayerGradients] = []
    if layer.weight.requires_grad:
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        parts.append(GradientMatrix(_per_record((gradient * normalised).flatten(2).sum(dim=2), views)))
    if layer.bias.requires_grad:
        parts.append(GradientMatrix(_per_record(gradient.flatten(2).sum(dim=2), views)))
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
    if isinstance(layer, Centring):
        # No gradient reaches the mean.
        return GradientMatrix(gradient.new_zeros(gradient.shape[0] // views, layer.mean.numel()))
    raise TypeError(f"{type(layer).__name__} is not covered")


def is_covered(layer: nn.Module) -> bool:
    """Return whether :func:`gradients_of` can compute this layer's gradients."""
    if isinstance(layer, nn.Conv2d) and type(layer) in (nn.Conv2d, WSConv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, nn.GroupNorm, Centring)


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
